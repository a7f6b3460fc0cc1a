//! Index of tasks by job: which unfinished task belongs to which job, and how the tasks of each job ended, as far as
//! their events show.
//!
//! Control replies name tasks by id only, and of the task events only `task-received` carries `root_id` (Celery wire,
//! observed on 5.x); the index joins them. Not here: where events come from ([`super::monitor`]).

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::event_end::EventEnd;
use super::failures::failure_log::FailureLog;
use super::header::{FailedChunks, Header, LossSigns};
use super::inputs::TaskTally;
use super::inventory::{EventOutcome, EventTasks};
use super::job_record::{JobRecord, MAX_ENDED, failure_text};
use super::signals::ChunkEnd;
use orch_celery::TaskId;

/// Number of a job's last ends that are remembered: a task may end before the end is known to matter.
pub(super) const MAX_RECENT_ENDS: usize = 64;

/// Number of unfinished tasks that are remembered: the tasks of a hundred workers that have each prefetched two
/// thousand. A task that is received beyond this number has an unknown owner until the end, and the owner is looked up
/// where that matters.
pub(super) const MAX_UNFINISHED: usize = 200_000;

/// Number of revoked tasks of unknown jobs that are remembered.
const MAX_STRAYS: usize = 1_000;

/// Owner of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskOwner {
    /// The job with this root.
    Job(TaskId),
    /// Another job: the task was in a worker before any job of this run was published.
    Foreign,
    /// Not known: the task's `task-received` was not seen.
    Unknown,
}

/// Facts from task events.
#[derive(Debug, Default)]
pub struct TaskIndex {
    /// Root of each task that was received and has not ended.
    pub(super) unfinished: HashMap<TaskId, TaskId>,
    foreign: HashSet<TaskId>,
    /// Latest tasks that were revoked without having been received: a worker drops an expired message before
    /// `task-received` is sent (Celery wire, observed on 5.2 to 5.7), so that the job of the task is not known.
    strays: VecDeque<TaskId>,
    jobs: HashMap<TaskId, JobRecord>,
    /// Count of the times at which events may have been missed.
    gaps: u64,
    /// A worker has reported at least one task.
    has_events: bool,
}

impl TaskIndex {
    /// Adds tasks that existed before the first job, and so belong to no job of this run.
    pub fn add_foreign(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        self.foreign.extend(tasks);
    }

    /// Opens the record of the job with the first task `root`; must be called before publishing. Failures of the job's
    /// tasks go to the log.
    pub fn open(&mut self, root: &TaskId, failures: FailureLog) {
        if self.jobs.contains_key(root) {
            return;
        }
        // A job that is picked up may have been running for long.
        let known = self.unfinished.iter();
        let known = known.filter(|(task, owner)| *owner == root && *task != root).count();
        let record = JobRecord {
            unfinished: u64::try_from(known).unwrap_or(u64::MAX),
            failures,
            ..JobRecord::default()
        };
        self.jobs.insert(root.clone(), record);
    }

    /// Remembers how `task` of the job ends, or how the task ended a moment ago.
    pub fn watch(&mut self, root: &TaskId, task: &TaskId) {
        if let Some(record) = self.jobs.get_mut(root) {
            let ended = record
                .recent
                .iter()
                .find(|(recent, _)| recent == task)
                .map(|(_, end)| end.clone());
            record.watched.entry(task.clone()).or_insert(ended);
        }
    }

    /// Sets the tasks of the header of the job's chord; recent ends of these are known.
    pub fn set_header(&mut self, root: &TaskId, tasks: &[TaskId]) {
        let Some(record) = self.jobs.get_mut(root).filter(|record| record.header.is_none()) else {
            return;
        };
        let mut header = Header::new(tasks, &record.ended, record.first_failure.as_ref());
        let members: HashSet<&TaskId> = tasks.iter().collect();
        let is_other = |task: &TaskId| !members.contains(task) && task != root && !record.watched.contains_key(task);
        if record.ended.keys().any(is_other) {
            header.note_other();
        }
        for (task, _) in self.unfinished.iter().filter(|(_, owner)| *owner == root) {
            if is_other(task) {
                header.note_other();
            }
            header.note_taken(task);
        }
        record.header = Some(header);
    }

    /// Forgets the job.
    pub fn close(&mut self, root: &TaskId) {
        self.jobs.remove(root);
    }

    /// Notes that a worker has taken `task`, which has this name. Returns the job that this affects.
    pub fn note_received(&mut self, task: TaskId, root: TaskId, name: Option<&str>) -> Option<TaskId> {
        let is_kept = self.unfinished.len() < MAX_UNFINISHED;
        self.has_events = true;
        let touched = self.jobs.get_mut(&root).map(|record| {
            record.changes += 1;
            record.unfinished += u64::from(is_kept && task != root);
            record.is_incomplete |= !is_kept;
            record.taken(&task, task == root);
            record.names.note(&task, task == root, name);
            root.clone()
        });
        let before = if is_kept {
            self.unfinished.insert(task.clone(), root)
        } else {
            self.unfinished.remove(&task)
        };
        // After another delivery only one worker holds the task.
        if let Some(before) = before {
            self.decrement_unfinished(&task, &before);
        }
        touched
    }

