//! Values that the kinds of events carry: commands, stages, sources, reasons and levels.

use serde::{Deserialize, Serialize};

use crate::ids::ServiceName;

/// Command that produced the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCommand {
    /// `orch run`, which ends when all sites have ended.
    Run,
    /// `orch up`, which ends on request. Journals of earlier versions have `prepare` for the `orch up` with which
    /// `orch demo` prepares its files.
    #[serde(alias = "prepare")]
    Up,
}

/// Source from which a proxy refresh or a site's job is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowStage {
    /// Waiting for the result of the dispatch task (in a chain: of the dispatcher).
    Dispatch,
    /// Waiting for the result of the chord's callback, by subscription.
    Chord,
    /// Reading the app's progress keys.
    ProgressKeys,
    /// Watching the modification time of the pool file (proxies only).
    FileTime,
    /// Following the events of the task, because the result is ignored.
    TaskEvents,
}

/// Source of progress counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressSource {
    /// Counters of the chord in the result backend.
    Chord,
    /// Progress keys of the app.
    Keys,
    /// Task events of Celery.
    Events,
}

/// Reason of a stop; a later reason replaces an earlier one only when greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The work is done.
    Finished,
    /// A part failed without which the run cannot continue.
    Failure,
    /// Another command asked for the end of the run.
    Requested,
    /// The terminal was closed.
    Hangup,
    /// SIGTERM.
    Terminate,
    /// Ctrl+C.
    Interrupt,
}

/// Severity of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeLevel {
    /// Information that needs no action.
    Info,
    /// Limited, but the run continues.
    Warning,
    /// A person must act.
    Error,
}

/// Planned service; the list is in start order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedService {
    /// Name of the service.
    pub name: ServiceName,
    /// Runs to the end before the dependents start, instead of being kept running.
    pub oneshot: bool,
}
