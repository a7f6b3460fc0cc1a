//! Processes that dead runs have left, as events name them.

use serde::{Deserialize, Serialize};

use crate::ids::ServiceName;

/// Process that a dead run has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverProcess {
    pub pid: i32,
    /// Service of the dead run.
    pub service: ServiceName,
    /// Reason why a living process has not ended, as the predicate of a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Leftover processes that the start of a run has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverProcesses {
    /// Processes that were ended.
    pub ended: Vec<LeftoverProcess>,
    /// Processes that have survived SIGKILL so far.
    pub alive: Vec<LeftoverProcess>,
}
