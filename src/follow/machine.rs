//! The stages of following a dispatched job, as a pure function of what was seen.
//!
//! A fall-back stage is for not knowing how a job ended, never for not liking the answer: a known failure ends the
//! following at once, and what becomes known late still counts. Not here: how anything is seen (`driver`) and what is
//! done about an end (the proxies' and the sites' parts: retries, counts, exit codes).
//!
//! ```text
//! Dispatch -> Chord -> ProgressKeys -> FileTime (with a pool file)
//!     \          \----------^   ^
//!      \------------------------+-> TaskEvents (no job id, no file)
//! ```

use std::time::{Duration, Instant};

use super::allowance::Allowance;
use super::answer::{DispatchAnswer, Job, callback_counts};
use super::counts::merged;
use super::facts::{Fact, Failure, Input, Keys, KeysStatus, Tally, TaskEnd};
use super::pace::dynamic_timeout;
use crate::celery::TaskId;
use crate::config::Pace;
use crate::run::{FollowStage, JobId, SiteCounts};

/// With a pool file to watch, progress keys that have not appeared after this long are given up.
const KEYS_GRACE: Duration = Duration::from_secs(30);

/// So many lost chunks are named; the rest is counted.
const NAMED: usize = 5;

/// What does not change while one job is followed.
#[derive(Clone, Debug)]
pub struct Rules {
    /// There is a pool file whose modification time tells the end when nothing else does.
    pub pool_file: bool,
    /// An earlier run has published it: that nothing was seen of it does not mean that it went well.
    pub picked_up: bool,
    /// The job id that orch chose and the task was given; the task may name another.
    pub own_job_id: Option<JobId>,
    pub pace: Pace,
    /// The one upper bound over everything.
    pub deadline: Instant,
    /// A lower one that is worked out when more is known; `None`: there is none.
    pub allowance: Option<Allowance>,
}

/// Where the following stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    Dispatch,
    Chord { chord_id: String, since: Instant },
    ProgressKeys { since: Instant },
    FileTime,
    TaskEvents,
    Ended(Result<(), Failure>),
}

/// One job being followed.
#[derive(Clone, Debug)]
pub struct Following {
    rules: Rules,
    stage: Stage,
    answered: bool,
    job: Job,
    /// Tasks that the dispatch task's result lists as its children.
    spawned: u64,
    slots: u64,
    slots_at_begin: u64,
    /// Since when the job is known.
    known_since: Option<Instant>,
    keys: Option<Keys>,
    /// From the callback's result, or from events.
    outcome: SiteCounts,
    /// How many chunks are lost, and which, for people.
    lost_chunks: u64,
    lost: Option<String>,
}

