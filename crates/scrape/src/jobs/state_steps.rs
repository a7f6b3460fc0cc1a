//! Steps of the state machine of a job: each applies one observation, as a pure function.

use std::time::Instant;

use super::counts::merge_counts;
use super::dispatch_result::{DispatchAnswer, Job, callback_counts};
use super::inputs::{JobFact, JobFailure, JobInput, ListedTasks, TaskEnd};
use super::inventory::JobInventory;
use super::outcome;
use super::outcome::{
    CallbackState, DispatchEnd, DispatchMeaning, Evidence, HeaderCheck, HeaderLoss, JobVerdict, PoolFile,
};
use super::state_machine::{JobStage, JobStateMachine, KEYS_GRACE};
use orch_base::text::counted::plural;
use orch_base::text::duration_text::shown;
use orch_journal::FollowStage;

impl JobStateMachine {
    /// Applies one input. Every input is handled in every stage; an ended job does not change any more.
    pub fn step(mut self, input: JobInput, now: Instant) -> (Self, Vec<JobFact>) {
        let mut facts = Vec::new();
        if matches!(self.stage, JobStage::Ended(_)) {
            return (self, facts);
        }
        let (mut inventory, mut unconsumed, mut ending_loss) = (None, None, None);
        match input {
            JobInput::DispatchEnded { end, listed } => {
                if self.dispatch == DispatchEnd::Open {
                    self.listed = Some(listed);
                    self.dispatch_ended(end, now, &mut facts);
                }
            }
            JobInput::DispatchEndedUnrecorded(end) => {
                if self.dispatch == DispatchEnd::Open {
                    self.dispatch_ended(end, now, &mut facts);
                }
            }
            JobInput::CallbackEnded(end) => self.callback_ended(end, true, now, &mut facts),
            JobInput::CallbackEndedUnrecorded(end) => self.callback_ended(end, false, now, &mut facts),
            JobInput::HeaderChecked(check) => self.header_checked(check),
            JobInput::HeaderLost { loss, ends_job } => {
                if self.callback == CallbackState::Named {
                    self.lost_chunks = u64::try_from(loss.lost.len()).unwrap_or(u64::MAX);
                    facts.push(JobFact::HeaderLost {
                        loss: loss.clone(),
                        ends_job,
                    });
                    ending_loss = Some(loss).filter(|_| ends_job);
                }
            }
            JobInput::ResultsUnreadable(reason) => self.results_unreadable(&reason, now, &mut facts),
            JobInput::KeysRead(keys) => self.keys = keys,
            JobInput::FileChanged => self.file_changed |= self.stage == JobStage::FileTime,
            JobInput::SlotsCounted(slots) => self.slots = slots,
            JobInput::NothingLeft(found) => inventory = Some(found),
            JobInput::Unconsumed(reason) => unconsumed = Some(reason),
            JobInput::Tick => self.tick(now, &mut facts),
        }
        if let Some(found) = &inventory
            && self.waits_for_file(found)
        {
            let reason = format!("the refresh has no known end, and its tasks are {}", nowhere(found));
            enter(&mut facts, FollowStage::FileTime, reason);
            self.stage = JobStage::FileTime;
            return (self, facts);
        }
        self.judge(inventory.as_ref(), unconsumed.as_deref(), ending_loss.as_ref());
        (self, facts)
    }

