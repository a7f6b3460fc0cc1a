//! State of the header of a job's chord, from the events of tasks: ended tasks, failed tasks, tasks that may be lost.
//!
//! Not here: the search for lost tasks ([`super::monitor`]).

use std::hash::BuildHasher;

use foldhash::{HashMap, HashSet};

use super::inventory::EventOutcome;
use orch_celery::TaskId;

/// Tasks of a header that have failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedChunks {
    pub count: u64,
    /// Text of the first failure: `task ID: EXCEPTION`.
    pub first: Option<String>,
}

/// Signs that tasks of a chord's header are lost, or have failed; a change is worth a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossSigns {
    pub failed: u64,
    /// Number of tasks that have a discarded message.
    pub rejected: usize,
    /// Count of the times at which events may have been missed.
    pub gaps: u64,
}

/// State of a task without a known end.
#[derive(Clone, Copy, Debug, Default)]
struct OpenChunk {
    /// A worker has taken the task at some time: a message with this task id exists or has existed.
    is_taken: bool,
    /// A worker has discarded the message of the task.
    is_rejected: bool,
}

/// Header of one job's chord.
#[derive(Debug, Default)]
pub(crate) struct Header {
    open: HashMap<TaskId, OpenChunk>,
    size: usize,
    failed: FailedChunks,
    /// Number of open tasks that have a discarded message.
    rejected: usize,
    /// Open tasks that were found nowhere, and of which no event has come since.
    suspects: HashSet<TaskId>,
    /// The job has other tasks than the header, the dispatch task and the callback. A task of the header may then have
    /// been replaced by others, or be the last link of a chain: while those run, the task is found nowhere although it
    /// is not lost.
    has_others: bool,
}

impl Header {
    /// Creates a header of these tasks. `ended` are the ends that were seen before the header was known.
    pub fn new<S: BuildHasher>(
        tasks: &[TaskId],
        ended: &std::collections::HashMap<TaskId, EventOutcome, S>,
        first_failure: Option<&(TaskId, String)>,
    ) -> Self {
        let mut header = Self {
            open: tasks.iter().map(|task| (task.clone(), OpenChunk::default())).collect(),
            size: tasks.len(),
            ..Self::default()
        };
        for task in tasks {
            if let Some(outcome) = ended.get(task) {
                let text = first_failure.filter(|(failed, _)| failed == task);
                header.note_taken(task);
                header.note_ended(task, *outcome, || text.map(|(_, text)| text.clone()));
            }
        }
        header
    }

    /// Returns the number of tasks with a known end.
    pub fn ended_count(&self) -> usize {
        self.size.saturating_sub(self.open.len())
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn open(&self) -> impl Iterator<Item = &TaskId> {
        self.open.keys()
    }

    pub fn is_open(&self, task: &TaskId) -> bool {
        self.open.contains_key(task)
    }

    pub fn failed(&self) -> &FailedChunks {
        &self.failed
    }

    /// Notes that a worker has taken `task`. Returns whether the task is an open task of the header.
    pub fn note_taken(&mut self, task: &TaskId) -> bool {
        let Some(open) = self.open.get_mut(task) else {
            return false;
        };
        // After another delivery the task may still end.
        self.rejected -= usize::from(open.is_rejected);
        *open = OpenChunk {
            is_taken: true,
            is_rejected: false,
        };
        self.note_event(task);
        true
    }

    /// Notes that an event of `task` has arrived: the task is no suspect any more.
    pub fn note_event(&mut self, task: &TaskId) {
        if !self.suspects.is_empty() {
            self.suspects.remove(task);
        }
    }

    /// Notes the end of `task`; `text` describes a failure. Returns whether the task belongs to the header and counts
    /// as ended: a rejected task is never counted in the chord.
    pub fn note_ended(&mut self, task: &TaskId, outcome: EventOutcome, text: impl FnOnce() -> Option<String>) -> bool {
        self.note_event(task);
        if outcome == EventOutcome::Rejected {
            if let Some(open) = self.open.get_mut(task) {
                self.rejected += usize::from(!open.is_rejected);
                open.is_rejected = true;
            }
            return false;
        }
        let removed = self.open.remove(task);
        let is_chunk = removed.is_some();
        self.rejected -= usize::from(removed.is_some_and(|open| open.is_rejected));
        if is_chunk && outcome == EventOutcome::Failed {
            self.failed.count += 1;
            if self.failed.first.is_none() {
                self.failed.first = text();
            }
        }
        is_chunk
    }

    /// Notes a task of the job that is not in the header, and is neither the dispatch task nor the callback.
    pub fn note_other(&mut self) {
        self.has_others = true;
    }

    /// Returns the number of open tasks that have a discarded message.
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// Returns the open tasks that must be in a queue or at a worker unless they are lost.
    pub fn candidates(&self) -> Vec<TaskId> {
        if self.has_others {
            return Vec::new();
        }
        let taken = self.open.iter().filter(|(_, open)| open.is_taken);
        taken.map(|(task, _)| task.clone()).collect()
    }

    /// Remembers tasks that were found nowhere.
    pub fn suspect(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        self.suspects = tasks.into_iter().collect();
    }

    /// Returns the tasks that were found nowhere and of which no event has come since.
    pub fn suspects(&self) -> Vec<TaskId> {
        let still_open = self.suspects.iter().filter(|task| self.open.contains_key(*task));
        match self.has_others {
            true => Vec::new(),
            false => still_open.cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::from(text)
    }

    fn header() -> Header {
        let ended = std::collections::HashMap::from([
            (id("a"), EventOutcome::Failed),
            (id("x"), EventOutcome::Failed),
            (id("b"), EventOutcome::Rejected),
        ]);
        let first = (id("a"), "task a: ValueError".to_owned());
        Header::new(&[id("a"), id("b"), id("c"), id("d")], &ended, Some(&first))
    }

    #[test]
    fn ends_before_the_header_was_known_count() {
        let header = header();
        assert_eq!((header.ended_count(), header.size()), (1, 4));
        let failed = FailedChunks {
            count: 1,
            first: Some("task a: ValueError".to_owned()),
        };
        assert_eq!(header.failed(), &failed);
        assert_eq!(header.rejected(), 1);
        assert_eq!(header.candidates(), [id("b")], "the others may not have been published");
    }

    #[test]
    fn a_task_that_moves_is_no_suspect() {
        let mut header = header();
        header.note_taken(&id("c"));
        header.note_taken(&id("d"));
        header.suspect([id("b"), id("c"), id("d")]);
        header.note_event(&id("c"));
        assert!(header.note_ended(&id("d"), EventOutcome::Succeeded, || None));
        assert_eq!(header.suspects(), [id("b")]);
        header.note_taken(&id("b"));
        assert!(header.suspects().is_empty());
        assert_eq!(header.rejected(), 0, "the task was delivered again");
    }

    #[test]
    fn with_other_tasks_in_the_job_no_task_is_a_suspect() {
        let mut header = header();
        header.note_taken(&id("c"));
        header.suspect([id("c")]);
        header.note_other();
        assert!(header.candidates().is_empty());
        assert!(header.suspects().is_empty());
    }
}
