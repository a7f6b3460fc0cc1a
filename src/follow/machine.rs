//! The stages of following a dispatched job, as a pure function of what was seen.
//!
//! A fall-back stage is for not knowing how a job ended, never for not liking the answer: a known failure ends the
//! following at once, and what becomes known late still counts. The machine keeps the evidence and the stage of waiting;
//! the end is decided by [`outcome::judge`]. Not here: how evidence is collected (`follower`) and what is done about an end
//! (the proxies' and the sites' parts: retries, counts, exit codes).
//!
//! ```text
//! Dispatch -> Chord -> ProgressKeys -> FileTime (with a pool file)
//!     \          \----------^   ^
//!      \------------------------+-> TaskEvents (no job id, no file)
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allowance::Allowance;
use super::answer::{DispatchAnswer, Job, callback_counts};
use super::counts::merged;
use super::facts::{Fact, Failure, Input, Keys, KeysStatus, Listed, TaskEnd};
use super::inventory::Inventory;
use super::outcome::{self, Answer, Callback, DispatchEnd, Evidence, HeaderCheck, HeaderLoss, PoolFile, Verdict};
use super::pace::dynamic_timeout;
use crate::celery::TaskId;
use crate::config::Pace;
use crate::counted::plural;
use crate::duration_text::shown;
use crate::run::{FollowStage, JobId, SiteCounts};

/// With a pool file to watch, progress keys that have not appeared after this long are given up.
const KEYS_GRACE: Duration = Duration::from_secs(30);

