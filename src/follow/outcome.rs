//! Decides how a job ended, from everything that is known about it: one pure, total function.
//!
//! Sites and proxy refreshes use it, while a job runs, at its end and after a resumed run has picked it up.
//! `docs/outcomes.md` is the same as a table; a test keeps both alike. Silence is no evidence: a job is complete only where
//! its tasks, its callback or the app say so, and what cannot be known is unknown.
//!
//! Not here: how evidence is collected (`follower`, `inventory`) and which stage of waiting a job is in (`machine`).

use super::facts::{Keys, KeysStatus};
use super::inventory::Inventory;
use crate::celery::TaskId;
use crate::counted::plural;

/// Lost tasks named in a reason; the rest is counted.
const NAMED_TASKS: usize = 5;

/// The end of the dispatch task, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub enum DispatchEnd {
    Open,
    Failed(String),
    Revoked(String),
    Succeeded(Answer),
}

/// The meaning of a successful dispatch task's result.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It names an error.
    Error(String),
    /// It says that all is done or that there is nothing to do.
    Done,
    /// It says nothing about the end.
    Other,
}

/// The task whose success ends the job: the chord's callback, or the last link of a chain.
#[derive(Clone, Debug, PartialEq)]
pub enum Callback {
    Unnamed,
    /// An id that may be the callback's: it came without a name.
    Guessed,
    Named,
    Succeeded(HeaderCheck),
    Failed(String),
    Revoked(String),
}

/// The comparison of a chord's header with what its callback can have received.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderCheck {
    /// Still being read.
    Pending,
    /// Every task of the header has succeeded, or its tasks cannot be known.
    Passed,
    /// These tasks had not ended when the callback began: others were counted twice.
    Missing(Vec<TaskId>),
}

/// Tasks of a chord's header that do not succeed, so that its callback cannot run any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderLoss {
    /// Nobody will do them.
    pub lost: Vec<TaskId>,
    pub failed: u64,
    /// `task ID: EXCEPTION`
    pub first_failure: Option<String>,
    /// Tasks of the header in all.
    pub size: u64,
}

/// The file of a proxy pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolFile {
    /// The job is no refresh.
    None,
    /// Its time says nothing yet: something better is waited for.
    NotAsked,
    Unchanged,
    Changed,
}

/// Everything that is known about one job.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    pub dispatch: DispatchEnd,
    /// Tasks that the dispatch task's stored result lists; `None` where no result was stored or read.
    pub children: Option<u64>,
    pub callback: Callback,
    /// What is lost of the named callback's header, where that ends the job at once: another attempt follows.
    pub loss: Option<&'a HeaderLoss>,
    /// An earlier run has published the job.
    pub picked_up: bool,
    /// The app's progress keys.
    pub keys: Option<&'a Keys>,
    /// Whether the keys decide: no callback is waited for any more.
    pub keys_decide: bool,
    pub pool_file: PoolFile,
    /// All tasks of the job, once none of them is queued, held by a worker or running.
    pub inventory: Option<&'a Inventory>,
    /// The queues in which all that is left of the job waits, and which no worker consumes.
    pub unconsumed: Option<&'a str>,
    /// Where the job was searched for, and its worker's death, as a reason has it.
    pub nowhere: &'a str,
    /// How far the job was, as a reason has it.
    pub how_far: &'a str,
    /// Chunks of the job, where the app or Celery says how many.
    pub chunks: Option<u64>,
}

/// The rule that decided, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
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

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet: the job goes on.
    Open,
    Complete,
    /// The app or Celery says that it failed.
    Failed(String),
    /// Something of it will never end.
    Lost(String),
    /// It may have ended well or not.
    Unknown(String),
}

/// A verdict with the rule that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub rule: Rule,
}

/// Decides; every evidence has a verdict.
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    let (rule, verdict) = first_rule(evidence);
    Judgement { verdict, rule }
}

