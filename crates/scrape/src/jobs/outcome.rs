//! Decides how a job ended, from everything that is known about the job: one pure, total function.
//!
//! The function decides for sites and proxy refreshes, while a job runs, at the end of a job, and after a resumed run
//! has picked up a job. `docs/outcomes.md` has the same rules as a table; a test keeps both equal. Silence is no
//! evidence: a job is complete only if the tasks, the callback or the app say so, and if nothing shows the outcome, the
//! outcome is unknown.
//!
//! Not here: how evidence is collected ([`super::driver`], [`super::inventory`]), and the stages of waiting
//! ([`super::state_machine`]).

use super::inventory::JobInventory;
use super::progress_keys::{KeysStatus, ProgressKeyValues};
use orch_base::text::counted::plural;
use orch_celery::TaskId;

/// Number of lost tasks that a reason names; further ones are counted.
const MAX_NAMED_TASKS: usize = 5;

/// Known end of the dispatch task.
#[derive(Clone, Debug, PartialEq)]
pub enum DispatchEnd {
    Open,
    Failed(String),
    Revoked(String),
    Succeeded(DispatchMeaning),
}

/// Meaning of a successful dispatch task's result.
#[derive(Clone, Debug, PartialEq)]
pub enum DispatchMeaning {
    /// The result names an error.
    Error(String),
    /// The result says that all is done or that there is nothing to do.
    Done,
    /// The result says nothing about the end.
    Other,
}

/// Known state of the task that ends the job with a success: the chord's callback, or the last link of a chain.
#[derive(Clone, Debug, PartialEq)]
pub enum CallbackState {
    Unnamed,
    /// The dispatch result has an id that may be the callback's, without a name.
    Guessed,
    Named,
    Succeeded(HeaderCheck),
    Failed(String),
    Revoked(String),
}

/// Comparison of a chord's header with the results that the callback can have received.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderCheck {
    /// The header is still being read.
    Pending,
    /// Every task of the header has succeeded, or the tasks of the header cannot be known.
    Passed,
    /// These tasks had not ended when the callback began: other tasks were counted twice.
    Missing(Vec<TaskId>),
}

/// Tasks of a chord's header that will not succeed, so that the callback cannot run any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderLoss {
    /// Tasks that no worker will execute.
    pub lost: Vec<TaskId>,
    pub failed: u64,
    /// Text of the first failure: `task ID: EXCEPTION`.
    pub first_failure: Option<String>,
    /// Number of all tasks of the header.
    pub size: u64,
}

/// State of the file of a proxy pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolFile {
    /// The job is no refresh.
    None,
    /// The time of the file decides nothing yet: better evidence may still come.
    NotAsked,
    Unchanged,
    Changed,
}

/// Everything that is known about one job.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    pub dispatch: DispatchEnd,
    /// Number of tasks that the dispatch task's stored result lists; `None` if no result was stored or read.
    pub children: Option<u64>,
    pub callback: CallbackState,
    /// Losses of the named callback's header if they end the job at once, because another attempt follows.
    pub loss: Option<&'a HeaderLoss>,
    /// An earlier run has published the job.
    pub picked_up: bool,
    /// Progress keys of the app.
    pub keys: Option<&'a ProgressKeyValues>,
    /// The keys decide: no callback is awaited any more.
    pub keys_decide: bool,
    pub pool_file: PoolFile,
    /// All tasks of the job, once none of them is queued, held by a worker or running.
    pub inventory: Option<&'a JobInventory>,
    /// Queues without a consumer in which all remaining messages of the job wait.
    pub unconsumed: Option<&'a str>,
    /// Text for a reason: the places where the job was not found, and the death of the job's worker.
    pub search_text: &'a str,
    /// Text for a reason: the progress of the job.
    pub progress_text: &'a str,
    /// Number of the job's chunks, if the app or Celery reports the number.
    pub chunks: Option<u64>,
}