    /// Decides whether the job has ended, from everything that is known now.
    fn judge(&mut self, inventory: Option<&JobInventory>, unconsumed: Option<&str>, loss: Option<&HeaderLoss>) {
        if matches!(self.stage, JobStage::Ended(_)) {
            return;
        }
        let how_far = self.how_far();
        let evidence = Evidence {
            dispatch: self.dispatch.clone(),
            children: self.listed.as_deref().map(ListedTasks::count),
            callback: self.callback.clone(),
            loss,
            picked_up: self.rules.picked_up,
            keys: self.keys.as_ref(),
            keys_decide: matches!(self.stage, JobStage::ProgressKeys { .. }),
            pool_file: match (&self.stage, self.file_changed) {
                (_, true) => PoolFile::Changed,
                (JobStage::FileTime, false) => PoolFile::Unchanged,
                _ if self.rules.pool_file => PoolFile::NotAsked,
                _ => PoolFile::None,
            },
            inventory,
            unconsumed,
            search_text: inventory.map_or("", nowhere),
            progress_text: &how_far,
            chunks: self.job.counts.total_chunks,
        };
        let outcome::RuleVerdict { verdict, rule } = outcome::judge(&evidence);
        if verdict != JobVerdict::Open {
            tracing::debug!(?rule, ?verdict, job_id = ?self.job.job_id, "the job has ended");
        }
        if let Some(inventory) = inventory {
            self.count_remains(inventory, &verdict);
        }
        match verdict {
            JobVerdict::Open => {}
            JobVerdict::Complete => self.end(Ok(())),
            JobVerdict::Failed(reason) => self.end(Err(JobFailure::Reported(reason))),
            JobVerdict::Lost(reason) => self.end(Err(JobFailure::Lost(reason))),
            JobVerdict::Unknown(reason) => self.end(Err(JobFailure::Unknown(reason))),
        }
    }

    /// Sets counts that agree with the verdict.
    fn count_remains(&mut self, inventory: &JobInventory, verdict: &JobVerdict) {
        match verdict {
            JobVerdict::Complete if self.callback == CallbackState::Unnamed && inventory.known() > 0 => {
                self.outcome.errors = self.outcome.errors.or(Some(inventory.failed));
            }
            JobVerdict::Failed(_) => self.outcome.errors = self.outcome.errors.or(Some(inventory.failed)),
            JobVerdict::Lost(_) if self.job.counts.total_chunks.is_some() => {
                self.lost_chunks = u64::try_from(inventory.unended.len()).unwrap_or(u64::MAX);
            }
            _ => {}
        }
    }

    /// Returns whether the pool file must decide about a refresh after all tasks of the refresh have ended.
    fn waits_for_file(&self, found: &JobInventory) -> bool {
        let is_undecided = match &self.dispatch {
            DispatchEnd::Open => !found.worker_died,
            DispatchEnd::Succeeded(_) => self.callback != CallbackState::Named && self.keys.is_none(),
            DispatchEnd::Failed(_) | DispatchEnd::Revoked(_) => false,
        };
        self.rules.pool_file && is_undecided && self.stage != JobStage::FileTime
    }

    fn dispatch_ended(&mut self, end: TaskEnd, now: Instant, facts: &mut Vec<JobFact>) {
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
        self.dispatch = DispatchEnd::Succeeded(DispatchMeaning::Other);
        let started = self.listed.as_deref().map_or(0, ListedTasks::count);
        match DispatchAnswer::read(&result) {
            DispatchAnswer::Failed { job, error } => {
                self.merge_job(job);
                self.dispatch = DispatchEnd::Succeeded(DispatchMeaning::Error(error));
            }
            DispatchAnswer::NothingToDo(job) => {
                self.merge_job(job);
                self.job_started(now, facts);
                self.apply_done(now, facts);
            }
            DispatchAnswer::Complete(job) => {
                self.merge_job(job);
                self.apply_done(now, facts);
            }
            DispatchAnswer::Job(mut job) => {
                // An app may return the header's id as the chord's id; no result is ever stored under that id.
                let is_header_id = job.chord_id.as_ref().is_some_and(|id| self.names_group(id));
                if is_header_id {
                    job.chord_id = None;
                }
                self.merge_job(job);
                self.job_started(now, facts);
                match self.job.chord_id.clone() {
                    Some(chord_id) => self.wait_for_callback(chord_id, CallbackState::Named, now, facts),
                    None if is_header_id => {
                        let reason = "the dispatch result names the chord's header, not its callback";
                        self.fall_back(reason, now, facts);
                    }
                    None => self.fall_back("the dispatch result names no chord", now, facts),
                }
            }
            DispatchAnswer::Id { id, counts } => {
                self.job.counts = merge_counts(counts, self.job.counts);
                let may_be_callback = self.listed.as_ref().is_some_and(|listed| listed.may_be_callback(&id));
                let is_own_job_id = self.rules.own_job_id.as_ref().is_some_and(|own| own.as_str() == id);
                if may_be_callback && !is_own_job_id && started > 0 {
                    self.job.chord_id = Some(id.clone());
                    self.job_started(now, facts);
                    self.wait_for_callback(id, CallbackState::Guessed, now, facts);
                } else {
                    self.apply_unnamed(started, now, facts);
                }
            }
            DispatchAnswer::Unknown(counts) => {
                self.job.counts = merge_counts(counts, self.job.counts);
                self.apply_unnamed(started, now, facts);
            }
        }
    }

