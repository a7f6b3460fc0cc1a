//! All tasks of a job and their ends, put together from stored results, events and chord counters once nothing of the job is
//! queued or running.
//!
//! Not here: reading them (`remains`), and the verdict (`outcome`).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::celery::{Descendants, GroupId, Outcome, TaskId};

/// How a task ended by its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Succeeded,
    /// Failed or revoked.
    Failed,
    /// Rejected for good: a worker threw it away.
    Rejected,
}

/// The tasks of one job by their events, besides its dispatch task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTasks {
    pub ended: HashMap<TaskId, EventOutcome>,
    /// Received, and no end was seen.
    pub unfinished: Vec<TaskId>,
    /// Their messages were seen in a queue.
    pub seen_waiting: Vec<TaskId>,
    /// `task ID (NAME): EXCEPTION`.
    pub first_failure: Option<String>,
    /// Whether events were missed since the job was published, or more tasks ended than are remembered.
    pub is_broken: bool,
    /// Whether no event of the job was seen, not even of its dispatch task.
    pub is_silent: bool,
}

/// A chord whose counters are still there: its callback was not called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenChord {
    pub group: GroupId,
    /// `None`: no size is stored. Celery stores it with the last task of the header and removes it when it calls the
    /// callback. A worker that gives up a lost process counts that process' task once more, perhaps after the call.
    pub size: Option<u64>,
    pub counted: u64,
}

/// Everything that was read about the remains of a job.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// The tasks that are no part of the tally: the chain up to the dispatch task.
    pub dispatch: Vec<TaskId>,
    /// The id that the app names as its callback's.
    pub callback: Option<TaskId>,
    /// Whether the dispatch task's children are known.
    pub is_recorded: bool,
    pub events: EventTasks,
    pub stored: Descendants,
    pub open_chords: Vec<OpenChord>,
    pub worker_died: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub succeeded: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
    /// Known to belong to the job, and without an end.
    pub unended: Vec<TaskId>,
    pub open_chords: Vec<OpenChord>,
    /// Tasks that no list of children names, as a chord's callback is, have run.
    pub has_unlisted: bool,
    /// The awaited id is that of a group of tasks of the job.
    pub awaited_is_group: bool,
    /// Why tasks may exist that are not listed here.
    pub unlisted: Option<String>,
    /// Whether the id of a callback would have been recognised: results are stored, and no event was missed.
    pub sees_callbacks: bool,
    /// Whether a task that has neither a stored result nor an event of its end has not ended: neither can have been missed.
    pub no_end_is_proof: bool,
    /// Whether no event of the job was missed, but for the last ones of a worker that died.
    pub are_events_unbroken: bool,
    pub worker_died: bool,
}

impl Inventory {
    /// All tasks that are known.
    pub fn known(&self) -> u64 {
        let unended = u64::try_from(self.unended.len()).unwrap_or(u64::MAX);
        self.succeeded.saturating_add(self.failed).saturating_add(unended)
    }

    /// Puts together what was read.
    pub fn of(remains: Remains) -> Self {
        let Remains {
            dispatch,
            callback,
            is_recorded,
            events,
            stored,
            open_chords,
            worker_died,
        } = remains;
        let apart: HashSet<&TaskId> = dispatch.iter().collect();
        // In the order of their ids: the same remains give the same words.
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
                Some(Outcome::Succeeded) => *end = Some(EventOutcome::Succeeded),
                Some(Outcome::Failed | Outcome::Revoked) => *end = Some(EventOutcome::Failed),
                None => unstored += 1,
            }
            found_stored |= found.outcome.is_some();
        }
        let stored_end = |task: &TaskId| stored.tasks.get(task).is_some_and(|found| found.outcome.is_some());
        let stores_results = (is_recorded || found_stored)
            && stored.unread.is_none()
            && events.ended.keys().all(|task| stored_end(task) || apart.contains(task));
        // A worker may have been told to send no events: then ends are stored of which none arrived.
        let is_event_missed = stored
            .tasks
            .iter()
            .any(|(task, found)| found.outcome.is_some() && !events.ended.contains_key(task) && !apart.contains(task));
        let are_unbroken = !events.is_broken && !events.is_silent && !is_event_missed;
        // A worker that dies may take the last events with it.
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
                // The callback itself is judged apart.
                None if awaited == Some(task) => {}
                Some(EventOutcome::Rejected) | None => inventory.unended.push(task.clone()),
            }
        }
        let names = |group: &GroupId| awaited.is_some_and(|awaited| awaited.as_str() == group.as_str());
        inventory.awaited_is_group = stored.groups.iter().any(names);
        inventory.unlisted = if events_are_whole {
            None
        } else if let Some(reason) = stored.unread {
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
        // Where no size is stored, the counters were removed with the call of the callback, unless it is certain that none ran.
        let no_callback_ran = inventory.sees_callbacks && !inventory.has_unlisted;
        let is_open = |chord: &OpenChord| chord.size.is_some() || no_callback_ran;
        inventory.open_chords = open_chords.into_iter().filter(is_open).collect();
        inventory
    }
}
