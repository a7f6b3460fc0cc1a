//! First failed task of each kind of error in the job of a site or of a proxy refresh.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::SiteName;

/// Way in which a task ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEndKind {
    /// The task raised an exception.
    Raised,
    /// The task was ended because it ran longer than its time limit.
    TimeLimit,
    /// The pool process that executed the task died.
    ProcessLost,
    /// The task was revoked before its end.
    Revoked,
    /// The worker discarded the message of the task, because it had expired.
    Expired,
    /// The worker or the task rejected the message of the task.
    Rejected,
    /// The task returned a value that cannot be stored.
    ResultUnstorable,
    /// The callback of a chord never ran, because a task of the header failed.
    HeaderFailed,
}

/// End of a worker's log before the failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExcerpt {
    pub file: PathBuf,
    /// Lines of the log, oldest first.
    pub lines: Vec<String>,
}

/// Failed task: the first one with its signature in the job of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedTask {
    /// Site of the job; `None`: the job refreshes the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// Number of the attempt, 1 for the first.
    pub attempt: u32,
    /// Exception without numbers, addresses and quoted texts: equal for failures of one kind.
    pub signature: String,
    pub kind: TaskEndKind,
    /// Exception with its message, such as `ValueError: no page 7`.
    pub exception: String,
    /// End of the traceback, as Python prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    pub task_id: String,
    /// Name of the task, such as `shop.tasks.scrape_chunk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Node name of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Place of the task in the header of the job's chord, 1 for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogExcerpt>,
}