/// Rule that decided; the rules are tried in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeRule {
    DispatchFailed,
    DispatchRevoked,
    AnswerIsError,
    CallbackFailed,
    CallbackRevoked,
    HeaderIncomplete,
    HeaderUnchecked,
    CallbackSucceeded,
    HeaderLost,
    HeaderFailed,
    KeysFailed,
    KeysComplete,
    PoolFileChanged,
    AnswerIsDone,
    NothingStarted,
    Unconsumed,
    StillRunning,
    DispatchUnknown,
    DispatchLost,
    CallbackUnknown,
    CallbackLost,
    TasksUnknown,
    TasksLost,
    TasksFailed,
    ChordOpen,
    PoolFileUnchanged,
    KeysBehind,
    KeysContradict,
    KeysOpen,
    TasksUnlisted,
    AllSucceeded,
}

/// Decision about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobVerdict {
    /// No decision yet: the job goes on.
    Open,
    Complete,
    /// The app or Celery reports a failure.
    Failed(String),
    /// A part of the job is lost and will never end.
    Lost(String),
    /// Nothing shows whether the job succeeded.
    Unknown(String),
}

/// Verdict and the rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleVerdict {
    pub verdict: JobVerdict,
    pub rule: OutcomeRule,
}

/// Decides the outcome; every evidence has a verdict.
pub fn judge(evidence: &Evidence<'_>) -> RuleVerdict {
    let (rule, verdict) = first_rule(evidence);
    RuleVerdict { verdict, rule }
}

fn first_rule(evidence: &Evidence<'_>) -> (OutcomeRule, JobVerdict) {
    use JobVerdict::{Complete, Failed, Lost, Open};
    match &evidence.dispatch {
        DispatchEnd::Failed(exception) => {
            return (
                OutcomeRule::DispatchFailed,
                Failed(format!("the dispatch task failed: {exception}")),
            );
        }
        DispatchEnd::Revoked(message) => {
            return (
                OutcomeRule::DispatchRevoked,
                Failed(format!("the dispatch task was revoked: {message}")),
            );
        }
        DispatchEnd::Succeeded(DispatchMeaning::Error(error)) => {
            return (
                OutcomeRule::AnswerIsError,
                Failed(format!("the dispatch task answered with an error: {error}")),
            );
        }
        DispatchEnd::Succeeded(DispatchMeaning::Done | DispatchMeaning::Other) | DispatchEnd::Open => {}
    }
    match &evidence.callback {
        CallbackState::Failed(exception) => {
            return (
                OutcomeRule::CallbackFailed,
                Failed(format!("the chord failed: {exception}")),
            );
        }
        CallbackState::Revoked(message) => {
            return (
                OutcomeRule::CallbackRevoked,
                Failed(format!("the chord's callback was revoked: {message}")),
            );
        }
        CallbackState::Succeeded(HeaderCheck::Missing(tasks)) => {
            return (
                OutcomeRule::HeaderIncomplete,
                Lost(format!(
                    "the chord's callback ran without {} of its tasks, so others were counted twice: {}",
                    tasks.len(),
                    named(tasks)
                )),
            );
        }
        CallbackState::Succeeded(HeaderCheck::Pending) => return (OutcomeRule::HeaderUnchecked, Open),
        CallbackState::Succeeded(HeaderCheck::Passed) => return (OutcomeRule::CallbackSucceeded, Complete),
        CallbackState::Unnamed | CallbackState::Guessed | CallbackState::Named => {}
    }
    if let Some(loss) = evidence.loss {
        return match loss.lost.is_empty() {
            false => (OutcomeRule::HeaderLost, Lost(loss.reason())),
            true => (OutcomeRule::HeaderFailed, Failed(loss.reason())),
        };
    }
    let keys_decide = evidence.keys_decide || evidence.inventory.is_some();
    match evidence.keys.and_then(|keys| keys.status.as_ref()) {
        Some(KeysStatus::Failed(status)) if keys_decide => {
            return (
                OutcomeRule::KeysFailed,
                Failed(format!("the job's status key says {status}")),
            );
        }
        Some(KeysStatus::Complete) if keys_decide => return (OutcomeRule::KeysComplete, Complete),
        Some(_) | None => {}
    }
    if evidence.pool_file == PoolFile::Changed {
        return (OutcomeRule::PoolFileChanged, Complete);
    }
    if let DispatchEnd::Succeeded(answer) = &evidence.dispatch
        && evidence.callback == CallbackState::Unnamed
        && evidence.children == Some(0)
        && *answer == DispatchMeaning::Done
    {
        return (OutcomeRule::AnswerIsDone, Complete);
    }
    if let DispatchEnd::Succeeded(DispatchMeaning::Other) = evidence.dispatch
        && evidence.callback == CallbackState::Unnamed
        && evidence.children == Some(0)
        && !evidence.keys_decide
        && evidence.pool_file == PoolFile::None
    {
        return (OutcomeRule::NothingStarted, Complete);
    }
    if let Some(reason) = evidence.unconsumed {
        return (
            OutcomeRule::Unconsumed,
            Lost(format!("the job can never finish: {reason}")),
        );
    }
    match evidence.inventory {
        None => (OutcomeRule::StillRunning, Open),
        Some(inventory) => of_remains(evidence, inventory),
    }
}

