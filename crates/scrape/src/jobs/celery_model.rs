//! Model of Celery that runs canvases and leaves their traces: results, events, counters of chords.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde_json::json;

use super::inputs::{ListedTasks, TaskEnd};
use super::inventory::{EventOutcome, EventTasks, OpenChord};
use super::model_canvas::{Canvas, ModelTask, TaskCourse, callback_is_task};
use orch_celery::{GroupId, StoredTask, TaskId, TaskOutcome};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ResultStorage {
    All,
    /// `task_ignore_result`.
    Nothing,
    /// Another serialiser than JSON.
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum EventVisibility {
    All,
    /// With a gap in the event stream.
    Some,
    Nothing,
}

pub(super) struct CeleryModel {
    pub random: fastrand::Rng,
    pub next_id: u64,
    pub stored: ResultStorage,
    pub seen: EventVisibility,
    pub tasks: BTreeMap<TaskId, StoredTask>,
    pub groups: Vec<GroupId>,
    pub open_chords: Vec<OpenChord>,
    pub events: EventTasks,
    pub seen_waiting: Vec<TaskId>,
    pub worker_died: bool,
    /// Ends by task id; for a callback also the failure of its header, which Celery stores under the callback's id.
    pub results: HashMap<TaskId, TaskEnd>,
    /// Members of a header that had not ended when the callback ran, by callback.
    pub missing: HashMap<TaskId, Vec<TaskId>>,
    pub has_failure: bool,
    pub succeeded: u64,
    pub log: String,
}

/// Facts about a canvas that was started.
pub(super) struct StartedCanvas {
    pub listed: ListedTasks,
    /// Id that `apply_async` of the canvas returns.
    pub id: String,
    /// Every task of the canvas succeeded and none is missing.
    pub is_whole: bool,
}

impl CeleryModel {
    pub fn id(&mut self) -> TaskId {
        self.next_id += 1;
        TaskId::from(format!("00000000-0000-4000-8000-{:012x}", self.next_id))
    }

    fn event(&mut self, is_end: Option<EventOutcome>, id: &TaskId) {
        match self.seen {
            EventVisibility::Nothing => return,
            EventVisibility::Some if self.random.u8(..4) == 0 => return,
            EventVisibility::Some | EventVisibility::All => {}
        }
        match is_end {
            None if !self.events.ended.contains_key(id) => self.events.unfinished.push(id.clone()),
            None => {}
            // An end is joined to its job by the earlier `task-received` event.
            Some(end) => {
                if let Some(place) = self.events.unfinished.iter().position(|open| open == id) {
                    self.events.unfinished.swap_remove(place);
                    self.events.ended.insert(id.clone(), end);
                    if end != EventOutcome::Succeeded {
                        self.events
                            .first_failure
                            .get_or_insert_with(|| format!("task {id}: ValueError"));
                    }
                }
            }
        }
    }

    fn store(&mut self, id: &TaskId, end: TaskEnd) {
        let outcome = match &end {
            TaskEnd::Succeeded(_) => TaskOutcome::Succeeded,
            TaskEnd::Failed(_) => TaskOutcome::Failed,
            TaskEnd::Revoked(_) => TaskOutcome::Revoked,
        };
        self.results.insert(id.clone(), end);
        if self.stored == ResultStorage::All {
            self.tasks.entry(id.clone()).or_default().outcome = Some(outcome);
        }
    }

    /// Publishes a task and runs it to its end. Returns whether it succeeded.
    fn run(&mut self, id: &TaskId, work: &ModelTask) -> bool {
        let _ = write!(self.log, " {}:{:?}", &id.as_str()[32..], work.fate);
        if work.fate == TaskCourse::Purged {
            self.has_failure = true;
            // If no result would name this task, orch has seen its message in the queue.
            self.seen_waiting.push(id.clone());
            return false;
        }
        self.event(None, id);
        let whole = match work.fate {
            TaskCourse::Succeeds | TaskCourse::Retried | TaskCourse::RunTwice | TaskCourse::LostUncounted => {
                self.start_all(&work.starts)
            }
            _ => true,
        };
        match work.fate {
            TaskCourse::Succeeds | TaskCourse::Retried | TaskCourse::RunTwice => {
                self.store(id, TaskEnd::Succeeded(json!(1)));
                self.event(Some(EventOutcome::Succeeded), id);
                self.succeeded += 1;
                if work.fate == TaskCourse::RunTwice {
                    self.event(None, id);
                    self.event(Some(EventOutcome::Succeeded), id);
                }
                self.has_failure |= !whole;
                true
            }
            TaskCourse::LostUncounted => {
                self.store(id, TaskEnd::Succeeded(json!(1)));
                self.worker_died = true;
                self.succeeded += 1;
                self.has_failure |= !whole;
                false
            }
            TaskCourse::Fails | TaskCourse::Expires => {
                let end = match work.fate {
                    TaskCourse::Fails => TaskEnd::Failed("ValueError".to_owned()),
                    _ => TaskEnd::Revoked("expired".to_owned()),
                };
                self.store(id, end);
                self.event(Some(EventOutcome::Failed), id);
                self.has_failure = true;
                false
            }
            TaskCourse::Rejected => {
                self.event(Some(EventOutcome::Rejected), id);
                self.has_failure = true;
                false
            }
            TaskCourse::Lost => {
                self.worker_died = true;
                self.has_failure = true;
                false
            }
            TaskCourse::Ignored | TaskCourse::StuckInRetry => {
                self.has_failure = true;
                false
            }
            TaskCourse::Purged => false,
        }
    }

    /// Starts the canvases that a task starts. Returns whether all of them succeeded. Their ids are in the task's
    /// stored result.
    fn start_all(&mut self, canvases: &[Canvas]) -> bool {
        let mut is_whole = true;
        for canvas in canvases {
            let started = self.start(canvas);
            self.list(&started.listed);
            is_whole &= started.is_whole;
        }
        is_whole
    }

    pub fn list(&mut self, listed: &ListedTasks) {
        if self.stored == ResultStorage::All {
            for task in listed.members.iter().chain(&listed.tasks) {
                self.tasks.entry(task.clone()).or_default().is_listed = true;
            }
            self.groups
                .extend(listed.groups.iter().map(|group| GroupId::from(group.as_str())));
        }
    }

    pub fn start(&mut self, canvas: &Canvas) -> StartedCanvas {
        match canvas {
            Canvas::Task(work) => {
                let id = self.id();
                let is_whole = self.run(&id, work) || work.fate == TaskCourse::LostUncounted;
                self.of_task(id, is_whole)
            }
            Canvas::Chain(links) => {
                let ids: Vec<TaskId> = links.iter().map(|_| self.id()).collect();
                let mut is_whole = true;
                for (place, (id, link)) in ids.iter().zip(links).enumerate() {
                    // A link is a child of the link before it.
                    if place > 0 && self.stored == ResultStorage::All {
                        self.tasks.entry(id.clone()).or_default().is_listed = true;
                    }
                    // The next link is published before the result is stored.
                    is_whole = self.run(id, link) || link.fate == TaskCourse::LostUncounted;
                    if !is_whole {
                        self.has_failure = true;
                        break;
                    }
                }
                let first = ids[0].clone();
                StartedCanvas {
                    id: ids[ids.len() - 1].as_str().to_owned(),
                    ..self.of_task(first, is_whole)
                }
            }
            Canvas::Group(works) => {
                let group = self.id();
                let ids: Vec<TaskId> = works.iter().map(|_| self.id()).collect();
                let mut is_whole = true;
                for (id, work) in ids.iter().zip(works) {
                    is_whole &= self.run(id, work) || work.fate == TaskCourse::LostUncounted;
                }
                if ids
                    .iter()
                    .any(|id| self.tasks.get(id).is_some_and(|task| task.outcome.is_some()))
                {
                    self.groups.push(GroupId::from(group.as_str()));
                }
                StartedCanvas {
                    listed: ListedTasks {
                        groups: vec![group.as_str().to_owned()],
                        members: ids,
                        tasks: vec![],
                    },
                    id: group.as_str().to_owned(),
                    is_whole,
                }
            }
            Canvas::Chord { header, body } => self.start_chord(header, body),
        }
    }

    fn of_task(&self, id: TaskId, is_whole: bool) -> StartedCanvas {
        StartedCanvas {
            id: id.as_str().to_owned(),
            listed: ListedTasks {
                tasks: vec![id],
                ..ListedTasks::default()
            },
            is_whole,
        }
    }

    fn start_chord(&mut self, header: &[Canvas], body: &Canvas) -> StartedCanvas {
        let group = self.id();
        let mut members = Vec::new();
        let mut counted = 0;
        let mut has_failed = false;
        let mut late = Vec::new();
        // In some chords one member ends only after another member was counted twice in its place.
        let twice = header.len() > 1 && self.random.u8(..24) == 0;
        for (place, canvas) in header.iter().enumerate() {
            let started = self.start(canvas);
            // A chain and a chord are counted by their last task.
            let member = TaskId::from(started.id.as_str());
            if self.stored == ResultStorage::All {
                self.tasks.entry(member.clone()).or_default().is_listed = true;
                for task in started.listed.members.iter().chain(&started.listed.tasks) {
                    self.tasks.entry(task.clone()).or_default().is_listed = true;
                }
            }
            members.push(member.clone());
            let last = match canvas {
                Canvas::Task(work) => Some(work),
                Canvas::Chain(links) => links.last(),
                Canvas::Chord { body, .. } => match body.as_ref() {
                    Canvas::Task(work) => Some(work),
                    _ => None,
                },
                Canvas::Group(_) => None,
            };
            let is_uncounted = last.is_some_and(|work| work.fate == TaskCourse::LostUncounted);
            if started.is_whole && !is_uncounted {
                counted += 1;
                if twice && place == 0 {
                    late.push(member);
                }
            } else {
                has_failed |= matches!(
                    self.results.get(&member),
                    Some(TaskEnd::Failed(_) | TaskEnd::Revoked(_))
                );
            }
        }
        let size = u64::try_from(header.len()).unwrap_or(0);
        let callback = match body {
            Canvas::Group(_) => None,
            _ => Some(self.id()),
        };
        let listed = ListedTasks {
            groups: vec![group.as_str().to_owned()],
            members,
            tasks: vec![],
        };
        self.list(&listed);
        if counted < size {
            self.has_failure = true;
            self.open_chords.push(OpenChord {
                group: GroupId::from(group.as_str()),
                size: Some(size),
                counted,
            });
            let id = callback.unwrap_or_else(|| group.clone());
            if has_failed && callback_is_task(body) {
                // Celery stores the failure under the callback's id, which no list of children has.
                self.results
                    .insert(id.clone(), TaskEnd::Failed("ChordError".to_owned()));
            }
            return StartedCanvas {
                listed,
                id: id.as_str().to_owned(),
                is_whole: false,
            };
        }
        // A worker gave up a lost process, and counted its task after the callback had been called.
        if self.random.u8(..24) == 0 {
            self.open_chords.push(OpenChord {
                group: GroupId::from(group.as_str()),
                size: None,
                counted: 1,
            });
        }
        let (id, is_whole) = match (body, callback) {
            (Canvas::Task(work), Some(id)) => {
                let is_whole = self.run(&id, work) || work.fate == TaskCourse::LostUncounted;
                (id, is_whole)
            }
            (other, _) => {
                let started = self.start(other);
                (TaskId::from(started.id.as_str()), started.is_whole)
            }
        };
        if !late.is_empty() && callback_is_task(body) {
            // The callback received another member's result twice. If nothing names the callback, this leaves no trace.
            self.missing.insert(id.clone(), late);
        }
        StartedCanvas {
            listed,
            id: id.as_str().to_owned(),
            is_whole,
        }
    }
}