impl Following {
    /// Begins with the wait for the dispatch task's result; `slots` is the last known number of pool slots.
    pub fn begin(rules: Rules, slots: u64) -> Self {
        let job = Job {
            job_id: rules.own_job_id.clone(),
            ..Job::default()
        };
        let (stage, outcome) = (Stage::Dispatch, SiteCounts::default());
        Self {
            rules,
            stage,
            answered: false,
            job,
            spawned: 0,
            slots,
            slots_at_begin: slots,
            known_since: None,
            keys: None,
            outcome,
            lost_chunks: 0,
            lost: None,
        }
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    pub fn job(&self) -> &Job {
        &self.job
    }

    pub fn deadline(&self) -> Instant {
        let own = self.rules.allowance.and_then(|allowance| {
            let chunks = self.job.counts.total_chunks;
            allowance.ends(
                &self.rules.pace,
                chunks,
                self.known_since,
                (self.slots, self.slots_at_begin),
            )
        });
        own.map_or(self.rules.deadline, |own| own.min(self.rules.deadline))
    }

    /// What the app and Celery have told so far, the app's keys first.
    pub fn counts(&self) -> SiteCounts {
        let keys = self.keys.as_ref().map(|keys| keys.counts).unwrap_or_default();
        merged(keys, merged(self.outcome, self.job.counts))
    }

    /// When [`Input::Tick`] would change something, if nothing else happens.
    pub fn next_tick(&self) -> Option<Instant> {
        let own = match &self.stage {
            Stage::Ended(_) => return None,
            Stage::Chord { since, .. } => Some(*since + self.chord_timeout(*since)),
            Stage::ProgressKeys { since } if self.rules.pool_file && self.keys.is_none() => Some(*since + KEYS_GRACE),
            Stage::Dispatch | Stage::ProgressKeys { .. } | Stage::FileTime | Stage::TaskEvents => None,
        };
        let deadline = self.deadline();
        Some(own.map_or(deadline, |own| own.min(deadline)))
    }

    /// Takes one input into account. Every input is handled in every stage; an ended following stays as it is.
    pub fn step(mut self, input: Input, now: Instant) -> (Self, Vec<Fact>) {
        let mut facts = Vec::new();
        if matches!(self.stage, Stage::Ended(_)) {
            return (self, facts);
        }
        match input {
            Input::DispatchEnded { end, spawned, groups } => {
                self.spawned = spawned;
                self.dispatch_ended(end, Some(&groups), now, &mut facts);
            }
            Input::DispatchEndedUnrecorded(end) => self.dispatch_ended(end, None, now, &mut facts),
            Input::CallbackEnded(end) => self.callback_ended(end, true, &mut facts),
            Input::CallbackEndedUnrecorded(end) => self.callback_ended(end, false, &mut facts),
            Input::ResultsUnreadable(reason) => self.results_unreadable(&reason, now, &mut facts),
            Input::KeysRead(keys) => {
                self.keys = keys;
                if matches!(self.stage, Stage::ProgressKeys { .. }) {
                    self.judge_keys();
                }
            }
            Input::FileChanged => {
                if self.stage == Stage::FileTime {
                    self.end(Ok(()));
                }
            }
            Input::SlotsCounted(slots) => self.slots = slots,
            Input::Gone {
                worker_died,
                tally,
                lost,
            } => {
                self.name_lost(&lost);
                self.gone(worker_died, tally, now, &mut facts);
            }
            Input::Tick => self.tick(now, &mut facts),
        }
        (self, facts)
    }

    /// `groups` is `None` when the result was not recorded.
    fn dispatch_ended(&mut self, end: TaskEnd, groups: Option<&[String]>, now: Instant, facts: &mut Vec<Fact>) {
        if self.answered {
            return;
        }
        self.answered = true;
        let result = match end {
            TaskEnd::Succeeded(result) => result,
            TaskEnd::Failed(exception) => return self.told(format!("the dispatch task failed: {exception}")),
            TaskEnd::Revoked(message) => return self.told(format!("the dispatch task was revoked: {message}")),
        };
        match DispatchAnswer::read(&result) {
            DispatchAnswer::Job(mut job) => {
                // An app may take the header's id for the chord's; that one never has a result.
                let of_header =
                    groups.is_some_and(|groups| groups.iter().any(|group| job.chord_id.as_ref() == Some(group)));
                if of_header {
                    job.chord_id = None;
                }
                self.learn(job);
                self.job_started(now, facts);
                match self.job.chord_id.clone() {
                    Some(chord_id) => {
                        let chunks = self
                            .job
                            .counts
                            .total_chunks
                            .map(|chunks| format!(" of {chunks} chunks"));
                        let reason = format!("the job's chord{} runs", chunks.unwrap_or_default());
                        enter(facts, FollowStage::Chord, reason);
                        self.stage = Stage::Chord { chord_id, since: now };
                    }
                    None if of_header => {
                        self.fall_back(
                            "the dispatch result names the chord's header, not its callback",
                            now,
                            facts,
                        );
                    }
                    None => self.fall_back("the dispatch result names no chord", now, facts),
                }
            }
            DispatchAnswer::Nothing(job) => {
                self.learn(job);
                self.job_started(now, facts);
                self.end(Ok(()));
            }
            DispatchAnswer::Complete(job) => {
                self.learn(job);
                self.end(Ok(()));
            }
            DispatchAnswer::Failed { job, error } => {
                self.learn(job);
                self.told(format!("the dispatch task answered with an error: {error}"));
            }
            DispatchAnswer::Unknown(counts) => {
                self.job.counts = merged(counts, self.job.counts);
                if groups.is_none() {
                    self.fall_back("the dispatch task's result is ignored", now, facts);
                } else if self.rules.pool_file {
                    self.fall_back("the refresh's result names no job", now, facts);
                } else if self.spawned > 0 {
                    let tasks = if self.spawned == 1 { "task" } else { "tasks" };
                    let reason = format!(
                        "the dispatch result names no job, but it started {} {tasks}",
                        self.spawned
                    );
                    self.fall_back(&reason, now, facts);
                } else {
                    // The task itself was the whole job.
                    self.end(Ok(()));
                }
            }
        }
    }

    fn callback_ended(&mut self, end: TaskEnd, recorded: bool, facts: &mut Vec<Fact>) {
        let Some(chord_id) = self.job.chord_id.clone() else {
            return;
        };
        match end {
            TaskEnd::Succeeded(result) => {
                facts.push(Fact::ChordCompleted { chord_id });
                if !recorded {
                    enter(
                        facts,
                        FollowStage::TaskEvents,
                        "the callback's result is ignored; its event tells its end",
                    );
                }
                self.outcome = merged(callback_counts(&result), self.outcome);
                // All header tasks have ended, or the callback would not have run.
                self.outcome.completed_chunks = self.outcome.completed_chunks.or(self.job.counts.total_chunks);
                self.end(Ok(()));
            }
            TaskEnd::Failed(exception) => self.told(format!("the chord failed: {exception}")),
            TaskEnd::Revoked(message) => self.told(format!("the chord's callback was revoked: {message}")),
        }
    }

    fn results_unreadable(&mut self, reason: &str, now: Instant, facts: &mut Vec<Fact>) {
        match self.stage {
            Stage::Dispatch | Stage::Chord { .. } => {
                self.fall_back(&format!("results cannot be read: {reason}"), now, facts);
            }
            Stage::ProgressKeys { .. } | Stage::FileTime | Stage::TaskEvents | Stage::Ended(_) => {}
        }
    }

    fn judge_keys(&mut self) {
        match self.keys.as_ref().and_then(|keys| keys.status.clone()) {
            Some(KeysStatus::Complete) => self.end(Ok(())),
            Some(KeysStatus::Failed(status)) => self.told(format!("the job's status key says {status}")),
            Some(KeysStatus::Running(_)) | None => {}
        }
    }

    /// Chunks that nobody will do any more in this attempt: errors that neither the app nor Celery has counted.
    pub fn lost_chunks(&self) -> u64 {
        self.lost_chunks
    }

    fn name_lost(&mut self, lost: &[TaskId]) {
        let Some(size) = self.job.counts.total_chunks else {
            return;
        };
        // A later look finds the same ones.
        if lost.is_empty() || self.lost.is_some() {
            return;
        }
        let count = u64::try_from(lost.len()).unwrap_or(u64::MAX);
        self.lost_chunks = count;
        let named: Vec<&str> = lost.iter().take(NAMED).map(TaskId::as_str).collect();
        let more = match lost.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        self.lost = Some(format!(
            "{count} of its {size} chunks are lost: {}{more}",
            named.join(", ")
        ));
    }

    fn gone(&mut self, worker_died: bool, tally: Tally, now: Instant, facts: &mut Vec<Fact>) {
        let nowhere = if worker_died {
            "not queued, reserved or active, and its worker died"
        } else {
            "not queued, reserved or active"
        };
        match self.stage.clone() {
            Stage::Dispatch if worker_died => self.lost(format!("the dispatch task is lost: {nowhere}")),
            Stage::Dispatch if self.rules.pool_file || self.job.job_id.is_some() => {
                self.fall_back(
                    &format!("the dispatch task has left no result and is {nowhere}"),
                    now,
                    facts,
                );
            }
            Stage::Dispatch => self.lost(format!("the dispatch task has left no result and is {nowhere}")),
            Stage::Chord { .. } if self.keys.as_ref().is_some_and(Keys::ended) => {
                self.fall_back(&format!("the callback has left no result and is {nowhere}"), now, facts);
            }
            Stage::Chord { .. } => {
                let reason = match &self.lost {
                    Some(lost) => format!("the chord can never finish, {lost}; they are {nowhere}"),
                    None => format!("the chord can never finish: its tasks are {nowhere}{}", self.how_far()),
                };
                self.lost(reason);
            }
            Stage::ProgressKeys { .. } => self.gone_by_keys(tally, nowhere, facts),
            Stage::FileTime => {
                self.lost(format!(
                    "the refresh has left the pool file unchanged, and its tasks are {nowhere}"
                ));
            }
            Stage::TaskEvents => self.judge_tally(tally, nowhere),
            Stage::Ended(_) => {}
        }
    }

    /// Nothing of the job is left, and its keys name no end.
    fn gone_by_keys(&mut self, tally: Tally, nowhere: &str, facts: &mut Vec<Fact>) {
        match &self.keys {
            None if self.rules.pool_file => {
                enter(
                    facts,
                    FollowStage::FileTime,
                    format!("there are no progress keys, and the tasks are {nowhere}"),
                );
                self.stage = Stage::FileTime;
            }
            None if self.job.chord_id.is_some() => {
                self.lost(format!(
                    "the callback has left no result and no progress keys, and is {nowhere}"
                ));
            }
            None => self.judge_tally(tally, nowhere),
            Some(keys) if keys.all_chunks_done() && self.job.chord_id.is_none() => self.end(Ok(())),
            Some(_) => self.lost(format!(
                "the job can never finish: its tasks are {nowhere}{}",
                self.how_far()
            )),
        }
    }

    /// Nothing of the job is left, and its events are all there is to judge by.
    fn judge_tally(&mut self, tally: Tally, nowhere: &str) {
        let Tally {
            succeeded,
            failed,
            unfinished,
            header: _,
        } = tally;
        if self.rules.picked_up && succeeded + failed + unfinished == 0 {
            self.lost(format!(
                "nothing is left of the earlier run's job: its tasks are {nowhere}"
            ));
        } else if unfinished > 0 {
            self.lost(format!("{unfinished} of the job's tasks never ended and are {nowhere}"));
        } else if failed > 0 && succeeded == 0 {
            self.told(format!("all {failed} of the job's tasks failed"));
        } else {
            if succeeded + failed > 0 {
                self.outcome.errors = self.outcome.errors.or(Some(failed));
            }
            self.end(Ok(()));
        }
    }

    fn tick(&mut self, now: Instant, facts: &mut Vec<Fact>) {
        if now >= self.deadline() {
            let waited_for = match &self.stage {
                Stage::Dispatch => "the dispatch task has not ended".to_owned(),
                Stage::Chord { .. } => format!("the chord has not ended{}", self.how_far()),
                Stage::ProgressKeys { .. } => format!("the progress keys name no end{}", self.how_far()),
                Stage::FileTime => "the pool file has not changed".to_owned(),
                Stage::TaskEvents => "its tasks have not all ended".to_owned(),
                Stage::Ended(_) => return,
            };
            let allowance = self.rules.allowance;
            let allowed = allowance.map_or_else(String::new, |allowance| allowance.told(self.deadline()));
            return self.end(Err(Failure::TimedOut(format!("out of time{allowed}: {waited_for}"))));
        }
        match self.stage {
            Stage::Chord { since, .. } => {
                let timeout = self.chord_timeout(since);
                if now >= since + timeout {
                    self.fall_back(
                        &format!("the chord has no result after {} s", timeout.as_secs()),
                        now,
                        facts,
                    );
                }
            }
            Stage::ProgressKeys { since } => {
                if self.rules.pool_file && self.keys.is_none() && now >= since + KEYS_GRACE {
                    enter(facts, FollowStage::FileTime, "there are no progress keys");
                    self.stage = Stage::FileTime;
                }
            }
            Stage::Dispatch | Stage::FileTime | Stage::TaskEvents | Stage::Ended(_) => {}
        }
    }

    /// Goes to the best stage for not knowing.
    fn fall_back(&mut self, reason: &str, now: Instant, facts: &mut Vec<Fact>) {
        let (stage, name) = if self.job.job_id.is_some() {
            (Stage::ProgressKeys { since: now }, FollowStage::ProgressKeys)
        } else if self.rules.pool_file {
            (Stage::FileTime, FollowStage::FileTime)
        } else {
            (Stage::TaskEvents, FollowStage::TaskEvents)
        };
        enter(facts, name, reason);
        self.stage = stage;
        if name == FollowStage::ProgressKeys {
            self.judge_keys();
        }
    }

    fn learn(&mut self, job: Job) {
        let Job {
            job_id,
            chord_id,
            counts,
        } = job;
        self.job.job_id = job_id.or_else(|| self.job.job_id.take());
        self.job.chord_id = chord_id;
        self.job.counts = merged(counts, self.job.counts);
    }

    fn job_started(&mut self, now: Instant, facts: &mut Vec<Fact>) {
        self.known_since.get_or_insert(now);
        facts.push(Fact::JobStarted {
            job: self.job.clone(),
            timeout: self.chord_timeout(now),
        });
    }

    fn chord_timeout(&self, since: Instant) -> Duration {
        let left = self.deadline().saturating_duration_since(since);
        // There the one bound is the other.
        if self.rules.allowance.is_some() {
            return left;
        }
        dynamic_timeout(&self.rules.pace, self.job.counts.total_chunks, self.slots, left)
    }

    /// `, 3 of 10 chunks done, status PROCESSING`, as far as known.
    fn how_far(&self) -> String {
        let counts = self.counts();
        let mut text = match (counts.completed_chunks, counts.total_chunks) {
            (Some(done), Some(total)) => format!(", {done} of {total} chunks done"),
            (None, Some(total)) => format!(", {total} chunks"),
            (Some(done), None) => format!(", {done} chunks done"),
            (None, None) => String::new(),
        };
        if let Some(Keys {
            status: Some(KeysStatus::Running(status)),
            ..
        }) = &self.keys
        {
            text.push_str(&format!(", status {status}"));
        }
        text
    }

    fn told(&mut self, reason: String) {
        self.end(Err(Failure::Told(reason)));
    }

    fn lost(&mut self, reason: String) {
        self.end(Err(Failure::Lost(reason)));
    }

    fn end(&mut self, verdict: Result<(), Failure>) {
        self.stage = Stage::Ended(verdict);
    }
}

fn enter(facts: &mut Vec<Fact>, stage: FollowStage, reason: impl Into<String>) {
    facts.push(Fact::StageEntered {
        stage,
        reason: reason.into(),
    });
}
