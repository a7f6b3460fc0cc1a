//! The end of a process: exit code or signal.

use serde::{Deserialize, Serialize};

/// The end of a process as reported by `waitid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessExit {
    Code(i32),
    Signal { signal: i32, core_dumped: bool },
}