    /// Notes that no worker holds `task` of the job any more.
    fn decrement_unfinished(&mut self, task: &TaskId, root: &TaskId) {
        if let Some(record) = self.jobs.get_mut(root).filter(|_| task != root) {
            record.decrement_unfinished();
        }
    }

    /// Notes an event of `task` that is not the end. Returns the job that this affects.
    pub fn note_event(&mut self, task: &TaskId) -> Option<TaskId> {
        let root = self.unfinished.get(task)?;
        let record = self.jobs.get_mut(root)?;
        record.changes += 1;
        if let Some(header) = &mut record.header {
            header.note_event(task);
        }
        Some(root.clone())
    }

    /// Notes the end of `task`. Returns the job that this affects.
    pub fn note_ended(&mut self, task: &TaskId, end: EventEnd<&str>) -> Option<TaskId> {
        self.note_ended_after(task, end, None)
    }

    /// Notes the end of `task`, which ran for this time. Returns the job that this affects.
    pub fn note_ended_after(
        &mut self,
        task: &TaskId,
        end: EventEnd<&str>,
        runtime: Option<Duration>,
    ) -> Option<TaskId> {
        let held = self.unfinished.remove(task);
        let was_held = held.is_some();
        let Some(root) = held.or_else(|| self.owner_by_header(task, &end)) else {
            if let EventEnd::Revoked(_) = end {
                self.add_stray(task);
            }
            return None;
        };
        let record = self.jobs.get_mut(&root)?;
        record.changes += 1;
        // The counts leave out the dispatch task: the end of that task is judged separately.
        let outcome = end.outcome();
        if *task != root {
            if was_held {
                record.decrement_unfinished();
            }
            match outcome {
                EventOutcome::Succeeded => record.succeeded += 1,
                EventOutcome::Failed | EventOutcome::Rejected => record.failed += 1,
            }
            record.remember(task, outcome, &end);
        }
        let text = || Some(failure_text(task, &end));
        let is_chunk = record
            .header
            .as_mut()
            .is_some_and(|header| header.note_ended(task, outcome, text));
        if let Some(watched) = record.watched.get_mut(task) {
            *watched = Some(end.clone().copied_into(String::new()));
        } else if *task != root {
            if record.ends.len() == MAX_RECENT_ENDS {
                record.ends.pop_front();
            }
            let succeeded = matches!(end, EventEnd::Succeeded(_));
            record.ends.push_back(ChunkEnd { succeeded, runtime });
        }
        if is_chunk {
            // Nothing will look up the end of this task by id.
            return Some(root);
        }
        // Reuse the memory of the oldest text for the newest one: this code runs for each chunk.
        let oldest = if record.recent.len() == MAX_RECENT_ENDS {
            record.recent.pop_front()
        } else {
            None
        };
        let space = oldest.map(|(_, end)| end.into_text()).unwrap_or_default();
        record.recent.push_back((task.clone(), end.copied_into(space)));
        Some(root)
    }

    /// Returns the name of a task that a worker has taken and that has not ended.
    pub fn name_of(&self, task: &TaskId) -> Option<&str> {
        let root = self.unfinished.get(task)?;
        self.jobs.get(root)?.names.of(task)
    }

    /// Returns whether a worker has reported any task.
    pub fn has_events(&self) -> bool {
        self.has_events
    }

    /// Returns the log for the failures of the job's tasks.
    pub fn failures(&self, root: &TaskId) -> Option<&FailureLog> {
        Some(&self.jobs.get(root)?.failures)
    }

    /// Finds the job of a task that was revoked before a worker sent `task-received`.
    fn owner_by_header(&self, task: &TaskId, end: &EventEnd<&str>) -> Option<TaskId> {
        if !matches!(end, EventEnd::Revoked(_)) {
            return None;
        }
        let has_it = |record: &JobRecord| record.header.as_ref().is_some_and(|header| header.is_open(task));
        self.jobs
            .iter()
            .find(|(_, record)| has_it(record))
            .map(|(root, _)| root.clone())
    }

    fn add_stray(&mut self, task: &TaskId) {
        if self.strays.len() == MAX_STRAYS {
            self.strays.pop_front();
        }
        self.strays.push_back(task.clone());
    }

    /// Returns revoked tasks of unknown jobs.
    pub fn strays(&self) -> Vec<TaskId> {
        self.strays.iter().cloned().collect()
    }

    /// Notes that events were missed: the unfinished tasks are not known any more.
    pub fn forget_unfinished(&mut self) {
        self.unfinished.clear();
        self.gaps += 1;
        for record in self.jobs.values_mut() {
            record.unfinished = 0;
            record.is_incomplete = true;
        }
    }

    /// Marks the events of the job as incomplete: an earlier run has published the job.
    pub fn mark_incomplete(&mut self, root: &TaskId) {
        if let Some(record) = self.jobs.get_mut(root) {
            record.is_incomplete = true;
        }
    }

