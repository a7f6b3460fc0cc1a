//! Loss of the state directory, as events state it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Change of a path by which a running instance loses the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathChange {
    Removed,
    /// The path refers to another file or directory.
    Replaced,
}

/// The first path of the state directory that a running instance has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDirectoryLoss {
    pub path: PathBuf,
    pub change: PathChange,
    /// Pid of the orch that uses the directory.
    pub pid: i32,
}
