//! Record of one job's tasks in the task index: their ends, their counts, the header of the job's chord.

use std::collections::VecDeque;

use foldhash::{HashMap, HashSet};

use super::event_end::EventEnd;
use super::failures::failure_log::FailureLog;
use super::failures::task_names::TaskNames;
use super::header::Header;
use super::inventory::EventOutcome;
use super::signals::ChunkEnd;
use orch_base::text::printable::shortened;
use orch_celery::TaskId;

/// Number of tasks of one job for which each end is remembered: a task without a stored result is known by the event
/// alone.
pub(super) const MAX_ENDED: usize = 100_000;

/// Number of characters of an exception in the reason for a job's end.
const MAX_FAILURE_CHARS: usize = 300;

/// Facts about the tasks of one job, from their events.
#[derive(Debug, Default)]
pub(super) struct JobRecord {
    /// Number of the job's events.
    pub changes: u64,
    /// Number of unfinished tasks without the dispatch task. The number agrees with the map of unfinished tasks, and is
    /// read with every event.
    pub unfinished: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Ends of the tasks that are watched by id.
    pub watched: HashMap<TaskId, Option<EventEnd>>,
    pub recent: VecDeque<(TaskId, EventEnd)>,
    /// Ends that were not taken yet, of all tasks that are not watched.
    pub ends: VecDeque<ChunkEnd>,
    /// Header of the chord, once the header is known.
    pub header: Option<Header>,
    /// Every end that was seen, except the dispatch task's.
    pub ended: HashMap<TaskId, EventOutcome>,
    /// First task that failed, with the text `task ID: EXCEPTION`.
    pub first_failure: Option<(TaskId, String)>,
    /// Tasks with messages that were seen in a queue.
    pub seen_waiting: HashSet<TaskId>,
    /// Events were missed, or more tasks ended than are remembered.
    pub is_incomplete: bool,
    pub names: TaskNames,
    pub failures: FailureLog,
}

impl JobRecord {
    pub fn decrement_unfinished(&mut self) {
        self.unfinished = self.unfinished.saturating_sub(1);
    }

    pub fn remember(&mut self, task: &TaskId, outcome: EventOutcome, end: &EventEnd<&str>) {
        if self.ended.len() < MAX_ENDED {
            self.ended.insert(task.clone(), outcome);
        } else {
            self.is_incomplete = true;
        }
        if outcome != EventOutcome::Succeeded && self.first_failure.is_none() {
            self.first_failure = Some((task.clone(), failure_text(task, end)));
        }
    }

    /// Returns the number of ended tasks of the header, and the size of the header.
    pub fn header(&self) -> Option<(u64, u64)> {
        let header = self.header.as_ref()?;
        Some((
            u64::try_from(header.ended_count()).ok()?,
            u64::try_from(header.size()).ok()?,
        ))
    }

    /// Notes that a worker has taken `task` of the job; `is_root` if this is the job's first task.
    pub fn taken(&mut self, task: &TaskId, is_root: bool) {
        if let Some(header) = &mut self.header
            && !header.note_taken(task)
            && !is_root
            && !self.watched.contains_key(task)
            && !self.ended.contains_key(task)
        {
            header.note_other();
        }
    }
}

/// Returns `task ID: EXCEPTION`.
pub(super) fn failure_text(task: &TaskId, end: &EventEnd<&str>) -> String {
    let text = match end {
        EventEnd::Succeeded(text) | EventEnd::Failed(text) | EventEnd::Revoked(text) => *text,
        EventEnd::Rejected => "rejected",
    };
    format!("task {task}: {}", shortened(text, MAX_FAILURE_CHARS))
}
