//! What a follower is told to follow, what it tells meanwhile, and what it hands back.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::answer::Job;
use super::facts::{Fact, Failure};
use super::machine::Rules;
use super::pool_stamp::FileStamp;
use super::vitals::Vital;
use crate::celery::TaskId;
use crate::run::{JobId, ProgressSource, SiteCounts};

/// The prefix of the app's progress keys for a job id; `None` when it cannot be told.
pub type KeysPrefix<'a> = Box<dyn Fn(&JobId) -> Option<String> + Send + 'a>;

/// What is to be followed.
pub struct Errand<'a> {
    /// The first task of the job: itself, or the first link of the chain.
    pub root: TaskId,
    /// The task whose result tells the job.
    pub dispatch: TaskId,
    pub rules: Rules,
    pub keys_prefix: KeysPrefix<'a>,
    /// The pool file, and what it was before the job was published.
    pub pool_file: Option<(PathBuf, Option<FileStamp>)>,
    /// So long nothing is heard of the job: workers are asked whether they are at it. `None`: nobody wants to know.
    pub look_after: Option<Duration>,
    /// Pool slots that do the job's tasks, where it is known; else all are taken to.
    pub slots: Option<u64>,
    /// Until then a loss in the header of the job's chord ends the job at once, since another attempt follows; `None`: the job
    /// goes on to its end.
    pub ends_at_loss_until: Option<Instant>,
    /// Whether a chunk that has failed is such a loss, and not only one that is lost.
    pub ends_at_failure: bool,
    /// Values that orch itself wrote under the app's names.
    pub ours: Arc<Mutex<Vec<Option<String>>>>,
}

/// What the follower tells while it follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Fact(Fact),
    Progressed { counts: SiteCounts, source: ProgressSource },
    Vital(Vital),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The first task of the job.
    pub root: TaskId,
    /// `None`: complete.
    pub failure: Option<Failure>,
    pub job: Job,
    pub counts: SiteCounts,
    /// Tasks of a job that has failed which may still be queued or running, as far as their ids are known.
    pub unfinished: Vec<TaskId>,
}