    fn names_group(&self, id: &str) -> bool {
        self.listed.as_ref().is_some_and(|listed| listed.names_group(id))
    }

    fn wait_for_callback(&mut self, chord_id: String, callback: CallbackState, now: Instant, facts: &mut Vec<JobFact>) {
        let chunks = self.job.counts.total_chunks;
        let chunks = chunks.map(|chunks| format!(" of {}", plural(chunks, "chunk")));
        let reason = format!("the job's chord{} runs", chunks.unwrap_or_default());
        enter(facts, FollowStage::Chord, reason);
        self.callback = callback;
        self.stage = JobStage::Chord { chord_id, since: now };
    }

    /// Applies a dispatch result that says that all is done; the tasks that were started may contradict.
    fn apply_done(&mut self, now: Instant, facts: &mut Vec<JobFact>) {
        self.dispatch = DispatchEnd::Succeeded(DispatchMeaning::Done);
        match self.listed.as_deref().map(ListedTasks::count) {
            Some(0) => {}
            Some(_) => self.fall_back(
                "the dispatch task says that all is done, and it started tasks",
                now,
                facts,
            ),
            None => self.fall_back(
                "the dispatch task says that all is done; the tasks that it started are not known",
                now,
                facts,
            ),
        }
    }

    /// Applies a dispatch result that names neither a job nor a callback.
    fn apply_unnamed(&mut self, started: u64, now: Instant, facts: &mut Vec<JobFact>) {
        if self.listed.is_none() {
            self.fall_back("the dispatch task's result is ignored", now, facts);
        } else if self.rules.pool_file {
            self.fall_back("the result of the refresh names no job", now, facts);
        } else if started > 0 {
            let tasks = if started == 1 { "task" } else { "tasks" };
            let reason = format!("the dispatch result names no job, but it started {started} {tasks}");
            self.fall_back(&reason, now, facts);
        }
    }

    fn callback_ended(&mut self, end: TaskEnd, recorded: bool, now: Instant, facts: &mut Vec<JobFact>) {
        let Some(chord_id) = self.job.chord_id.clone() else {
            return;
        };
        match end {
            TaskEnd::Succeeded(result) => {
                let is_end = self.listed.as_ref().is_none_or(|listed| match self.callback {
                    CallbackState::Guessed => listed.is_one_group(),
                    _ => !listed.is_one_of_several(&chord_id),
                });
                self.outcome = merge_counts(callback_counts(&result), self.outcome);
                if !is_end {
                    self.callback = CallbackState::Unnamed;
                    return self.fall_back("the task that the dispatch result names has succeeded", now, facts);
                }
                facts.push(JobFact::ChordCompleted { chord_id });
                if !recorded {
                    enter(
                        facts,
                        FollowStage::TaskEvents,
                        "the callback's result is ignored; its event reports the end",
                    );
                    self.stage = JobStage::TaskEvents;
                }
                let is_known = self.listed.as_ref().is_some_and(|listed| !listed.members.is_empty());
                self.callback = CallbackState::Succeeded(HeaderCheck::Pending);
                if !is_known {
                    self.header_checked(HeaderCheck::Passed);
                }
            }
            TaskEnd::Failed(exception) => self.callback = CallbackState::Failed(exception),
            TaskEnd::Revoked(message) => self.callback = CallbackState::Revoked(message),
        }
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
        self.callback = CallbackState::Succeeded(check);
    }

