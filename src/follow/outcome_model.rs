//! A model of Celery that knows the truth: random canvases with random faults, what they leave in Redis and in events, and the
//! verdict that orch gives on that.
//!
//! The property: never complete where a task failed, was lost, was not run or was counted twice, unless the app's callback ran
//! or the app says so; never failed where all succeeded. `ORCH_MODEL_CASES` sets the number of cases, `ORCH_MODEL_SEED` the
//! first seed; a failure prints the seed of its case.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::facts::{Failure, Input, Keys, KeysStatus, Listed, TaskEnd};
use super::inventory::{EventOutcome, EventTasks, Inventory, OpenChord, Remains};
use super::machine::{Following, Rules, Stage};
use super::outcome::HeaderCheck;
use crate::celery::{Descendants, GroupId, Outcome, StoredTask, TaskId};
use crate::config::Pace;
use crate::run::{JobId, SiteCounts};

/// What becomes of one task.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Succeeds,
    /// Fails at first, is tried again after a countdown, and succeeds.
    Retried,
    /// Is delivered and run twice, and counted once.
    RunTwice,
    Fails,
    Expires,
    /// Raises `Ignore`: neither a result nor an event.
    Ignored,
    /// Raises `Reject`.
    Rejected,
    /// Its worker dies while it runs.
    Lost,
    /// Its worker dies between storing its result and counting it in its chord.
    LostUncounted,
    /// A cold stop leaves RETRY behind.
    StuckInRetry,
    /// Its message vanishes from the queue.
    Purged,
}

#[derive(Clone, Debug)]
enum Canvas {
    Task(Work),
    Chain(Vec<Work>),
    Group(Vec<Work>),
    Chord { header: Vec<Canvas>, body: Box<Canvas> },
}

#[derive(Clone, Debug)]
struct Work {
    fate: Fate,
    starts: Vec<Canvas>,
}

/// What an app returns from its dispatch task.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    None,
    Number,
    JobId,
    JobAndCallback,
    CallbackId,
    CallbackTuple,
    HeaderAsChord,
    FirstTask,
    ListOfIds,
    SaysComplete,
    ForeignId,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    All,
    /// `task_ignore_result`.
    Nothing,
    /// Another serialiser than JSON.
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    All,
    /// A gap in the event stream.
    Some,
    Nothing,
}

/// What the app's progress keys say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AppKeys {
    None,
    /// A status that its callback changes to COMPLETE.
    Status,
    /// Only a counter of chunks.
    Counters,
}

struct Celery {
    random: fastrand::Rng,
    next_id: u64,
    stored: Stored,
    seen: Seen,
    tasks: BTreeMap<TaskId, StoredTask>,
    groups: Vec<GroupId>,
    open_chords: Vec<OpenChord>,
    events: EventTasks,
    seen_waiting: Vec<TaskId>,
    worker_died: bool,
    /// Ends by id, of a callback also where Celery stores the failure of its header.
    results: HashMap<TaskId, TaskEnd>,
    /// By callback: members of its header that had not ended when it ran.
    missing: HashMap<TaskId, Vec<TaskId>>,
    has_failure: bool,
    succeeded: u64,
    log: String,
}

/// What a started canvas is known by.
struct Started {
    listed: Listed,
    /// The id that its `apply_async` returns.
    id: String,
    /// Whether every task of it succeeded and none is missing.
    is_whole: bool,
}

impl Celery {
    fn id(&mut self) -> TaskId {
        self.next_id += 1;
        TaskId::from(format!("00000000-0000-4000-8000-{:012x}", self.next_id))
    }

    fn event(&mut self, is_end: Option<EventOutcome>, id: &TaskId) {
        match self.seen {
            Seen::Nothing => return,
            Seen::Some if self.random.u8(..4) == 0 => return,
            Seen::Some | Seen::All => {}
        }
        match is_end {
            None if !self.events.ended.contains_key(id) => self.events.unfinished.push(id.clone()),
            None => {}
            // An end is joined to its job by what was received.
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
            TaskEnd::Succeeded(_) => Outcome::Succeeded,
            TaskEnd::Failed(_) => Outcome::Failed,
            TaskEnd::Revoked(_) => Outcome::Revoked,
        };
        self.results.insert(id.clone(), end);
        if self.stored == Stored::All {
            self.tasks.entry(id.clone()).or_default().outcome = Some(outcome);
        }
    }

