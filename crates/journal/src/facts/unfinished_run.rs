//! The latest run, if it was cut short.

use serde::{Deserialize, Serialize};

use crate::ids::RunId;

/// End of a run that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunInterruption {
    /// Killed, crashed, or ended with the machine: the journal has no end.
    Died,
    /// Ended by Ctrl+C, SIGTERM or a hangup.
    Interrupted,
    /// Ended by a failure of Redis, of a service, or of another requirement.
    Failed,
}

/// Run that was cut short and has sites left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedRun {
    pub run_id: RunId,
    pub how: RunInterruption,
    /// Time of the last write to its journal, Unix seconds. An event has a time of its own, `at`.
    pub ended_at: u64,
    /// Number of complete sites, including degraded ones.
    pub complete: usize,
    pub sites: usize,
}
