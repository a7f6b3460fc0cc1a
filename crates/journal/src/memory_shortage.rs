//! Memory shortage for which sites wait.

use serde::{Deserialize, Serialize};

/// Kind of a memory shortage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryShortage {
    /// Less than the reserve is available, in bytes.
    Low { available: u64, reserve: u64 },
    /// Percentage of the last ten seconds in which processes waited for memory.
    Pressed { percent: f64 },
    /// The next site may come to use more than is left, in bytes.
    TooLittle { left: u64 },
}