    fn results_unreadable(&mut self, reason: &str, now: Instant, facts: &mut Vec<JobFact>) {
        match self.stage {
            JobStage::Dispatch | JobStage::Chord { .. } => {
                self.fall_back(&format!("results cannot be read: {reason}"), now, facts);
            }
            JobStage::ProgressKeys { .. } | JobStage::FileTime | JobStage::TaskEvents | JobStage::Ended(_) => {}
        }
    }

    fn tick(&mut self, now: Instant, facts: &mut Vec<JobFact>) {
        if now >= self.deadline() {
            let waited_for = match &self.stage {
                JobStage::Dispatch => "the dispatch task has not ended".to_owned(),
                JobStage::Chord { .. } => format!("the chord has not ended{}", self.how_far()),
                JobStage::ProgressKeys { .. } => format!("the progress keys name no end{}", self.how_far()),
                JobStage::FileTime => "the pool file has not changed".to_owned(),
                JobStage::TaskEvents => "not all of its tasks have ended".to_owned(),
                JobStage::Ended(_) => return,
            };
            let allowance = self.rules.auto_timeout;
            let allowed = allowance.map_or_else(String::new, |allowance| allowance.described(self.deadline()));
            return self.end(Err(JobFailure::TimedOut(format!("out of time{allowed}: {waited_for}"))));
        }
        match self.stage {
            JobStage::Chord { since, .. } => {
                let timeout = self.chord_timeout(since);
                if now >= since + timeout {
                    self.fall_back(&format!("the chord has no result after {}", shown(timeout)), now, facts);
                }
            }
            JobStage::ProgressKeys { since } => {
                if self.rules.pool_file && self.keys.is_none() && now >= since + KEYS_GRACE {
                    enter(facts, FollowStage::FileTime, "there are no progress keys");
                    self.stage = JobStage::FileTime;
                }
            }
            JobStage::Dispatch | JobStage::FileTime | JobStage::TaskEvents | JobStage::Ended(_) => {}
        }
    }

    /// Enters the best stage for a job without a known end.
    fn fall_back(&mut self, reason: &str, now: Instant, facts: &mut Vec<JobFact>) {
        let (stage, name) = if self.job.job_id.is_some() {
            (JobStage::ProgressKeys { since: now }, FollowStage::ProgressKeys)
        } else if self.rules.pool_file {
            (JobStage::FileTime, FollowStage::FileTime)
        } else {
            (JobStage::TaskEvents, FollowStage::TaskEvents)
        };
        enter(facts, name, reason);
        self.stage = stage;
    }

    fn merge_job(&mut self, job: Job) {
        let Job {
            job_id,
            chord_id,
            counts,
        } = job;
        self.job.job_id = job_id.or_else(|| self.job.job_id.take());
        self.job.chord_id = chord_id;
        self.job.counts = merge_counts(counts, self.job.counts);
    }

    fn job_started(&mut self, now: Instant, facts: &mut Vec<JobFact>) {
        self.known_since.get_or_insert(now);
        facts.push(JobFact::JobStarted {
            job: self.job.clone(),
            timeout: self.chord_timeout(now),
        });
    }

    fn end(&mut self, verdict: Result<(), JobFailure>) {
        self.stage = JobStage::Ended(verdict);
    }
}

/// Returns the text for a reason that says where the job was not found.
fn nowhere(inventory: &JobInventory) -> &'static str {
    if inventory.worker_died {
        "not queued, reserved or active, and its worker died"
    } else {
        "not queued, reserved or active"
    }
}

fn enter(facts: &mut Vec<JobFact>, stage: FollowStage, reason: impl Into<String>) {
    facts.push(JobFact::StageEntered {
        stage,
        reason: reason.into(),
    });
}