    /// Notes that messages of these tasks of the job were seen in a queue: if they vanish, the tasks are lost.
    pub fn note_waiting(&mut self, root: &TaskId, tasks: &[TaskId]) {
        if let Some(record) = self.jobs.get_mut(root) {
            let room = MAX_ENDED.saturating_sub(record.seen_waiting.len());
            record.seen_waiting.extend(tasks.iter().take(room).cloned());
        }
    }

    /// Returns whether a worker has taken `task` and the task has not ended.
    pub fn is_unfinished(&self, task: &TaskId) -> bool {
        self.unfinished.contains_key(task)
    }

    /// Returns the tasks of the job's header that have no known end; `None` if the header is not known.
    pub fn open_header(&self, root: &TaskId) -> Option<Vec<TaskId>> {
        let header = self.header(root)?;
        Some(header.open().cloned().collect())
    }

    fn header(&self, root: &TaskId) -> Option<&Header> {
        self.jobs.get(root)?.header.as_ref()
    }

    /// Returns the tasks of the job's header that have failed.
    pub fn failed_chunks(&self, root: &TaskId) -> FailedChunks {
        let header = self.header(root);
        header.map(|header| header.failed().clone()).unwrap_or_default()
    }

    /// Returns the signs that tasks of the job's header are lost, or have failed.
    pub fn loss_signs(&self, root: &TaskId) -> LossSigns {
        let header = self.header(root);
        LossSigns {
            failed: header.map_or(0, |header| header.failed().count),
            rejected: header.map_or(0, Header::rejected),
            gaps: self.gaps,
        }
    }

    /// Returns the tasks of the job's header that must be in a queue or at a worker unless they are lost; none if that
    /// is not known.
    pub fn loss_candidates(&self, root: &TaskId) -> Vec<TaskId> {
        let header = self.header(root);
        header.map(Header::candidates).unwrap_or_default()
    }

    /// Remembers tasks of the job's header that were found nowhere.
    pub fn suspect(&mut self, root: &TaskId, tasks: impl IntoIterator<Item = TaskId>) {
        if let Some(header) = self.jobs.get_mut(root).and_then(|record| record.header.as_mut()) {
            header.suspect(tasks);
        }
    }

    /// Returns those remembered tasks of which no event has come since.
    pub fn suspects(&self, root: &TaskId) -> Vec<TaskId> {
        let header = self.header(root);
        header.map(Header::suspects).unwrap_or_default()
    }

    /// Returns the job's tasks without the dispatch task.
    pub fn tasks(&self, root: &TaskId) -> EventTasks {
        let unfinished = self.unfinished(root).into_iter().filter(|task| task != root).collect();
        match self.jobs.get(root) {
            Some(record) => EventTasks {
                ended: record.ended.iter().map(|(task, end)| (task.clone(), *end)).collect(),
                unfinished,
                seen_waiting: record.seen_waiting.iter().cloned().collect(),
                first_failure: record.first_failure.as_ref().map(|(_, text)| text.clone()),
                is_incomplete: record.is_incomplete,
                has_no_event: record.changes == 0,
            },
            None => EventTasks {
                unfinished,
                is_incomplete: true,
                has_no_event: true,
                ..EventTasks::default()
            },
        }
    }

    pub fn owner(&self, task: &TaskId) -> TaskOwner {
        match self.unfinished.get(task) {
            Some(root) => TaskOwner::Job(root.clone()),
            None if self.foreign.contains(task) => TaskOwner::Foreign,
            None => TaskOwner::Unknown,
        }
    }

    /// Returns how a watched task ended, once the event was seen.
    pub fn end_of(&self, root: &TaskId, task: &TaskId) -> Option<EventEnd> {
        self.jobs.get(root)?.watched.get(task)?.clone()
    }

    /// Returns the ends of the job's chunks since the last call; if there are too many, the latest.
    pub fn take_ends(&mut self, root: &TaskId) -> VecDeque<ChunkEnd> {
        self.jobs
            .get_mut(root)
            .map(|record| std::mem::take(&mut record.ends))
            .unwrap_or_default()
    }

    /// Returns a number that rises with every event of the job.
    pub fn changes(&self, root: &TaskId) -> u64 {
        self.jobs.get(root).map_or(0, |record| record.changes)
    }

    /// Returns the counts of the job's tasks without the dispatch task.
    pub fn tally(&self, root: &TaskId) -> TaskTally {
        let record = self.jobs.get(root);
        TaskTally {
            succeeded: record.map_or(0, |record| record.succeeded),
            failed: record.map_or(0, |record| record.failed),
            unfinished: record.map_or(0, |record| record.unfinished),
            header: record.and_then(JobRecord::header),
        }
    }

    /// Returns the tasks of the job that a worker has taken and that have not ended, including the dispatch task.
    pub fn unfinished(&self, root: &TaskId) -> Vec<TaskId> {
        self.unfinished
            .iter()
            .filter(|(_, owner)| *owner == root)
            .map(|(task, _)| task.clone())
            .collect()
    }
}
