//! Inventory of a job: all tasks of the job and their ends, combined from stored results, events and chord counters
//! once nothing of the job is queued or running.
//!
//! Not here: the readings ([`super::remains`]), and the verdict ([`super::outcome`]).

use std::collections::{BTreeMap, HashMap, HashSet};

use orch_celery::{GroupId, TaskDescendants, TaskId, TaskOutcome};

/// End of a task by an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Succeeded,
    /// Failed or revoked.
    Failed,
    /// Rejected for good: a worker discarded the message.
    Rejected,
}

/// Tasks of one job by their events, without the dispatch task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTasks {
    pub ended: HashMap<TaskId, EventOutcome>,
    /// Tasks that a worker has received and that have no known end.
    pub unfinished: Vec<TaskId>,
    /// Tasks with messages that were seen in a queue.
    pub seen_waiting: Vec<TaskId>,
    /// Text of the first failure: `task ID: EXCEPTION`.
    pub first_failure: Option<String>,
    /// Events were missed since the job was published, or more tasks ended than are remembered.
    pub is_incomplete: bool,
    /// No event of the job was seen, not even one of the dispatch task.
    pub has_no_event: bool,
}

/// Chord with counters that still exist: the callback was not called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenChord {
    pub group: GroupId,
    /// Size of the header; `None` if no size is stored. Celery stores the size with the last task of the header and
    /// removes the size when the callback is called. A worker that gives up a lost process counts that process' task
    /// again, perhaps after the call.
    pub size: Option<u64>,
    pub counted: u64,
}

/// Everything that was read about the remains of a job.
#[derive(Clone, Debug, Default)]
pub struct JobRemains {
    /// Tasks that the counts leave out: the chain up to the dispatch task.
    pub dispatch: Vec<TaskId>,
    /// Id that the app names as the callback's id.
    pub callback: Option<TaskId>,
    /// The children of the dispatch task are known.
    pub is_recorded: bool,
    pub events: EventTasks,
    pub stored: TaskDescendants,
    pub open_chords: Vec<OpenChord>,
    pub worker_died: bool,
}

/// Tasks of a job and their ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobInventory {
    pub succeeded: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
    /// Tasks that are known to belong to the job and that have no end.
    pub unended: Vec<TaskId>,
    pub open_chords: Vec<OpenChord>,
    /// Tasks have run that no list of children names; the callback of a chord is such a task.
    pub has_unlisted: bool,
    /// The awaited id is the id of a group of tasks of the job.
    pub awaited_is_group: bool,
    /// Reason why tasks may exist that are not listed here.
    pub unlisted: Option<String>,
    /// The id of a callback would have been recognised: results are stored, and no event was missed.
    pub sees_callbacks: bool,
    /// A task with neither a stored result nor an event of the end has not ended: neither can have been missed.
    pub no_end_is_proof: bool,
    /// No event of the job was missed, except the last events of a worker that died.
    pub are_events_unbroken: bool,
    pub worker_died: bool,
}

impl JobInventory {
    /// Returns the number of all known tasks.
    pub fn known(&self) -> u64 {
        let unended = u64::try_from(self.unended.len()).unwrap_or(u64::MAX);
        self.succeeded.saturating_add(self.failed).saturating_add(unended)
    }

    /// Combines everything that was read.
    pub fn of(remains: JobRemains) -> Self {
        let JobRemains {
            dispatch,
            callback,
            is_recorded,
            events,
            stored,
            open_chords,
            worker_died,
        } = remains;
        let apart: HashSet<&TaskId> = dispatch.iter().collect();
        // Sorted by id, so that the same remains give the same texts.
        let mut ends: BTreeMap<&TaskId, Option<EventOutcome>> = BTreeMap::new();
        for task in events.unfinished.iter().chain(&events.seen_waiting) {
            ends.insert(task, None);
        }
        for (task, end) in &events.ended {
            ends.insert(task, Some(*end));
        }
        let (mut unstored, mut found_stored) = (0_u64, false);
        for (task, found) in &stored.tasks {
            let end = ends.entry(task).or_insert(None);
            match found.outcome {
                Some(TaskOutcome::Succeeded) => *end = Some(EventOutcome::Succeeded),
                Some(TaskOutcome::Failed | TaskOutcome::Revoked) => *end = Some(EventOutcome::Failed),
                None => unstored += 1,
            }
            found_stored |= found.outcome.is_some();
        }
        let stored_end = |task: &TaskId| stored.tasks.get(task).is_some_and(|found| found.outcome.is_some());
        let stores_results = (is_recorded || found_stored)
            && stored.incomplete_reason.is_none()
            && events.ended.keys().all(|task| stored_end(task) || apart.contains(task));
        // A worker may send no events: then ends are stored of which no event arrived.
        let is_event_missed = stored
            .tasks
            .iter()
            .any(|(task, found)| found.outcome.is_some() && !events.ended.contains_key(task) && !apart.contains(task));
        let are_unbroken = !events.is_incomplete && !events.has_no_event && !is_event_missed;
        // A worker that dies may take the last events along.
        let events_are_whole = are_unbroken && !worker_died;
        let mut inventory = Self {
            first_failure: events.first_failure.or(stored.first_failure),
            are_events_unbroken: are_unbroken,
            sees_callbacks: stores_results && events_are_whole,
            no_end_is_proof: stores_results || events_are_whole,
            worker_died,
            ..Self::default()
        };
        let is_listed = |task: &TaskId| stored.tasks.get(task).is_some_and(|found| found.is_listed);
        inventory.has_unlisted = events
            .ended
            .keys()
            .any(|task| !is_listed(task) && !apart.contains(task));
        let awaited = callback.as_ref();
        for (task, end) in ends.into_iter().filter(|(task, _)| !apart.contains(task)) {
            match end {
                Some(EventOutcome::Succeeded) => inventory.succeeded += 1,
                Some(EventOutcome::Failed) => inventory.failed += 1,
                // The callback itself is judged separately.
                None if awaited == Some(task) => {}
                Some(EventOutcome::Rejected) | None => inventory.unended.push(task.clone()),
            }
        }
        let names = |group: &GroupId| awaited.is_some_and(|awaited| awaited.as_str() == group.as_str());
        inventory.awaited_is_group = stored.groups.iter().any(names);
        inventory.unlisted = if events_are_whole {
            None
        } else if let Some(reason) = stored.incomplete_reason {
            Some(reason)
        } else if !is_recorded {
            Some("the dispatch task's result is not stored, and not all events of the job arrived".to_owned())
        } else if unstored > 0 {
            Some("not all tasks store their results, and not all events of the job arrived".to_owned())
        } else if !stored.groups.is_empty() {
            Some("its group may have a callback, and not all events of the job arrived".to_owned())
        } else {
            None
        };
        // If no size is stored, Celery has removed the counters with the call of the callback, unless no callback can
        // have run.
        let no_callback_ran = inventory.sees_callbacks && !inventory.has_unlisted;
        let is_open = |chord: &OpenChord| chord.size.is_some() || no_callback_ran;
        inventory.open_chords = open_chords.into_iter().filter(is_open).collect();
        inventory
    }
}