/// What does not change while one job is followed.
#[derive(Clone, Debug)]
pub struct Rules {
    /// There is a pool file whose modification time tells the end when nothing else does.
    pub pool_file: bool,
    /// An earlier run has published it.
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
    dispatch: DispatchEnd,
    /// What the dispatch task's result lists as started; `None` where it was not stored or read.
    listed: Option<Arc<Listed>>,
    callback: Callback,
    /// The pool file was written since the job was published.
    file_changed: bool,
    job: Job,
    slots: u64,
    slots_at_begin: u64,
    /// Since when the job is known.
    known_since: Option<Instant>,
    keys: Option<Keys>,
    /// From the callback's result, or from events.
    outcome: SiteCounts,
    /// Chunks that nobody will do any more in this attempt.
    lost_chunks: u64,
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
            dispatch: DispatchEnd::Open,
            listed: None,
            callback: Callback::Unnamed,
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

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The callback that the app names, while its end is not known.
    pub fn named_callback(&self) -> Option<TaskId> {
        self.job.callback().filter(|_| self.callback == Callback::Named)
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

    /// Applies one input. Every input is handled in every stage; an ended following stays as it is.
    pub fn step(mut self, input: Input, now: Instant) -> (Self, Vec<Fact>) {
        let mut facts = Vec::new();
        if matches!(self.stage, Stage::Ended(_)) {
            return (self, facts);
        }
        let (mut inventory, mut unconsumed, mut ending_loss) = (None, None, None);
        match input {
            Input::DispatchEnded { end, listed } => {
                if self.dispatch == DispatchEnd::Open {
                    self.listed = Some(listed);
                    self.dispatch_ended(end, now, &mut facts);
                }
            }
            Input::DispatchEndedUnrecorded(end) => {
                if self.dispatch == DispatchEnd::Open {
                    self.dispatch_ended(end, now, &mut facts);
                }
            }
            Input::CallbackEnded(end) => self.callback_ended(end, true, now, &mut facts),
            Input::CallbackEndedUnrecorded(end) => self.callback_ended(end, false, now, &mut facts),
            Input::HeaderChecked(check) => self.header_checked(check),
            Input::HeaderLost { loss, ends_job } => {
                if self.callback == Callback::Named {
                    self.lost_chunks = u64::try_from(loss.lost.len()).unwrap_or(u64::MAX);
                    facts.push(Fact::HeaderLost {
                        loss: loss.clone(),
                        ends_job,
                    });
                    ending_loss = Some(loss).filter(|_| ends_job);
                }
            }
            Input::ResultsUnreadable(reason) => self.results_unreadable(&reason, now, &mut facts),
            Input::KeysRead(keys) => self.keys = keys,
            Input::FileChanged => self.file_changed |= self.stage == Stage::FileTime,
            Input::SlotsCounted(slots) => self.slots = slots,
            Input::Gone(found) => inventory = Some(found),
            Input::Unconsumed(reason) => unconsumed = Some(reason),
            Input::Tick => self.tick(now, &mut facts),
        }
        if let Some(found) = &inventory
            && self.waits_for_file(found)
        {
            let reason = format!("the refresh has left no end, and its tasks are {}", nowhere(found));
            enter(&mut facts, FollowStage::FileTime, reason);
            self.stage = Stage::FileTime;
            return (self, facts);
        }
        self.judge(inventory.as_ref(), unconsumed.as_deref(), ending_loss.as_ref());
        (self, facts)
    }

    /// Decides whether the job has ended, by what is known now.
    fn judge(&mut self, inventory: Option<&Inventory>, unconsumed: Option<&str>, loss: Option<&HeaderLoss>) {
        if matches!(self.stage, Stage::Ended(_)) {
            return;
        }
        let how_far = self.how_far();
        let evidence = Evidence {
            dispatch: self.dispatch.clone(),
            children: self.listed.as_deref().map(Listed::count),
            callback: self.callback.clone(),
            loss,
            picked_up: self.rules.picked_up,
            keys: self.keys.as_ref(),
            keys_decide: matches!(self.stage, Stage::ProgressKeys { .. }),
            pool_file: match (&self.stage, self.file_changed) {
                (_, true) => PoolFile::Changed,
                (Stage::FileTime, false) => PoolFile::Unchanged,
                _ if self.rules.pool_file => PoolFile::NotAsked,
                _ => PoolFile::None,
            },
            inventory,
            unconsumed,
            nowhere: inventory.map_or("", nowhere),
            how_far: &how_far,
            chunks: self.job.counts.total_chunks,
        };
        let outcome::Judgement { verdict, rule } = outcome::judge(&evidence);
        if verdict != Verdict::Open {
            tracing::debug!(?rule, ?verdict, job_id = ?self.job.job_id, "the job has ended");
        }
        if let Some(inventory) = inventory {
            self.count_remains(inventory, &verdict);
        }
        match verdict {
            Verdict::Open => {}
            Verdict::Complete => self.end(Ok(())),
            Verdict::Failed(reason) => self.end(Err(Failure::Told(reason))),
            Verdict::Lost(reason) => self.end(Err(Failure::Lost(reason))),
            Verdict::Unknown(reason) => self.end(Err(Failure::Unknown(reason))),
        }
    }

    /// Figures that agree with the verdict.
    fn count_remains(&mut self, inventory: &Inventory, verdict: &Verdict) {
        match verdict {
            Verdict::Complete if self.callback == Callback::Unnamed && inventory.known() > 0 => {
                self.outcome.errors = self.outcome.errors.or(Some(inventory.failed));
            }
            Verdict::Failed(_) => self.outcome.errors = self.outcome.errors.or(Some(inventory.failed)),
            Verdict::Lost(_) if self.job.counts.total_chunks.is_some() => {
                self.lost_chunks = u64::try_from(inventory.unended.len()).unwrap_or(u64::MAX);
            }
            _ => {}
        }
    }

    /// A refresh whose tasks are all over is judged by the pool file, once it is known that the file says no more.
    fn waits_for_file(&self, found: &Inventory) -> bool {
        let is_undecided = match &self.dispatch {
            DispatchEnd::Open => !found.worker_died,
            DispatchEnd::Succeeded(_) => self.callback != Callback::Named && self.keys.is_none(),
            DispatchEnd::Failed(_) | DispatchEnd::Revoked(_) => false,
        };
        self.rules.pool_file && is_undecided && self.stage != Stage::FileTime
    }

    fn dispatch_ended(&mut self, end: TaskEnd, now: Instant, facts: &mut Vec<Fact>) {
        let result = match end {
            TaskEnd::Succeeded(result) => result,
            TaskEnd::Failed(exception) => {
                self.dispatch = DispatchEnd::Failed(exception);
                return;
            }
            TaskEnd::Revoked(message) => {
                self.dispatch = DispatchEnd::Revoked(message);
                return;
            }
        };
        self.dispatch = DispatchEnd::Succeeded(Answer::Other);
        let started = self.listed.as_deref().map_or(0, Listed::count);
        match DispatchAnswer::read(&result) {
            DispatchAnswer::Failed { job, error } => {
                self.learn(job);
                self.dispatch = DispatchEnd::Succeeded(Answer::Error(error));
            }
            DispatchAnswer::Nothing(job) => {
                self.learn(job);
                self.job_started(now, facts);
                self.done_by_answer(now, facts);
            }
            DispatchAnswer::Complete(job) => {
                self.learn(job);
                self.done_by_answer(now, facts);
            }
            DispatchAnswer::Job(mut job) => {
                // An app may take the header's id for the chord's; that one never has a result.
                let of_header = job.chord_id.as_ref().is_some_and(|id| self.names_group(id));
                if of_header {
                    job.chord_id = None;
                }
                self.learn(job);
                self.job_started(now, facts);
                match self.job.chord_id.clone() {
                    Some(chord_id) => self.wait_for_callback(chord_id, Callback::Named, now, facts),
                    None if of_header => {
                        let reason = "the dispatch result names the chord's header, not its callback";
                        self.fall_back(reason, now, facts);
                    }
                    None => self.fall_back("the dispatch result names no chord", now, facts),
                }
            }
            DispatchAnswer::Id { id, counts } => {
                self.job.counts = merged(counts, self.job.counts);
                let may_be_callback = self.listed.as_ref().is_some_and(|listed| listed.may_be_callback(&id));
                let is_ours = self.rules.own_job_id.as_ref().is_some_and(|own| own.as_str() == id);
                if may_be_callback && !is_ours && started > 0 {
                    self.job.chord_id = Some(id.clone());
                    self.job_started(now, facts);
                    self.wait_for_callback(id, Callback::Guessed, now, facts);
                } else {
                    self.unnamed(started, now, facts);
                }
            }
            DispatchAnswer::Unknown(counts) => {
                self.job.counts = merged(counts, self.job.counts);
                self.unnamed(started, now, facts);
            }
        }
    }

    fn names_group(&self, id: &str) -> bool {
        self.listed.as_ref().is_some_and(|listed| listed.names_group(id))
    }

    fn wait_for_callback(&mut self, chord_id: String, callback: Callback, now: Instant, facts: &mut Vec<Fact>) {
        let chunks = self.job.counts.total_chunks;
        let chunks = chunks.map(|chunks| format!(" of {}", plural(chunks, "chunk")));
        let reason = format!("the job's chord{} runs", chunks.unwrap_or_default());
        enter(facts, FollowStage::Chord, reason);
        self.callback = callback;
        self.stage = Stage::Chord { chord_id, since: now };
    }

    /// The dispatch task says that all is done; what it started may say something else.
    fn done_by_answer(&mut self, now: Instant, facts: &mut Vec<Fact>) {
        self.dispatch = DispatchEnd::Succeeded(Answer::Done);
        match self.listed.as_deref().map(Listed::count) {
            Some(0) => {}
            Some(_) => self.fall_back(
                "the dispatch task says that all is done, and it started tasks",
                now,
                facts,
            ),
            None => self.fall_back(
                "the dispatch task says that all is done; what it started is not known",
                now,
                facts,
            ),
        }
    }

    /// The dispatch task's result names neither a job nor a callback.
    fn unnamed(&mut self, started: u64, now: Instant, facts: &mut Vec<Fact>) {
        if self.listed.is_none() {
            self.fall_back("the dispatch task's result is ignored", now, facts);
        } else if self.rules.pool_file {
            self.fall_back("the refresh's result names no job", now, facts);
        } else if started > 0 {
            let tasks = if started == 1 { "task" } else { "tasks" };
            let reason = format!("the dispatch result names no job, but it started {started} {tasks}");
            self.fall_back(&reason, now, facts);
        }
    }

    fn callback_ended(&mut self, end: TaskEnd, recorded: bool, now: Instant, facts: &mut Vec<Fact>) {
        let Some(chord_id) = self.job.chord_id.clone() else {
            return;
        };
        match end {
            TaskEnd::Succeeded(result) => {
                let is_end = self.listed.as_ref().is_none_or(|listed| match self.callback {
                    Callback::Guessed => listed.is_one_group(),
                    _ => !listed.is_one_of_several(&chord_id),
                });
                self.outcome = merged(callback_counts(&result), self.outcome);
                if !is_end {
                    self.callback = Callback::Unnamed;
                    return self.fall_back("the task that the dispatch result names has succeeded", now, facts);
                }
                facts.push(Fact::ChordCompleted { chord_id });
                if !recorded {
                    enter(
                        facts,
                        FollowStage::TaskEvents,
                        "the callback's result is ignored; its event tells its end",
                    );
                    self.stage = Stage::TaskEvents;
                }
                let is_known = self.listed.as_ref().is_some_and(|listed| !listed.members.is_empty());
                self.callback = Callback::Succeeded(HeaderCheck::Pending);
                if !is_known {
                    self.header_checked(HeaderCheck::Passed);
                }
            }
            TaskEnd::Failed(exception) => self.callback = Callback::Failed(exception),
            TaskEnd::Revoked(message) => self.callback = Callback::Revoked(message),
        }
    }

    /// Whether [`Input::HeaderChecked`] is waited for.
    pub fn wants_header_check(&self) -> bool {
        self.callback == Callback::Succeeded(HeaderCheck::Pending)
    }

    fn header_checked(&mut self, check: HeaderCheck) {
        if !self.wants_header_check() {
            return;
        }
        match &check {
            HeaderCheck::Missing(tasks) => self.lost_chunks = u64::try_from(tasks.len()).unwrap_or(u64::MAX),
            HeaderCheck::Passed | HeaderCheck::Pending => {
                // All header tasks have ended, or the callback would not have run.
                self.outcome.completed_chunks = self.outcome.completed_chunks.or(self.job.counts.total_chunks);
            }
        }
        self.callback = Callback::Succeeded(check);
    }

    fn results_unreadable(&mut self, reason: &str, now: Instant, facts: &mut Vec<Fact>) {
        match self.stage {
            Stage::Dispatch | Stage::Chord { .. } => {
                self.fall_back(&format!("results cannot be read: {reason}"), now, facts);
            }
            Stage::ProgressKeys { .. } | Stage::FileTime | Stage::TaskEvents | Stage::Ended(_) => {}
        }
    }

    /// Whether the callback has succeeded and no header task contradicts it: then each of them has ended, whichever events
    /// are still on their way.
    pub fn is_header_complete(&self) -> bool {
        self.callback == Callback::Succeeded(HeaderCheck::Passed)
    }

    /// Chunks that nobody will do any more in this attempt: errors that neither the app nor Celery has counted.
    pub fn lost_chunks(&self) -> u64 {
        self.lost_chunks
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
                    self.fall_back(&format!("the chord has no result after {}", shown(timeout)), now, facts);
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
            (Some(done), Some(total)) => format!(", {done} of {} done", plural(total, "chunk")),
            (None, Some(total)) => format!(", {}", plural(total, "chunk")),
            (Some(done), None) => format!(", {} done", plural(done, "chunk")),
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

    fn end(&mut self, verdict: Result<(), Failure>) {
        self.stage = Stage::Ended(verdict);
    }
}

/// Where nothing of the job was found, as a reason has it.
fn nowhere(inventory: &Inventory) -> &'static str {
    if inventory.worker_died {
        "not queued, reserved or active, and its worker died"
    } else {
        "not queued, reserved or active"
    }
}

fn enter(facts: &mut Vec<Fact>, stage: FollowStage, reason: impl Into<String>) {
    facts.push(Fact::StageEntered {
        stage,
        reason: reason.into(),
    });
}