fn first_rule(evidence: &Evidence<'_>) -> (Rule, Verdict) {
    use Verdict::{Complete, Failed, Lost, Open};
    match &evidence.dispatch {
        DispatchEnd::Failed(exception) => {
            return (
                Rule::DispatchFailed,
                Failed(format!("the dispatch task failed: {exception}")),
            );
        }
        DispatchEnd::Revoked(message) => {
            return (
                Rule::DispatchRevoked,
                Failed(format!("the dispatch task was revoked: {message}")),
            );
        }
        DispatchEnd::Succeeded(Answer::Error(error)) => {
            return (
                Rule::AnswerIsError,
                Failed(format!("the dispatch task answered with an error: {error}")),
            );
        }
        DispatchEnd::Succeeded(Answer::Done | Answer::Other) | DispatchEnd::Open => {}
    }
    match &evidence.callback {
        Callback::Failed(exception) => {
            return (Rule::CallbackFailed, Failed(format!("the chord failed: {exception}")));
        }
        Callback::Revoked(message) => {
            return (
                Rule::CallbackRevoked,
                Failed(format!("the chord's callback was revoked: {message}")),
            );
        }
        Callback::Succeeded(HeaderCheck::Missing(tasks)) => {
            return (
                Rule::HeaderIncomplete,
                Lost(format!(
                    "the chord's callback ran without {} of its tasks, so others were counted twice: {}",
                    tasks.len(),
                    named(tasks)
                )),
            );
        }
        Callback::Succeeded(HeaderCheck::Pending) => return (Rule::HeaderUnchecked, Open),
        Callback::Succeeded(HeaderCheck::Passed) => return (Rule::CallbackSucceeded, Complete),
        Callback::Unnamed | Callback::Guessed | Callback::Named => {}
    }
    if let Some(loss) = evidence.loss {
        return match loss.lost.is_empty() {
            false => (Rule::HeaderLost, Lost(loss.reason())),
            true => (Rule::HeaderFailed, Failed(loss.reason())),
        };
    }
    let keys_decide = evidence.keys_decide || evidence.inventory.is_some();
    match evidence.keys.and_then(|keys| keys.status.as_ref()) {
        Some(KeysStatus::Failed(status)) if keys_decide => {
            return (Rule::KeysFailed, Failed(format!("the job's status key says {status}")));
        }
        Some(KeysStatus::Complete) if keys_decide => return (Rule::KeysComplete, Complete),
        Some(_) | None => {}
    }
    if evidence.pool_file == PoolFile::Changed {
        return (Rule::PoolFileChanged, Complete);
    }
    if let DispatchEnd::Succeeded(answer) = &evidence.dispatch
        && evidence.callback == Callback::Unnamed
        && evidence.children == Some(0)
        && *answer == Answer::Done
    {
        return (Rule::AnswerIsDone, Complete);
    }
    if let DispatchEnd::Succeeded(Answer::Other) = evidence.dispatch
        && evidence.callback == Callback::Unnamed
        && evidence.children == Some(0)
        && !evidence.keys_decide
        && evidence.pool_file == PoolFile::None
    {
        return (Rule::NothingStarted, Complete);
    }
    if let Some(reason) = evidence.unconsumed {
        return (Rule::Unconsumed, Lost(format!("the job can never finish: {reason}")));
    }
    match evidence.inventory {
        None => (Rule::StillRunning, Open),
        Some(inventory) => of_remains(evidence, inventory),
    }
}

