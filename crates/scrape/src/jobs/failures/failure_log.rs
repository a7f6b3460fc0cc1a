//! Failed tasks of one site: counts by signature over all attempts, and the first failure of each signature.
//!
//! The reader of events, the follower of the job and the attempt share one log. A task counts once, whether its event,
//! its stored result or both show the failure.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::exception_text;
use super::signature::signature;
use super::task_end_kind;
use orch_base::text::printable::shortened;
use orch_base::wall_clock::unix_now;
use orch_celery::{TaskFailure, TaskId};
use orch_journal::{ErrorCount, FailedTask, LogExcerpt, SiteName, TaskEndKind};

/// Number of signatures that are counted apart.
const MAX_SIGNATURES: usize = 100;
/// Number of signatures that are reported at the end of a site.
const MAX_REPORTED: usize = 20;
/// Number of failed tasks that are remembered, so that none counts twice.
const MAX_TASKS: usize = 100_000;
/// Number of characters of an exception that are kept.
const MAX_EXCEPTION: usize = 4 << 10;
/// Number of bytes at the end of a traceback that are kept: the end names the place.
const MAX_TRACEBACK: usize = 8 << 10;

/// First failure of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstFailure {
    pub signature: String,
    pub kind: TaskEndKind,
    pub exception: String,
    pub traceback: Option<String>,
    pub task: TaskId,
    /// Name of the task, if an event or the result shows the name.
    pub name: Option<String>,
    /// Node name of the worker.
    pub worker: Option<String>,
}

impl FirstFailure {
    /// Makes the fact of a failure in the job of a site or, without a site, of a proxy refresh.
    pub(crate) fn into_fact(
        self,
        site: Option<SiteName>,
        attempt: u32,
        chunk: Option<u64>,
        log: Option<LogExcerpt>,
    ) -> FailedTask {
        FailedTask {
            site,
            attempt,
            signature: self.signature,
            kind: self.kind,
            exception: self.exception,
            traceback: self.traceback,
            task_id: self.task.as_str().to_owned(),
            task: self.name,
            worker: self.worker,
            chunk,
            log,
        }
    }
}

/// Failure as an event or a result shows it.
#[derive(Clone, Debug)]
pub(crate) struct ObservedFailure<'a> {
    pub task: &'a TaskId,
    pub kind: TaskEndKind,
    /// Exception, `Class: message`.
    pub exception: String,
    pub traceback: Option<&'a str>,
    pub name: Option<&'a str>,
    pub worker: Option<&'a str>,
}

/// Log of the failed tasks of one site. Clones share the log.
#[derive(Clone, Debug, Default)]
pub struct FailureLog(Arc<Mutex<FailureCounts>>);

#[derive(Debug, Default)]
struct FailureCounts {
    counts: Vec<ErrorCount>,
    places: HashMap<String, usize>,
    /// Number of failures with signatures that are not counted apart.
    others: u64,
    tasks: HashSet<TaskId>,
    news: Vec<FirstFailure>,
}

impl FailureLog {
    /// Locks the counts. A panic elsewhere leaves no half-written entry.
    fn counts(&self) -> MutexGuard<'_, FailureCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failed task; a task that was noted before does not count again.
    pub(crate) fn note(&self, failure: ObservedFailure<'_>) {
        self.counts().note(failure, unix_now().as_secs_f64());
    }

    /// Notes a failure from a stored result. The failure of a callback that never ran stands for the task of the header
    /// that the result names.
    pub(crate) fn note_result(&self, task: &TaskId, failure: &TaskFailure) {
        if let Some((failed, exception)) = exception_text::of_chord_error(failure) {
            return self.note(ObservedFailure {
                task: &failed,
                kind: task_end_kind::of_exception(&exception),
                exception,
                traceback: None,
                name: None,
                worker: None,
            });
        }
        let exception = exception_text::from_result(failure);
        let kind = task_end_kind::of_exception(&exception);
        self.note(ObservedFailure {
            task,
            kind,
            exception,
            traceback: failure.traceback.as_deref(),
            name: None,
            worker: None,
        });
    }

    /// Notes a failed task whose exception was not read.
    pub(crate) fn note_unread(&self, task: &TaskId) {
        let mut counts = self.counts();
        if counts.is_new(task) {
            counts.others += 1;
        }
    }

    /// Returns whether the failure of the task was noted.
    pub(crate) fn has_noted(&self, task: &TaskId) -> bool {
        self.counts().tasks.contains(task)
    }

    /// Returns the first failures of signatures that are new since the last call.
    pub(crate) fn take_new(&self) -> Vec<FirstFailure> {
        std::mem::take(&mut self.counts().news)
    }

    /// Returns the most frequent signatures, and the number of failures with other signatures.
    pub fn most_frequent(&self) -> (Vec<ErrorCount>, u64) {
        let counts = self.counts();
        let mut sorted = counts.counts.clone();
        // Stable: of equal counts the earlier signature comes first.
        sorted.sort_by_key(|error| std::cmp::Reverse(error.count));
        let rest = sorted.split_off(sorted.len().min(MAX_REPORTED));
        (
            sorted,
            counts.others + rest.iter().map(|error| error.count).sum::<u64>(),
        )
    }
}

impl FailureCounts {
    /// Remembers the task; returns false if the task was remembered before.
    fn is_new(&mut self, task: &TaskId) -> bool {
        if self.tasks.len() < MAX_TASKS {
            self.tasks.insert(task.clone())
        } else {
            !self.tasks.contains(task)
        }
    }