/// Decides the outcome of a job of which nothing is queued, held or running any more.
fn of_remains(evidence: &Evidence<'_>, inventory: &JobInventory) -> (OutcomeRule, JobVerdict) {
    use JobVerdict::{Complete, Failed, Lost, Unknown};
    let Evidence {
        search_text: nowhere,
        progress_text: how_far,
        ..
    } = *evidence;
    let unended = inventory.unended.as_slice();
    let first_failure = || match &inventory.first_failure {
        Some(failure) => format!("; the first failure: {failure}"),
        None => String::new(),
    };
    if evidence.dispatch == DispatchEnd::Open {
        if evidence.picked_up && inventory.known() == 0 {
            let reason = format!("nothing is left of the earlier run's job: its tasks are {nowhere}{how_far}");
            return (OutcomeRule::DispatchUnknown, Unknown(reason));
        }
        // When a worker dies, the last events may be missing: nothing more is assumed than that the task was lost with
        // the worker.
        if !inventory.no_end_is_proof && !inventory.are_events_unbroken {
            return (
                OutcomeRule::DispatchUnknown,
                Unknown(format!(
                    "the end of the dispatch task is not known: it has no readable result, events were missed, and it is {nowhere}"
                )),
            );
        }
        return (
            OutcomeRule::DispatchLost,
            Lost(format!(
                "the dispatch task is lost: it left no result and is {nowhere}{how_far}"
            )),
        );
    }
    if evidence.callback == CallbackState::Named && !inventory.awaited_is_group {
        let is_all_known = unended.is_empty() && inventory.failed == 0 && inventory.open_chords.is_empty();
        if !inventory.no_end_is_proof || (is_all_known && (!inventory.sees_callbacks || inventory.has_unlisted)) {
            let reason = format!(
                "the end of the chord's callback is not known: it has no readable result, no event of its end arrived, and it is {nowhere}{how_far}"
            );
            return (OutcomeRule::CallbackUnknown, Unknown(reason));
        }
        let reason = if unended.is_empty() {
            let failure = first_failure();
            format!("the chord can never finish: its callback has no result and is {nowhere}{how_far}{failure}")
        } else {
            let (lost, named) = (share_of(unended.len(), evidence.chunks, "chunk"), named(unended));
            format!("the chord can never finish, {lost} lost: {named}; they are {nowhere}")
        };
        return (OutcomeRule::CallbackLost, Lost(reason));
    }
    if !unended.is_empty() {
        if !inventory.no_end_is_proof {
            let tasks = tasks(unended.len());
            let reason = format!(
                "the ends of {tasks} are not known: they have no readable result, and events were missed; they are {nowhere}"
            );
            return (OutcomeRule::TasksUnknown, Unknown(reason));
        }
        let lost = share_of(unended.len(), Some(inventory.known()), "task");
        let (named, failure) = (named(unended), first_failure());
        let reason = format!("the job can never finish, {lost} lost: {named}; they are {nowhere}{failure}");
        return (OutcomeRule::TasksLost, Lost(reason));
    }
    if inventory.failed > 0 {
        let of = inventory.known();
        let failed = inventory.failed;
        let reason = match &inventory.first_failure {
            Some(failure) => format!("{failed} of the job's {of} tasks failed; the first: {failure}"),
            None => format!("{failed} of the job's {of} tasks failed"),
        };
        return (OutcomeRule::TasksFailed, Failed(reason));
    }
    if let Some(chord) = inventory.open_chords.first() {
        return (
            OutcomeRule::ChordOpen,
            Lost(format!(
                "a chord's callback never ran: {} of its {}tasks were counted, and the rest is {nowhere}",
                chord.counted,
                chord.size.map_or_else(String::new, |size| format!("{size} "))
            )),
        );
    }
    if evidence.pool_file != PoolFile::None {
        return (
            OutcomeRule::PoolFileUnchanged,
            Lost(format!(
                "the refresh has left the pool file unchanged, and its tasks are {nowhere}"
            )),
        );
    }
    if let Some(keys) = evidence.keys
        && !keys.all_chunks_done()
    {
        if keys.is_behind() && inventory.succeeded == 0 {
            let reason = format!("the job can never finish: its tasks are {nowhere}{how_far}");
            return (OutcomeRule::KeysBehind, Lost(reason));
        }
        if keys.is_behind() {
            let succeeded = inventory.succeeded;
            let reason = format!("all {succeeded} tasks succeeded, but the app's progress keys disagree{how_far}");
            return (OutcomeRule::KeysContradict, Unknown(reason));
        }
        if inventory.known() == 0 {
            let reason = format!("no task of the job is known, and its progress keys name no end{how_far}");
            return (OutcomeRule::KeysOpen, Unknown(reason));
        }
    }
    if evidence.dispatch == DispatchEnd::Succeeded(DispatchMeaning::Done) && evidence.children.is_none() {
        return (OutcomeRule::AnswerIsDone, Complete);
    }
    match &inventory.unlisted {
        Some(reason) if evidence.keys.is_none_or(|keys| !keys.all_chunks_done()) => (
            OutcomeRule::TasksUnlisted,
            Unknown(format!(
                "whether all tasks of the job ran is not known: {reason}; a dispatch task that returns \
                 {{\"job_id\": ..., \"chord_id\": ID OF THE CALLBACK}} makes it known"
            )),
        ),
        Some(_) | None => (OutcomeRule::AllSucceeded, Complete),
    }
}