/// Nothing of the job is queued, held or running any more.
fn of_remains(evidence: &Evidence<'_>, inventory: &Inventory) -> (Rule, Verdict) {
    use Verdict::{Complete, Failed, Lost, Unknown};
    let Evidence { nowhere, how_far, .. } = *evidence;
    let unended = inventory.unended.as_slice();
    let first_failure = || match &inventory.first_failure {
        Some(failure) => format!("; the first failure: {failure}"),
        None => String::new(),
    };
    if evidence.dispatch == DispatchEnd::Open {
        if evidence.picked_up && inventory.known() == 0 {
            let reason = format!("nothing is left of the earlier run's job: its tasks are {nowhere}{how_far}");
            return (Rule::DispatchUnknown, Unknown(reason));
        }
        // Of the moment in which a worker dies no more is believed than that it took its task with it.
        if !inventory.no_end_is_proof && !inventory.are_events_unbroken {
            return (
                Rule::DispatchUnknown,
                Unknown(format!(
                    "the end of the dispatch task is not known: it has no readable result, events were missed, and it is {nowhere}"
                )),
            );
        }
        return (
            Rule::DispatchLost,
            Lost(format!(
                "the dispatch task is lost: it left no result and is {nowhere}{how_far}"
            )),
        );
    }
    if evidence.callback == Callback::Named && !inventory.awaited_is_group {
        let is_all_known = unended.is_empty() && inventory.failed == 0 && inventory.open_chords.is_empty();
        if !inventory.no_end_is_proof || (is_all_known && (!inventory.sees_callbacks || inventory.has_unlisted)) {
            let reason = format!(
                "the end of the chord's callback is not known: it has no readable result, no event of its end arrived, and it is {nowhere}{how_far}"
            );
            return (Rule::CallbackUnknown, Unknown(reason));
        }
        let reason = if unended.is_empty() {
            let failure = first_failure();
            format!("the chord can never finish: its callback has no result and is {nowhere}{how_far}{failure}")
        } else {
            let (lost, named) = (lost_of(unended.len(), evidence.chunks, "chunk"), named(unended));
            format!("the chord can never finish, {lost} lost: {named}; they are {nowhere}")
        };
        return (Rule::CallbackLost, Lost(reason));
    }
    if !unended.is_empty() {
        if !inventory.no_end_is_proof {
            let tasks = tasks(unended.len());
            let reason = format!(
                "the ends of {tasks} are not known: they have no readable result, and events were missed; they are {nowhere}"
            );
            return (Rule::TasksUnknown, Unknown(reason));
        }
        let lost = lost_of(unended.len(), Some(inventory.known()), "task");
        let (named, failure) = (named(unended), first_failure());
        let reason = format!("the job can never finish, {lost} lost: {named}; they are {nowhere}{failure}");
        return (Rule::TasksLost, Lost(reason));
    }
    if inventory.failed > 0 {
        let of = inventory.known();
        let failed = inventory.failed;
        let reason = match &inventory.first_failure {
            Some(failure) => format!("{failed} of the job's {of} tasks failed; the first: {failure}"),
            None => format!("{failed} of the job's {of} tasks failed"),
        };
        return (Rule::TasksFailed, Failed(reason));
    }
    if let Some(chord) = inventory.open_chords.first() {
        return (
            Rule::ChordOpen,
            Lost(format!(
                "a chord's callback never ran: {} of its {}tasks were counted, and the rest is {nowhere}",
                chord.counted,
                chord.size.map_or_else(String::new, |size| format!("{size} "))
            )),
        );
    }
    if evidence.pool_file != PoolFile::None {
        return (
            Rule::PoolFileUnchanged,
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
            return (Rule::KeysBehind, Lost(reason));
        }
        if keys.is_behind() {
            let succeeded = inventory.succeeded;
            let reason = format!("all {succeeded} tasks succeeded, but the app's progress keys disagree{how_far}");
            return (Rule::KeysContradict, Unknown(reason));
        }
        if inventory.known() == 0 {
            let reason = format!("no task of the job is known, and its progress keys name no end{how_far}");
            return (Rule::KeysOpen, Unknown(reason));
        }
    }
    if evidence.dispatch == DispatchEnd::Succeeded(Answer::Done) && evidence.children.is_none() {
        return (Rule::AnswerIsDone, Complete);
    }
    match &inventory.unlisted {
        Some(reason) if evidence.keys.is_none_or(|keys| !keys.all_chunks_done()) => (
            Rule::TasksUnlisted,
            Unknown(format!(
                "whether all tasks of the job ran is not known: {reason}; a dispatch task that returns \
                 {{\"job_id\": ..., \"chord_id\": ID OF THE CALLBACK}} makes it known"
            )),
        ),
        Some(_) | None => (Rule::AllSucceeded, Complete),
    }
}

impl HeaderLoss {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.failed == 0
    }

    /// `2 of its 10 chunks are lost and 1 failed, so its callback cannot run: IDS; the first failure: TEXT`
    pub fn reason(&self) -> String {
        let lost = self.lost.len();
        let verb = if lost == 1 { "is" } else { "are" };
        let first = self.first_failure.as_deref().unwrap_or("its exception is not known");
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

/// `2 of its 10 chunks are`.
fn lost_of(count: usize, of: Option<u64>, what: &str) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    match of {
        Some(of) => format!("{count} of its {of} {what}s {verb}"),
        None => format!("{count} {what}{} {verb}", if count == 1 { "" } else { "s" }),
    }
}

/// The first few ids.
fn named(ids: &[TaskId]) -> String {
    let shown: Vec<&str> = ids.iter().take(NAMED_TASKS).map(TaskId::as_str).collect();
    match ids.len().saturating_sub(NAMED_TASKS) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