    /// Publishes a task and lets it come to its end; whether it succeeded.
    fn run(&mut self, id: &TaskId, work: &Work) -> bool {
        let _ = write!(self.log, " {}:{:?}", &id.as_str()[32..], work.fate);
        if work.fate == Fate::Purged {
            self.has_failure = true;
            // Where its result would name nothing, orch has seen its message wait.
            self.seen_waiting.push(id.clone());
            return false;
        }
        self.event(None, id);
        let whole = match work.fate {
            Fate::Succeeds | Fate::Retried | Fate::RunTwice | Fate::LostUncounted => self.start_all(&work.starts),
            _ => true,
        };
        match work.fate {
            Fate::Succeeds | Fate::Retried | Fate::RunTwice => {
                self.store(id, TaskEnd::Succeeded(json!(1)));
                self.event(Some(EventOutcome::Succeeded), id);
                self.succeeded += 1;
                if work.fate == Fate::RunTwice {
                    self.event(None, id);
                    self.event(Some(EventOutcome::Succeeded), id);
                }
                self.has_failure |= !whole;
                true
            }
            Fate::LostUncounted => {
                self.store(id, TaskEnd::Succeeded(json!(1)));
                self.worker_died = true;
                self.succeeded += 1;
                self.has_failure |= !whole;
                false
            }
            Fate::Fails | Fate::Expires => {
                let end = match work.fate {
                    Fate::Fails => TaskEnd::Failed("ValueError".to_owned()),
                    _ => TaskEnd::Revoked("expired".to_owned()),
                };
                self.store(id, end);
                self.event(Some(EventOutcome::Failed), id);
                self.has_failure = true;
                false
            }
            Fate::Rejected => {
                self.event(Some(EventOutcome::Rejected), id);
                self.has_failure = true;
                false
            }
            Fate::Lost => {
                self.worker_died = true;
                self.has_failure = true;
                false
            }
            Fate::Ignored | Fate::StuckInRetry => {
                self.has_failure = true;
                false
            }
            Fate::Purged => false,
        }
    }

    /// Starts what a task starts; whether all of it came to a good end. Its ids stand in the task's stored result.
    fn start_all(&mut self, canvases: &[Canvas]) -> bool {
        let mut is_whole = true;
        for canvas in canvases {
            let started = self.start(canvas);
            self.list(&started.listed);
            is_whole &= started.is_whole;
        }
        is_whole
    }

    fn list(&mut self, listed: &Listed) {
        if self.stored == Stored::All {
            for task in listed.members.iter().chain(&listed.tasks) {
                self.tasks.entry(task.clone()).or_default().is_listed = true;
            }
            self.groups
                .extend(listed.groups.iter().map(|group| GroupId::from(group.as_str())));
        }
    }

