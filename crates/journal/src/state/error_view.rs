//! Failed tasks of a site in the snapshot of a run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Failed tasks of a site with one signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorView {
    pub signature: String,
    /// Number of failed tasks; `None` until the site has ended.
    pub count: Option<u64>,
    /// First of the exceptions, `Class: message`.
    pub exception: String,
    /// Id of the first failed task.
    pub task_id: Option<String>,
    /// Log of the worker that executed this task.
    pub log: Option<PathBuf>,
}
