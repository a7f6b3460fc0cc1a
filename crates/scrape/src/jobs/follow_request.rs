//! Request to follow a job, the updates that the follower reports during this time, and the end that the follower
//! returns.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::dispatch_result::Job;
use super::failures::failure_log::{FailureLog, FirstFailure};
use super::file_stamp::FileStamp;
use super::inputs::{JobFact, JobFailure};
use super::signals::JobSignal;
use super::state_machine::FollowRules;
use orch_celery::TaskId;
use orch_journal::{JobId, ProgressSource, SiteCounts};

/// Function that returns the prefix of the app's progress keys for a job id; `None` if the prefix is not known.
pub type KeysPrefix<'a> = Box<dyn Fn(&JobId) -> Option<String> + Send + 'a>;

/// Request to follow a job.
pub struct FollowRequest<'a> {
    /// First task of the job: the dispatch task itself, or the first link of a chain to the dispatch task.
    pub root: TaskId,
    /// Task with the result that describes the job.
    pub dispatch: TaskId,
    pub rules: FollowRules,
    pub keys_prefix: KeysPrefix<'a>,
    /// Pool file, and the stamp of the file before the job was published.
    pub pool_file: Option<(PathBuf, Option<FileStamp>)>,
    /// Time without an event after which workers are asked for the tasks of the job; `None` if no caller needs that.
    pub poll_workers_after: Option<Duration>,
    /// Number of pool slots that execute the job's tasks; `None` if all slots do.
    pub slots: Option<u64>,
    /// Time until which a loss in the header of the job's chord ends the job at once, since another attempt follows;
    /// `None`: the job goes on to the end.
    pub ends_at_loss_until: Option<Instant>,
    /// A failed chunk is such a loss too, not only a lost chunk.
    pub ends_at_failure: bool,
    /// Log for the failures of the job's tasks.
    pub failures: FailureLog,
    /// Values that orch itself wrote under the app's key names.
    pub own_key_values: Arc<Mutex<Vec<Option<String>>>>,
}

/// Update that the follower reports while a job is followed.
#[derive(Clone, Debug, PartialEq)]
pub enum JobUpdate {
    Fact(JobFact),
    Progressed {
        counts: SiteCounts,
        source: ProgressSource,
    },
    /// A task failed, the first one with its signature. `chunk` is the place of the task in the header of the job's chord,
    /// 1 for the first.
    TaskFailed {
        failure: FirstFailure,
        chunk: Option<u64>,
    },
    Signal(JobSignal),
}

/// End of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEnd {
    /// First task of the job.
    pub root: TaskId,
    /// Failure of the job; `None` if the job is complete.
    pub failure: Option<JobFailure>,
    pub job: Job,
    pub counts: SiteCounts,
    /// Tasks of a failed job that may still be queued or running, as far as their ids are known.
    pub unfinished: Vec<TaskId>,
}