impl HeaderLoss {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.failed == 0
    }

    /// Describes the loss: `2 of its 10 chunks are lost and 1 failed, so its callback cannot run: IDS; the first
    /// failure: TEXT`.
    pub fn reason(&self) -> String {
        let lost = self.lost.len();
        let verb = if lost == 1 { "is" } else { "are" };
        let first = self.first_failure.as_deref().unwrap_or("unknown exception");
        let chunks = plural(self.size, "chunk");
        match (lost, self.failed) {
            (0, failed) => {
                format!("{failed} of its {chunks} failed, so its callback cannot run; the first failure: {first}")
            }
            (_, 0) => format!(
                "{lost} of its {chunks} {verb} lost, so its callback cannot run: {}",
                named(&self.lost)
            ),
            (_, failed) => format!(
                "{lost} of its {chunks} {verb} lost and {failed} failed, so its callback cannot run: {}; the first failure: {first}",
                named(&self.lost)
            ),
        }
    }
}

fn tasks(count: usize) -> String {
    match count {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    }
}

/// Returns the beginning of a sentence: `2 of its 10 chunks are`.
fn share_of(count: usize, of: Option<u64>, noun: &str) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    match of {
        Some(of) => format!("{count} of its {of} {noun}s {verb}"),
        None => format!("{count} {noun}{} {verb}", if count == 1 { "" } else { "s" }),
    }
}

/// Lists the first few ids.
fn named(ids: &[TaskId]) -> String {
    let shown: Vec<&str> = ids.iter().take(MAX_NAMED_TASKS).map(TaskId::as_str).collect();
    match ids.len().saturating_sub(MAX_NAMED_TASKS) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
