//! The header of a job's chord by the events of its tasks: which have ended, which have failed, and which may be lost.
//!
//! Not here: where lost tasks are looked for (`loss`).

use std::hash::BuildHasher;

use foldhash::{HashMap, HashSet};

use super::inventory::EventOutcome;
use crate::celery::TaskId;

/// Tasks of a header that have failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedChunks {
    pub count: u64,
    /// `task ID: EXCEPTION`
    pub first: Option<String>,
}

/// The state of a task whose end was not seen.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    /// A worker has taken it at some time: a message of its id exists or has existed.
    is_taken: bool,
    /// A worker threw its message away.
    is_rejected: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Header {
    open: HashMap<TaskId, Open>,
    size: usize,
    failed: FailedChunks,
    /// Open tasks whose message a worker threw away.
    rejected: usize,
    /// Open tasks that were found nowhere, and of which no event has come since.
    suspects: HashSet<TaskId>,
    /// The job has tasks besides its header, its dispatch task and its callback. A task of the header may then have been
    /// replaced by others, or be the last link of a chain: it is nowhere while those run, and not lost.
    has_others: bool,
}

impl Header {
    /// A header of these tasks; `ended` are the ends that were seen before it was known.
    pub fn new<S: BuildHasher>(
        tasks: &[TaskId],
        ended: &std::collections::HashMap<TaskId, EventOutcome, S>,
        first_failure: Option<&(TaskId, String)>,
    ) -> Self {
        let mut header = Self {
            open: tasks.iter().map(|task| (task.clone(), Open::default())).collect(),
            size: tasks.len(),
            ..Self::default()
        };
        for task in tasks {
            if let Some(outcome) = ended.get(task) {
                let text = first_failure.filter(|(failed, _)| failed == task);
                header.taken(task);
                header.ended(task, *outcome, || text.map(|(_, text)| text.clone()));
            }
        }
        header
    }

    /// Tasks whose end was seen.
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

    /// A worker has taken `task`. Returns whether it is an open task of the header.
    pub fn taken(&mut self, task: &TaskId) -> bool {
        let Some(open) = self.open.get_mut(task) else {
            return false;
        };
        // Delivered again it may end after all.
        self.rejected -= usize::from(open.is_rejected);
        *open = Open {
            is_taken: true,
            is_rejected: false,
        };
        self.moved(task);
        true
    }

    /// `task` shows a sign of life.
    pub fn moved(&mut self, task: &TaskId) {
        if !self.suspects.is_empty() {
            self.suspects.remove(task);
        }
    }

    /// `task` has ended; `text` describes its failure. Returns whether it is a task of the header that counts as ended: a
    /// rejected one is never counted in its chord.
    pub fn ended(&mut self, task: &TaskId, outcome: EventOutcome, text: impl FnOnce() -> Option<String>) -> bool {
        self.moved(task);
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

    /// A task of the job was seen that is none of its header, its dispatch task and its callback.
    pub fn note_other(&mut self) {
        self.has_others = true;
    }

    /// Open tasks whose message a worker threw away.
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// The open tasks that would be in a queue, at a worker or ended if they were not lost.
    pub fn candidates(&self) -> Vec<TaskId> {
        if self.has_others {
            return Vec::new();
        }
        let taken = self.open.iter().filter(|(_, open)| open.is_taken);
        taken.map(|(task, _)| task.clone()).collect()
    }

    /// Remembers these as found nowhere.
    pub fn suspect(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        self.suspects = tasks.into_iter().collect();
    }

    /// Those of which no event has come since they were found nowhere.
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
    fn what_ended_before_the_header_was_known_counts() {
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
        header.taken(&id("c"));
        header.taken(&id("d"));
        header.suspect([id("b"), id("c"), id("d")]);
        header.moved(&id("c"));
        assert!(header.ended(&id("d"), EventOutcome::Succeeded, || None));
        assert_eq!(header.suspects(), [id("b")]);
        header.taken(&id("b"));
        assert!(header.suspects().is_empty());
        assert_eq!(header.rejected(), 0, "it was delivered again");
    }

    #[test]
    fn beside_other_tasks_nothing_is_a_suspect() {
        let mut header = header();
        header.taken(&id("c"));
        header.suspect([id("c")]);
        header.note_other();
        assert!(header.candidates().is_empty());
        assert!(header.suspects().is_empty());
    }
}
