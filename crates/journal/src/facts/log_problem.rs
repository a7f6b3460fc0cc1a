//! Problems with the bound of a log, as events name them; the run goes on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Problem that orch found when it cut the head off a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogProblem {
    pub log: PathBuf,
    pub failure: LogFailure,
    pub reason: String,
}

/// Consequence of a problem for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFailure {
    /// The head could not be copied to a piece: the live file grows to the size of the whole bound.
    HeadNotMoved,
    /// The head could not be cut off: the live file grows.
    HeadNotCut,
    /// The file system can only empty the file: lines that are written at that moment are lost.
    LinesAtRisk,
    /// Changes of the log cannot be watched.
    NotWatched,
}