    fn note(&mut self, failure: ObservedFailure<'_>, now: f64) {
        if !self.is_new(failure.task) {
            return;
        }
        let signature = match signature(&failure.exception) {
            empty if empty.is_empty() => "no exception text".to_owned(),
            signature => signature,
        };
        if let Some(place) = self.places.get(&signature) {
            let error = &mut self.counts[*place];
            error.count += 1;
            error.last_at = now;
            return;
        }
        if self.counts.len() == MAX_SIGNATURES {
            self.others += 1;
            return;
        }
        self.places.insert(signature.clone(), self.counts.len());
        self.counts.push(ErrorCount {
            signature: signature.clone(),
            count: 1,
            first_at: now,
            last_at: now,
        });
        self.news.push(FirstFailure {
            signature,
            kind: failure.kind,
            exception: shortened(&failure.exception, MAX_EXCEPTION),
            traceback: failure.traceback.map(end_of_traceback).filter(|text| !text.is_empty()),
            task: failure.task.clone(),
            name: failure.name.map(str::to_owned),
            worker: failure.worker.map(str::to_owned),
        });
    }
}

/// Returns the last whole lines of a traceback.
fn end_of_traceback(text: &str) -> String {
    let text = text.trim_end();
    if text.len() <= MAX_TRACEBACK {
        return text.to_owned();
    }
    let start = text.ceil_char_boundary(text.len() - MAX_TRACEBACK);
    let tail = &text[start..];
    // A line that was cut says nothing. A single long line stays.
    let whole = tail.split_once('\n').map_or(tail, |(_, whole)| whole);
    format!("…\n{whole}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(log: &FailureLog, task: &str, exception: &str) {
        log.note(ObservedFailure {
            task: &TaskId::from(task),
            kind: TaskEndKind::Raised,
            exception: exception.to_owned(),
            traceback: Some("Traceback\n"),
            name: Some("app.chunk"),
            worker: Some("w@h"),
        });
    }

    #[test]
    fn a_task_counts_once_and_the_most_frequent_signature_comes_first() {
        let log = FailureLog::default();
        note(&log, "a", "KeyError: 'price'");
        for task in ["b", "c", "c"] {
            note(&log, task, &format!("ValueError: no page {}", task.len() + 4));
        }
        let news = log.take_new();
        let found: Vec<&str> = news.iter().map(|new| new.signature.as_str()).collect();
        assert_eq!(found, ["KeyError: <text>", "ValueError: no page <n>"]);
        assert_eq!(news[1].task, TaskId::from("b"));
        note(&log, "d", "KeyError: 'name'");
        note(&log, "e", "KeyError: 'date'");
        assert_eq!(log.take_new(), [], "the signatures are known");
        let (errors, others) = log.most_frequent();
        let counts: Vec<(&str, u64)> = errors
            .iter()
            .map(|error| (error.signature.as_str(), error.count))
            .collect();
        assert_eq!(
            (counts, others),
            (vec![("KeyError: <text>", 3), ("ValueError: no page <n>", 2)], 0)
        );
        assert!(log.has_noted(&TaskId::from("c")) && !log.has_noted(&TaskId::from("x")));
    }

    #[test]
    fn signatures_without_end_are_counted_together() {
        let log = FailureLog::default();
        let word = |number: usize| {
            number
                .to_string()
                .chars()
                .map(|digit| char::from(b'a' + digit as u8 - b'0'))
                .collect::<String>()
        };
        for number in 0..150 {
            note(&log, &format!("task {number}"), &format!("E: {}", word(number)));
        }
        assert_eq!(log.take_new().len(), MAX_SIGNATURES);
        let (errors, others) = log.most_frequent();
        assert_eq!((errors.len(), others), (MAX_REPORTED, 130));
    }

    #[test]
    fn a_failed_callback_that_never_ran_stands_for_the_task_of_the_header() {
        let log = FailureLog::default();
        note(&log, "chunk-1", "ValueError: no page 7");
        let failure = |text: &str| TaskFailure {
            exc_type: "ChordError".to_owned(),
            exc_message: text.to_owned(),
            ..TaskFailure::default()
        };
        log.note_result(
            &TaskId::from("callback"),
            &failure("Dependency chunk-1 raised ValueError('no page 7')"),
        );
        log.note_result(
            &TaskId::from("callback"),
            &failure("Dependency chunk-2 raised ValueError('no page 9')"),
        );
        log.note_result(&TaskId::from("callback"), &failure("GroupResult 5 no longer exists"));
        let (errors, _) = log.most_frequent();
        let counts: Vec<(&str, u64)> = errors
            .iter()
            .map(|error| (error.signature.as_str(), error.count))
            .collect();
        assert_eq!(
            counts,
            [
                ("ValueError: no page <n>", 2),
                ("ChordError: GroupResult <n> no longer exists", 1)
            ]
        );
    }

    #[test]
    fn the_end_of_a_long_traceback_is_kept() {
        let log = FailureLog::default();
        let long = format!(
            "Traceback\n{}ValueError: é\n",
            "  File \"é.py\", line 7\n".repeat(2_000)
        );
        log.note(ObservedFailure {
            task: &TaskId::from("a"),
            kind: TaskEndKind::Raised,
            exception: "ValueError: é".to_owned(),
            traceback: Some(&long),
            name: None,
            worker: None,
        });
        let kept = log.take_new()[0].traceback.clone().expect("it has one");
        assert!(kept.len() < MAX_TRACEBACK + 10 && kept.starts_with("…\n  File") && kept.ends_with("ValueError: é"));
    }
}
