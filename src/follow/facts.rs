//! The words of following a job: what can be seen of it, and what is told about it.
//!
//! Not here: what follows from them (`machine`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::answer::Job;
use super::inventory::Inventory;
use super::outcome::{HeaderCheck, HeaderLoss};
use crate::celery::TaskId;
use crate::run::{FollowStage, SiteCounts};

/// How a task ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEnd {
    /// With this result.
    Succeeded(Value),
    /// With this exception.
    Failed(String),
    /// Revoked, with this message.
    Revoked(String),
}

/// What an app writes into its `status` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysStatus {
    /// COLLECTING, DISPATCHED, PROCESSING, AGGREGATING, or whatever else is no end.
    Running(String),
    Complete,
    /// FAILED or CANCELLED, as written.
    Failed(String),
}

/// The app's progress keys at one moment; keys that orch wrote itself do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub status: Option<KeysStatus>,
    pub counts: SiteCounts,
}

/// The tasks of the job besides its dispatch task, as far as their events were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub succeeded: u64,
    pub failed: u64,
    /// Received by a worker, and no end was seen.
    pub unfinished: u64,
    /// Tasks of the chord's header whose end was seen, and how many it has; once it is known.
    pub header: Option<(u64, u64)>,
}

/// The tasks that a task's stored result lists as started by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Groups and headers of chords.
    pub groups: Vec<String>,
    /// Members of those groups.
    pub members: Vec<TaskId>,
    /// Tasks of no group.
    pub tasks: Vec<TaskId>,
}

impl Listed {
    pub fn count(&self) -> u64 {
        let count = self.tasks.len() + self.members.len().max(self.groups.len());
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Every task that is listed, of a group or of none.
    pub fn all(&self) -> impl Iterator<Item = &TaskId> {
        self.members.iter().chain(&self.tasks)
    }

    /// The tasks of the one group that was started; `None` where there are several or none.
    pub fn header(&self) -> Option<&[TaskId]> {
        (self.groups.len() == 1).then_some(self.members.as_slice())
    }

    fn is_listed(&self, id: &str) -> bool {
        self.all().any(|task| task.as_str() == id)
    }

    pub fn names_group(&self, id: &str) -> bool {
        self.groups.iter().any(|group| group == id)
    }

    /// Whether `id` can be that of a callback: those are not listed, only what they wait for. The one task that was started
    /// is as good.
    pub fn may_be_callback(&self, id: &str) -> bool {
        !self.names_group(id) && (!self.is_listed(id) || self.count() == 1 && self.groups.is_empty())
    }

    /// Whether all that was started is one group or chord.
    pub fn is_one_group(&self) -> bool {
        self.groups.len() == 1 && self.tasks.is_empty()
    }

    /// Whether `id` is that of a task beside others: its success says nothing of those.
    pub fn is_one_of_several(&self, id: &str) -> bool {
        self.is_listed(id) && self.count() > 1
    }
}

/// What was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The dispatch task's result, and what it lists as started.
    DispatchEnded { end: TaskEnd, listed: Arc<Listed> },
    /// An event tells the dispatch task's end, and no result is stored: it is ignored.
    DispatchEndedUnrecorded(TaskEnd),
    /// The result of the chord's callback.
    CallbackEnded(TaskEnd),
    /// The callback's event names its end, and no result is stored: it is ignored.
    CallbackEndedUnrecorded(TaskEnd),
    /// What the header's tasks had come to when the callback began.
    HeaderChecked(HeaderCheck),
    /// Tasks of the named callback's header that do not succeed, all so far; if `ends_job`, another attempt is to follow at once.
    HeaderLost { loss: HeaderLoss, ends_job: bool },
    /// Results cannot be read at all, for this reason.
    ResultsUnreadable(String),
    /// The progress keys; none of them exists.
    KeysRead(Option<Keys>),
    /// The pool file was written since the job was published.
    FileChanged,
    /// Pool slots of all workers that answer.
    SlotsCounted(u64),
    /// No task of the job is queued, reserved, active, scheduled or unacknowledged; looked twice, everything else that
    /// could be read was read before.
    Gone(Inventory),
    /// All that is left of the job waits in queues that no worker consumes; says which.
    Unconsumed(String),
    /// A deadline may have passed.
    Tick,
}

/// What has become a fact and should be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The dispatch task answered.
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
    /// The callback cannot run any more; if `ends_job`, another attempt follows at once.
    HeaderLost {
        loss: HeaderLoss,
        ends_job: bool,
    },
}

/// Why a job has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It said so: an exception, a revocation, an error in its answer, a status key.
    Told(String),
    /// Nothing of it is left that could ever end.
    Lost(String),
    /// Whether it ended well cannot be known.
    Unknown(String),
    /// Its health was so bad that it was ended.
    Unhealthy { reason: String, may_retry: bool },
    /// The upper bound passed.
    TimedOut(String),
}

impl Failure {
    /// The reason as a person should read it.
    pub fn reason(&self) -> &str {
        match self {
            Self::Told(reason)
            | Self::Lost(reason)
            | Self::Unknown(reason)
            | Self::Unhealthy { reason, may_retry: _ }
            | Self::TimedOut(reason) => reason,
        }
    }
}

impl Keys {
    /// The app says that it is over.
    pub fn ended(&self) -> bool {
        matches!(self.status, Some(KeysStatus::Complete | KeysStatus::Failed(_)))
    }

    /// Fewer chunks are counted than there are.
    pub fn is_behind(&self) -> bool {
        match (self.counts.completed_chunks, self.counts.total_chunks) {
            (Some(done), Some(total)) => done < total,
            _ => false,
        }
    }

    /// There is no status, but every chunk has been counted.
    pub fn all_chunks_done(&self) -> bool {
        match (self.counts.completed_chunks, self.counts.total_chunks) {
            (Some(done), Some(total)) => self.status.is_none() && done >= total,
            _ => false,
        }
    }
}
