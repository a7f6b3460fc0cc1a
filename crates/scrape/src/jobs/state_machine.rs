//! Stages of following a dispatched job, with the evidence and the deadlines of the job.
//!
//! A fall-back stage serves for an unknown end of the job, never for an unwelcome one: a known failure ends the
//! following at once, and a fact that becomes known late still counts. The state machine keeps the evidence and the
//! stage of waiting; [`judge`](super::outcome::judge) decides the end. Not here: the steps from an observation to the
//! next state ([`super::state_steps`]), how evidence is collected ([`super::driver`]), and what follows from an end
//! ([`crate::proxies`], [`crate::sites`]: retries, counts, exit codes).
//!
//! ```text
//! Dispatch -> Chord -> ProgressKeys -> FileTime (with a pool file)
//!     \          \----------^   ^
//!      \------------------------+-> TaskEvents (no job id, no file)
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auto_timeout::AutoTimeout;
use super::counts::merge_counts;
use super::dispatch_result::Job;
use super::inputs::{JobFailure, ListedTasks};
use super::outcome::{CallbackState, DispatchEnd, HeaderCheck};
use super::progress_keys::{KeysStatus, ProgressKeyValues};
use super::timeout::dynamic_timeout;
use orch_base::text::counted::plural;
use orch_celery::TaskId;
use orch_config::DynamicTimeout;
use orch_journal::{JobId, SiteCounts};

/// Time after which absent progress keys are given up if there is a pool file to watch.
pub(super) const KEYS_GRACE: Duration = Duration::from_secs(30);

/// Constants of one job for the time in which the job is followed.
#[derive(Clone, Debug)]
pub struct FollowRules {
    /// There is a pool file; the modification time of the file shows the end if nothing else does.
    pub pool_file: bool,
    /// An earlier run has published the job.
    pub picked_up: bool,
    /// Job id that orch chose and passed to the task; the task may return another one.
    pub own_job_id: Option<JobId>,
    pub pace: DynamicTimeout,
    /// Hard deadline of the attempt.
    pub deadline: Instant,
    /// Earlier deadline that is computed when more is known; `None` if there is none.
    pub auto_timeout: Option<AutoTimeout>,
}

/// Stage of following a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobStage {
    Dispatch,
    Chord { chord_id: String, since: Instant },
    ProgressKeys { since: Instant },
    FileTime,
    TaskEvents,
    Ended(Result<(), JobFailure>),
}

/// State machine of one job.
#[derive(Clone, Debug)]
pub struct JobStateMachine {
    pub(super) rules: FollowRules,
    pub(super) stage: JobStage,
    pub(super) dispatch: DispatchEnd,
    /// Tasks that the dispatch task's result lists; `None` if no result was stored or read.
    pub(super) listed: Option<Arc<ListedTasks>>,
    pub(super) callback: CallbackState,
    /// The pool file was written since the job was published.
    pub(super) file_changed: bool,
    pub(super) job: Job,
    pub(super) slots: u64,
    pub(super) slots_at_begin: u64,
    /// Time at which the job became known.
    pub(super) known_since: Option<Instant>,
    pub(super) keys: Option<ProgressKeyValues>,
    /// Counts from the callback's result, or from events.
    pub(super) outcome: SiteCounts,
    /// Chunks that no worker will execute any more in this attempt.
    pub(super) lost_chunks: u64,
}

impl JobStateMachine {
    /// Starts with the wait for the dispatch task's result; `slots` is the last known number of pool slots.
    pub fn begin(rules: FollowRules, slots: u64) -> Self {
        let job = Job {
            job_id: rules.own_job_id.clone(),
            ..Job::default()
        };
        let (stage, outcome) = (JobStage::Dispatch, SiteCounts::default());
        Self {
            rules,
            stage,
            dispatch: DispatchEnd::Open,
            listed: None,
            callback: CallbackState::Unnamed,
            file_changed: false,
            job,
            slots,
            slots_at_begin: slots,
            known_since: None,
            keys: None,
            outcome,
            lost_chunks: 0,
        }
    }

    pub fn stage(&self) -> &JobStage {
        &self.stage
    }

    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Returns the callback that the app names, while the end of the callback is not known.
    pub fn named_callback(&self) -> Option<TaskId> {
        self.job.callback().filter(|_| self.callback == CallbackState::Named)
    }

    pub fn deadline(&self) -> Instant {
        let own = self.rules.auto_timeout.and_then(|allowance| {
            let chunks = self.job.counts.total_chunks;
            allowance.deadline(
                &self.rules.pace,
                chunks,
                self.known_since,
                (self.slots, self.slots_at_begin),
            )
        });
        own.map_or(self.rules.deadline, |own| own.min(self.rules.deadline))
    }

    /// Returns all counts that the app and Celery have reported so far, the app's keys first.
    pub fn counts(&self) -> SiteCounts {
        let keys = self.keys.as_ref().map(|keys| keys.counts).unwrap_or_default();
        merge_counts(keys, merge_counts(self.outcome, self.job.counts))
    }

    /// Returns when the input `Tick` would change something, if nothing else happens.
    pub fn next_tick(&self) -> Option<Instant> {
        let own = match &self.stage {
            JobStage::Ended(_) => return None,
            JobStage::Chord { since, .. } => Some(*since + self.chord_timeout(*since)),
            JobStage::ProgressKeys { since } if self.rules.pool_file && self.keys.is_none() => {
                Some(*since + KEYS_GRACE)
            }
            JobStage::Dispatch | JobStage::ProgressKeys { .. } | JobStage::FileTime | JobStage::TaskEvents => None,
        };
        let deadline = self.deadline();
        Some(own.map_or(deadline, |own| own.min(deadline)))
    }

    /// Returns whether the input `HeaderChecked` is awaited.
    pub fn wants_header_check(&self) -> bool {
        self.callback == CallbackState::Succeeded(HeaderCheck::Pending)
    }

    /// Returns whether the callback has succeeded and no header task contradicts: then each of them has ended, even if
    /// some of their events have not arrived yet.
    pub fn is_header_complete(&self) -> bool {
        self.callback == CallbackState::Succeeded(HeaderCheck::Passed)
    }

    /// Returns the number of chunks that no worker will execute any more in this attempt: errors that neither the app
    /// nor Celery counts.
    pub fn lost_chunks(&self) -> u64 {
        self.lost_chunks
    }

    pub(super) fn chord_timeout(&self, since: Instant) -> Duration {
        let left = self.deadline().saturating_duration_since(since);
        // With an allowance, the deadline is the timeout of the chord.
        if self.rules.auto_timeout.is_some() {
            return left;
        }
        dynamic_timeout(&self.rules.pace, self.job.counts.total_chunks, self.slots, left)
    }

    /// Describes the known progress: `, 3 of 10 chunks done, status PROCESSING`.
    pub(super) fn how_far(&self) -> String {
        let counts = self.counts();
        let mut text = match (counts.completed_chunks, counts.total_chunks) {
            (Some(done), Some(total)) => format!(", {done} of {} done", plural(total, "chunk")),
            (None, Some(total)) => format!(", {}", plural(total, "chunk")),
            (Some(done), None) => format!(", {} done", plural(done, "chunk")),
            (None, None) => String::new(),
        };
        if let Some(ProgressKeyValues {
            status: Some(KeysStatus::Running(status)),
            ..
        }) = &self.keys
        {
            text.push_str(&format!(", status {status}"));
        }
        text
    }
}