    fn start(&mut self, canvas: &Canvas) -> Started {
        match canvas {
            Canvas::Task(work) => {
                let id = self.id();
                let is_whole = self.run(&id, work) || work.fate == Fate::LostUncounted;
                self.of_task(id, is_whole)
            }
            Canvas::Chain(links) => {
                let ids: Vec<TaskId> = links.iter().map(|_| self.id()).collect();
                let mut is_whole = true;
                for (place, (id, link)) in ids.iter().zip(links).enumerate() {
                    // A link stands among the children of the one before it.
                    if place > 0 && self.stored == Stored::All {
                        self.tasks.entry(id.clone()).or_default().is_listed = true;
                    }
                    // The next link is published before the result is stored.
                    is_whole = self.run(id, link) || link.fate == Fate::LostUncounted;
                    if !is_whole {
                        self.has_failure = true;
                        break;
                    }
                }
                let first = ids[0].clone();
                Started {
                    id: ids[ids.len() - 1].as_str().to_owned(),
                    ..self.of_task(first, is_whole)
                }
            }
            Canvas::Group(works) => {
                let group = self.id();
                let ids: Vec<TaskId> = works.iter().map(|_| self.id()).collect();
                let mut is_whole = true;
                for (id, work) in ids.iter().zip(works) {
                    is_whole &= self.run(id, work) || work.fate == Fate::LostUncounted;
                }
                if ids
                    .iter()
                    .any(|id| self.tasks.get(id).is_some_and(|task| task.outcome.is_some()))
                {
                    self.groups.push(GroupId::from(group.as_str()));
                }
                Started {
                    listed: Listed {
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

    fn of_task(&self, id: TaskId, is_whole: bool) -> Started {
        Started {
            id: id.as_str().to_owned(),
            listed: Listed {
                tasks: vec![id],
                ..Listed::default()
            },
            is_whole,
        }
    }

    fn start_chord(&mut self, header: &[Canvas], body: &Canvas) -> Started {
        let group = self.id();
        let mut members = Vec::new();
        let mut counted = 0;
        let mut has_failed = false;
        let mut late = Vec::new();
        // One member in some chords ends only after another was counted twice in its place.
        let twice = header.len() > 1 && self.random.u8(..24) == 0;
        for (place, canvas) in header.iter().enumerate() {
            let started = self.start(canvas);
            // A chain and a chord are counted by their last task.
            let member = TaskId::from(started.id.as_str());
            if self.stored == Stored::All {
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
            let is_uncounted = last.is_some_and(|work| work.fate == Fate::LostUncounted);
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
        let listed = Listed {
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
                // Celery stores the failure under the callback's id, which is in no list.
                self.results
                    .insert(id.clone(), TaskEnd::Failed("ChordError".to_owned()));
            }
            return Started {
                listed,
                id: id.as_str().to_owned(),
                is_whole: false,
            };
        }
        // A worker gave up a process that was lost, and counted its task after the callback had been called.
        if self.random.u8(..24) == 0 {
            self.open_chords.push(OpenChord {
                group: GroupId::from(group.as_str()),
                size: None,
                counted: 1,
            });
        }
        let (id, is_whole) = match (body, callback) {
            (Canvas::Task(work), Some(id)) => {
                let is_whole = self.run(&id, work) || work.fate == Fate::LostUncounted;
                (id, is_whole)
            }
            (other, _) => {
                let started = self.start(other);
                (TaskId::from(started.id.as_str()), started.is_whole)
            }
        };
        if !late.is_empty() && callback_is_task(body) {
            // The callback got another member's result twice. Of a callback that nobody names this leaves no trace.
            self.missing.insert(id.clone(), late);
        }
        Started {
            listed,
            id: id.as_str().to_owned(),
            is_whole,
        }
    }
}

fn callback_is_task(body: &Canvas) -> bool {
    matches!(body, Canvas::Task(_))
}

fn fate(random: &mut fastrand::Rng, trouble: u8) -> Fate {
    if random.u8(..100) >= trouble {
        return [
            Fate::Succeeds,
            Fate::Succeeds,
            Fate::Succeeds,
            Fate::Retried,
            Fate::RunTwice,
        ][random.usize(..5)];
    }
    [
        Fate::Fails,
        Fate::Fails,
        Fate::Expires,
        Fate::Ignored,
        Fate::Rejected,
        Fate::Lost,
        Fate::LostUncounted,
        Fate::StuckInRetry,
        Fate::Purged,
    ][random.usize(..9)]
}

fn work(random: &mut fastrand::Rng, trouble: u8, depth: u8) -> Work {
    let starts = if depth > 0 && random.u8(..8) == 0 {
        vec![canvas(random, trouble, depth - 1)]
    } else {
        vec![]
    };
    Work {
        fate: fate(random, trouble),
        starts,
    }
}

fn canvas(random: &mut fastrand::Rng, trouble: u8, depth: u8) -> Canvas {
    let count = random.usize(1..5);
    let works = |random: &mut fastrand::Rng| (0..count).map(|_| work(random, trouble, depth)).collect::<Vec<_>>();
    match random.u8(..7) {
        0 => Canvas::Task(work(random, trouble, depth)),
        1 => Canvas::Chain(works(random)),
        2 | 3 => Canvas::Group(works(random)),
        _ => {
            let header = (0..count).map(|_| match random.u8(..8) {
                0 if depth > 0 => Canvas::Chain((0..2).map(|_| work(random, trouble, depth - 1)).collect()),
                1 if depth > 0 => Canvas::Chord {
                    header: vec![
                        Canvas::Task(work(random, trouble, 0)),
                        Canvas::Task(work(random, trouble, 0)),
                    ],
                    body: Box::new(Canvas::Task(work(random, trouble, 0))),
                },
                _ => Canvas::Task(work(random, trouble, depth.saturating_sub(1))),
            });
            let header = header.collect();
            let body = match random.u8(..6) {
                0 => Canvas::Group((0..2).map(|_| work(random, trouble, 0)).collect()),
                _ => Canvas::Task(work(random, trouble, 0)),
            };
            Canvas::Chord {
                header,
                body: Box::new(body),
            }
        }
    }
}

/// One job, its truth and its verdict.
fn case(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let trouble = [0, 0, 5, 15, 40][random.usize(..5)];
    let pick_stored = [
        Stored::All,
        Stored::All,
        Stored::All,
        Stored::Nothing,
        Stored::Unreadable,
    ];
    let stored = pick_stored[random.usize(..5)];
    // Where neither is there nothing can be known; orch switches events on.
    let seen = [Seen::All, Seen::All, Seen::All, Seen::Some, Seen::Nothing][random.usize(..5)];
    let app_keys = [AppKeys::None, AppKeys::None, AppKeys::Status, AppKeys::Counters][random.usize(..4)];
    let shape = [
        Shape::None,
        Shape::Number,
        Shape::JobId,
        Shape::JobAndCallback,
        Shape::JobAndCallback,
        Shape::CallbackId,
        Shape::CallbackTuple,
        Shape::HeaderAsChord,
        Shape::FirstTask,
        Shape::ListOfIds,
        Shape::SaysComplete,
        Shape::ForeignId,
    ][random.usize(..12)];
    let picked_up = random.u8(..8) == 0;
    let count = random.usize(..3);
    let canvases: Vec<Canvas> = (0..count).map(|_| canvas(&mut random, trouble, 2)).collect();
    let mut celery = Celery {
        random,
        next_id: 0,
        stored,
        seen,
        tasks: BTreeMap::new(),
        groups: vec![],
        open_chords: vec![],
        events: EventTasks::default(),
        seen_waiting: vec![],
        worker_died: false,
        results: HashMap::new(),
        missing: HashMap::new(),
        has_failure: false,
        succeeded: 0,
        log: String::new(),
    };
    let root = celery.id();
    // A dispatch task that dies half-way has published a part.
    let dispatch_dies = trouble > 0 && celery.random.u8(..10) == 0;
    let part = if dispatch_dies { count / 2 } else { count };
    let mut listed = Listed::default();
    let mut last = None;
    for canvas in &canvases[..part] {
        let started = celery.start(canvas);
        listed.groups.extend(started.listed.groups.iter().cloned());
        listed.members.extend(started.listed.members.iter().cloned());
        listed.tasks.extend(started.listed.tasks.iter().cloned());
        last = Some(started);
    }
    celery.list(&listed);

    let callback = last.as_ref().map(|started| started.id.clone()).unwrap_or_default();
    let first = listed
        .members
        .first()
        .or(listed.tasks.first())
        .map(|id| id.as_str().to_owned());
    let answer = match shape {
        Shape::None => Value::Null,
        Shape::Number => json!(7),
        Shape::JobId => json!({"job_id": "j"}),
        _ if count == 0 => json!({"job_id": "j", "total_urls": 0, "status": "NO_URLS"}),
        Shape::JobAndCallback => json!({"job_id": "j", "chord_id": callback}),
        Shape::CallbackId => json!(callback),
        Shape::CallbackTuple => json!([[callback, null], null]),
        Shape::HeaderAsChord => json!({"job_id": "j", "chord_id": listed.groups.first()}),
        Shape::FirstTask => json!(first),
        Shape::ListOfIds => json!([first, callback]),
        Shape::SaysComplete => json!({"status": "COMPLETE"}),
        Shape::ForeignId => json!("99999999-0000-4000-8000-000000000000"),
    };
    let named = TaskId::from(callback.as_str());
    // A plain id is as good as a named one where the chord is all that the dispatch task started.
    let is_only = listed.groups.len() == 1 && listed.tasks.is_empty();
    let names_callback = count > 0
        && !listed.names_group(&callback)
        && match shape {
            Shape::JobAndCallback => true,
            Shape::CallbackId | Shape::CallbackTuple => is_only,
            _ => false,
        };
    let callback_ran = matches!(celery.results.get(&named), Some(TaskEnd::Succeeded(_)));
    // The app's word: its callback ran, with everything that it was to get, and it was named.
    let is_complete = stored != Stored::All || !celery.missing.contains_key(&named);
    let is_handled = names_callback && callback_ran && is_complete;
    // Where no result is stored the header is not known, and a member that is counted twice leaves no trace.
    let is_counted_twice = names_callback && stored == Stored::All && celery.missing.contains_key(&named);
    let truth_all_ok = !celery.has_failure && !dispatch_dies && !is_counted_twice;
    let says_complete = (app_keys == AppKeys::Status && callback_ran && !celery.missing.contains_key(&named))
        // What it has started is not known: the app's word is all there is.
        || (stored != Stored::All && !dispatch_dies && (shape == Shape::SaysComplete || answer.get("status").is_some()));
    let status_says_complete = app_keys == AppKeys::Status && callback_ran && !celery.missing.contains_key(&named);

    let verdict = verdict_of(
        &mut celery,
        Job {
            root,
            answer,
            listed,
            app_keys,
            picked_up,
            dispatch_dies,
            says_complete: status_says_complete,
            planned: canvases.iter().map(planned).sum(),
        },
    );
    let shown = || {
        format!(
            "seed {seed}: {verdict:?}\n  shape {shape:?}, stored {stored:?}, events {seen:?}, keys {app_keys:?}, picked up {picked_up}, dispatch dies {dispatch_dies}\n  \
             truth: all ok {truth_all_ok}, handled {is_handled}, app says complete {says_complete}\n  tasks:{}\n  {canvases:?}",
            celery.log
        )
    };
    match &verdict {
        None => Err(format!("without a verdict: {}", shown())),
        Some(Ok(())) if !(truth_all_ok || is_handled || says_complete) => Err(format!("false COMPLETE: {}", shown())),
        Some(Err(Failure::Told(_) | Failure::Lost(_))) if truth_all_ok => Err(format!("false FAILED: {}", shown())),
        Some(Err(Failure::Unknown(_)))
            if truth_all_ok
                && stored == Stored::All
                && seen == Seen::All
                && !picked_up
                && !celery.worker_died
                && app_keys == AppKeys::None =>
        {
            Err(format!("UNKNOWN where everything was seen: {}", shown()))
        }
        Some(_) => Ok(()),
    }
}

struct Job {
    root: TaskId,
    answer: Value,
    listed: Listed,
    app_keys: AppKeys,
    picked_up: bool,
    dispatch_dies: bool,
    says_complete: bool,
    /// Tasks that the app counts as its chunks.
    planned: u64,
}

fn planned(canvas: &Canvas) -> u64 {
    let of_works = |works: &[Work]| {
        works
            .iter()
            .map(|work| 1 + work.starts.iter().map(planned).sum::<u64>())
            .sum()
    };
    match canvas {
        Canvas::Task(work) => of_works(std::slice::from_ref(work)),
        Canvas::Chain(works) | Canvas::Group(works) => of_works(works),
        Canvas::Chord { header, body } => header.iter().map(planned).sum::<u64>() + planned(body),
    }
}

/// Hands everything that the model has left behind to the machine, in the order in which orch comes to know it.
fn verdict_of(celery: &mut Celery, job: Job) -> Option<Result<(), Failure>> {
    let now = Instant::now();
    let rules = Rules {
        pool_file: false,
        picked_up: job.picked_up,
        own_job_id: (job.app_keys != AppKeys::None).then(|| JobId::from("own")),
        pace: Pace {
            time_per_chunk: Duration::from_secs(60),
            buffer: 1.5,
            timeout_min: Duration::from_secs(300),
            timeout_default: Duration::from_secs(1800),
        },
        deadline: now + Duration::from_secs(7200),
        allowance: None,
    };
    let mut following = Following::begin(rules, 8);
    let see = |following: &mut Following, input: Input| {
        *following = following.clone().step(input, now).0;
    };
    if celery.stored == Stored::Unreadable {
        see(&mut following, Input::ResultsUnreadable("it is no JSON".to_owned()));
    }
    let dispatch_is_seen = celery.seen != Seen::Nothing && !(celery.seen == Seen::Some && celery.random.bool());
    let is_recorded = celery.stored == Stored::All && !job.dispatch_dies;
    if job.dispatch_dies {
        celery.worker_died = true;
    } else if is_recorded {
        let input = Input::DispatchEnded {
            end: TaskEnd::Succeeded(job.answer.clone()),
            listed: job.listed.clone().into(),
        };
        see(&mut following, input);
    } else if dispatch_is_seen {
        let printed = match &job.answer {
            Value::Object(entries) => {
                let entry = |(key, value): (&String, &Value)| format!("'{key}': {}", python(value));
                Value::String(format!(
                    "{{{}}}",
                    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
                ))
            }
            other => Value::String(python(other)),
        };
        see(
            &mut following,
            Input::DispatchEndedUnrecorded(TaskEnd::Succeeded(printed)),
        );
    }
    // The callback's own end, by its result or by its event.
    if let Some(callback) = following.job().callback()
        && let Some(end) = celery.results.get(&callback).cloned()
    {
        let by_event = celery.events.ended.contains_key(&callback);
        if celery.stored == Stored::All {
            see(&mut following, Input::CallbackEnded(end));
        } else if by_event {
            see(&mut following, Input::CallbackEndedUnrecorded(end));
        }
        if following.wants_header_check() {
            let check = match celery.missing.get(&callback) {
                Some(missing) => HeaderCheck::Missing(missing.clone()),
                None => HeaderCheck::Passed,
            };
            see(&mut following, Input::HeaderChecked(check));
        }
    }
    let total = SiteCounts {
        total_chunks: Some(job.planned),
        completed_chunks: Some(celery.succeeded),
        ..SiteCounts::default()
    };
    let keys = match job.app_keys {
        AppKeys::None => None,
        AppKeys::Status => Some(Keys {
            status: Some(if job.says_complete {
                KeysStatus::Complete
            } else {
                KeysStatus::Running("PROCESSING".to_owned())
            }),
            counts: SiteCounts::default(),
        }),
        AppKeys::Counters => Some(Keys {
            status: None,
            counts: total,
        }),
    };
    for _ in 0..3 {
        if let Stage::Ended(end) = following.stage() {
            return Some(end.clone());
        }
        see(&mut following, Input::KeysRead(keys.clone()));
        let mut seen_groups: HashSet<GroupId> = celery.groups.iter().cloned().collect();
        if is_recorded {
            seen_groups.extend(job.listed.groups.iter().map(|group| GroupId::from(group.as_str())));
        }
        let stored = Descendants {
            // Only what a list of children or an event names is looked up.
            tasks: celery.tasks.clone(),
            groups: seen_groups.into_iter().collect(),
            first_failure: None,
            unread: (celery.stored == Stored::Unreadable).then(|| "results cannot be read".to_owned()),
        };
        let open_chords = if celery.stored == Stored::All {
            celery.open_chords.clone()
        } else {
            vec![]
        };
        let found = Inventory::of(Remains {
            dispatch: vec![job.root.clone()],
            callback: following.named_callback(),
            is_recorded,
            events: EventTasks {
                is_broken: celery.seen == Seen::Some || job.picked_up,
                is_silent: celery.seen == Seen::Nothing
                    || (celery.events.ended.is_empty() && celery.events.unfinished.is_empty() && !dispatch_is_seen),
                seen_waiting: celery.seen_waiting.clone(),
                ..celery.events.clone()
            },
            stored,
            open_chords,
            worker_died: celery.worker_died,
        });
        see(&mut following, Input::Gone(found));
    }
    match following.stage() {
        Stage::Ended(end) => Some(end.clone()),
        _ => None,
    }
}

/// A value as Python prints it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[test]
fn the_verdict_agrees_with_the_truth() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let cases = number("ORCH_MODEL_CASES").unwrap_or(20_000);
    let first = number("ORCH_MODEL_SEED").unwrap_or(1);
    let mut wrong = Vec::new();
    for seed in first..first.saturating_add(cases) {
        if let Err(reason) = case(seed) {
            wrong.push(reason);
        }
    }
    let count = wrong.len();
    let shown = wrong.into_iter().take(5).collect::<Vec<_>>().join("\n\n");
    assert!(count == 0, "{count} of {cases} verdicts are wrong:\n{shown}");
    println!("{cases} canvases from seed {first}: every verdict agrees with the truth");
}
