//! Inputs and outputs of following a job: observations of the job, and facts to report.
//!
//! Not here: how facts follow from observations ([`super::state_machine`]).

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::dispatch_result::Job;
use super::inventory::JobInventory;
use super::outcome::{HeaderCheck, HeaderLoss};
use super::progress_keys::ProgressKeyValues;
use orch_celery::TaskId;
use orch_journal::FollowStage;

/// End of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEnd {
    /// Succeeded with this result.
    Succeeded(Value),
    /// Failed with this exception.
    Failed(String),
    /// Revoked, with this message.
    Revoked(String),
}

/// Counts of the job's tasks without the dispatch task, from the events that were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTally {
    pub succeeded: u64,
    pub failed: u64,
    /// Tasks that a worker has received and that have no known end.
    pub unfinished: u64,
    /// Number of ended tasks of the chord's header and size of the header; `None` until the header is known.
    pub header: Option<(u64, u64)>,
}

/// Child tasks that the stored result of a task lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedTasks {
    /// Groups and headers of chords.
    pub groups: Vec<String>,
    /// Members of those groups.
    pub members: Vec<TaskId>,
    /// Tasks that belong to no group.
    pub tasks: Vec<TaskId>,
}

impl ListedTasks {
    pub fn count(&self) -> u64 {
        let count = self.tasks.len() + self.members.len().max(self.groups.len());
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Returns every listed task, in a group or not.
    pub fn all(&self) -> impl Iterator<Item = &TaskId> {
        self.members.iter().chain(&self.tasks)
    }

    /// Returns the tasks of the only group that was started; `None` if there are several groups or none.
    pub fn header(&self) -> Option<&[TaskId]> {
        (self.groups.len() == 1).then_some(self.members.as_slice())
    }

    fn is_listed(&self, id: &str) -> bool {
        self.all().any(|task| task.as_str() == id)
    }

    pub fn names_group(&self, id: &str) -> bool {
        self.groups.iter().any(|group| group == id)
    }

    /// Returns whether `id` can be the id of a callback. A callback is not listed; only the tasks of the header are.
    /// The only task that was started may stand for a callback.
    pub fn may_be_callback(&self, id: &str) -> bool {
        !self.names_group(id) && (!self.is_listed(id) || self.count() == 1 && self.groups.is_empty())
    }

    /// Returns whether one group or chord is all that was started.
    pub fn is_one_group(&self) -> bool {
        self.groups.len() == 1 && self.tasks.is_empty()
    }

    /// Returns whether `id` is one of several listed tasks: the success of this task then says nothing about the other
    /// tasks.
    pub fn is_one_of_several(&self, id: &str) -> bool {
        self.is_listed(id) && self.count() > 1
    }
}

/// Observation of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobInput {
    /// The dispatch task has a result, which lists the tasks that were started.
    DispatchEnded { end: TaskEnd, listed: Arc<ListedTasks> },
    /// An event reports the end of the dispatch task, and no result is stored: the result is ignored.
    DispatchEndedUnrecorded(TaskEnd),
    /// The chord's callback has a result.
    CallbackEnded(TaskEnd),
    /// An event reports the end of the callback, and no result is stored: the result is ignored.
    CallbackEndedUnrecorded(TaskEnd),
    /// The header's tasks were compared with their state when the callback began.
    HeaderChecked(HeaderCheck),
    /// Tasks of the named callback's header will not succeed; `loss` has all of them so far. If `ends_job`, another
    /// attempt follows at once.
    HeaderLost { loss: HeaderLoss, ends_job: bool },
    /// Results cannot be read at all, for this reason.
    ResultsUnreadable(String),
    /// The progress keys were read; `None` if none of them exists.
    KeysRead(Option<ProgressKeyValues>),
    /// The pool file was written since the job was published.
    FileChanged,
    /// Pool slots of all workers that answer were counted.
    SlotsCounted(u64),
    /// No task of the job is queued, reserved, active, scheduled or unacknowledged, at two looks. Everything else that
    /// could be read was read before.
    NothingLeft(JobInventory),
    /// All remaining messages of the job wait in queues that no worker consumes; the text names the queues.
    Unconsumed(String),
    /// A deadline may have passed.
    Tick,
}

/// Fact about a job that is to be reported.
#[derive(Clone, Debug, PartialEq)]
pub enum JobFact {
    /// The dispatch task has returned a job.
    JobStarted {
        job: Job,
        timeout: Duration,
    },
    StageEntered {
        stage: FollowStage,
        reason: String,
    },
    ChordCompleted {
        chord_id: String,
    },
    /// The callback cannot run any more. If `ends_job`, another attempt follows at once.
    HeaderLost {
        loss: HeaderLoss,
        ends_job: bool,
    },
}

/// Failure of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobFailure {
    /// The job reported a failure: an exception, a revocation, an error in the dispatch result, a status key.
    Reported(String),
    /// A part of the job is lost and will never end.
    Lost(String),
    /// Nothing shows whether the job succeeded.
    Unknown(String),
    /// orch ended the job because the health of the job was too bad.
    Unhealthy { reason: String, may_retry: bool },
    /// The deadline passed.
    TimedOut(String),
}

impl JobFailure {
    /// Returns the reason, as text for people.
    pub fn reason(&self) -> &str {
        match self {
            Self::Reported(reason)
            | Self::Lost(reason)
            | Self::Unknown(reason)
            | Self::Unhealthy { reason, may_retry: _ }
            | Self::TimedOut(reason) => reason,
        }
    }
}
