//! The fold: task events in, jobs out. Pure: time is the events' own time of arrival.
//!
//! Only `task-sent` and `task-received` name a task's root (Celery wire, observed on 5.2 to 5.7); the others are joined
//! by the task's id, in whatever order they come. What it remembers is bounded: finished tasks are counts, finished jobs
//! are totals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::job::{Job, TaskCounts};
use crate::celery::{Event, EventKind, TaskEvent, TaskId};

/// A task whose name was not seen.
const UNNAMED: &str = "?";

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs; above it the one that was quiet for longest is folded into the totals.
    pub jobs: usize,
    /// Tasks that have not ended; above it the oldest is given up.
    pub tasks: usize,
    /// Ids of tasks that have ended, so that a late or repeated event of theirs is known as one.
    pub ended: usize,
    /// Names of tasks.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs: 1_000,
            tasks: 200_000,
            ended: 20_000,
            names: 2_000,
        }
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
    Revoked,
}

/// What was folded in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Task events.
    pub events: u64,
    /// Tasks of jobs that are remembered no more.
    pub folded: TaskCounts,
    pub folded_jobs: u64,
    /// Tasks whose root was never seen: they were received before, or in a gap.
    pub without_job: u64,
    /// Tasks that were given up for want of room.
    pub given_up: u64,
    /// Times that events were lost.
    pub gaps: u64,
}

/// Where a task is, in the order in which it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    /// Kept only until its root is known.
    Ended(Outcome),
}

/// A task that is remembered one by one.
#[derive(Debug)]
struct Task {
    /// `None` until an event names its root.
    job: Option<u64>,
    name: Option<Arc<str>>,
    phase: Phase,
    retries: u64,
    runtime: Option<f64>,
}

/// All jobs of which events were seen.
#[derive(Debug)]
pub struct JobTracker {
    limits: Limits,
    jobs: HashMap<u64, Job>,
    /// Numbers of jobs by root. A number is never used again: a task of a job that is forgotten finds none.
    numbers: HashMap<TaskId, u64>,
    next_number: u64,
    tasks: HashMap<TaskId, Task>,
    /// Ids in the order in which they came; some may have ended since.
    arrivals: VecDeque<TaskId>,
    ended: HashSet<TaskId>,
    ended_order: VecDeque<TaskId>,
    names: HashSet<Arc<str>>,
    totals: Totals,
}

impl Default for JobTracker {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl JobTracker {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            tasks: HashMap::new(),
            arrivals: VecDeque::new(),
            ended: HashSet::new(),
            ended_order: VecDeque::new(),
            names: HashSet::new(),
            totals: Totals::default(),
        }
    }

    /// Takes in an event; those of workers and of apps are no concern of it.
    pub fn fold(&mut self, event: Event) {
        let now = event.received_at;
        let EventKind::Task { id, event } = event.kind else {
            return;
        };
        self.totals.events += 1;
        if self.ended.contains(&id) {
            // Late, repeated, or of a message that was delivered again: it has been counted.
            return;
        }
        match event {
            TaskEvent::Sent { task, .. } | TaskEvent::Received(task) => {
                let root = task.root_id.unwrap_or_else(|| id.clone());
                let name = task.name.as_deref().map(|name| self.name(name));
                self.introduce(id, root, name, now);
            }
            TaskEvent::Started => self.moved(id, Phase::Running, now),
            TaskEvent::Retried { .. } => self.retried(id, now),
            TaskEvent::Rejected { requeue: true } => self.moved(id, Phase::Waiting, now),
            TaskEvent::Rejected { requeue: false } | TaskEvent::Revoked { .. } => {
                self.end(id, Outcome::Revoked, None, now);
            }
            TaskEvent::Succeeded { runtime_seconds, .. } => self.end(id, Outcome::Succeeded, runtime_seconds, now),
            TaskEvent::Failed { .. } => self.end(id, Outcome::Failed, None, now),
        }
    }

    /// Events were lost: tasks may have ended unseen. [`Self::open_tasks`] are to be looked at, and [`Self::settle`]d.
    pub fn gap(&mut self) {
        self.totals.gaps += 1;
    }

    /// Tasks of a job of which no end was seen.
    pub fn open_tasks(&self, root: &TaskId) -> Vec<TaskId> {
        let Some(number) = self.numbers.get(root) else {
            return Vec::new();
        };
        let of_job = self.tasks.iter().filter(|(_, task)| task.job == Some(*number));
        of_job.map(|(id, _)| id.clone()).collect()
    }

    /// Tasks of all jobs of which no end was seen.
    pub fn all_open_tasks(&self) -> Vec<TaskId> {
        let of_jobs = self.tasks.iter().filter(|(_, task)| task.job.is_some());
        of_jobs.map(|(id, _)| id.clone()).collect()
    }

    /// Takes in an end that was learnt from a stored result; does nothing if it is known.
    pub fn settle(&mut self, id: &TaskId, outcome: Outcome, now: Instant) {
        if self.tasks.contains_key(id) {
            self.end(id.clone(), outcome, None, now);
        }
    }

    pub fn job(&self, root: &TaskId) -> Option<&Job> {
        self.jobs.get(self.numbers.get(root)?)
    }

    /// In no order.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// How much is remembered now: jobs, tasks, ids of ended ones, names.
    pub fn remembered(&self) -> Limits {
        Limits {
            jobs: self.jobs.len(),
            tasks: self.tasks.len().max(self.arrivals.len()),
            ended: self.ended.len(),
            names: self.names.len(),
        }
    }

    /// The same name is the same text in memory.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(name);
        if self.names.len() < self.limits.names {
            self.names.insert(Arc::clone(&name));
        }
        name
    }

    /// A task whose root is told.
    fn introduce(&mut self, id: TaskId, root: TaskId, name: Option<Arc<str>>, now: Instant) {
        let number = self.number_of(&root, now);
        self.remember(&id);
        let task = self.tasks.entry(id.clone()).or_insert(Task {
            job: None,
            name: None,
            phase: Phase::Waiting,
            retries: 0,
            runtime: None,
        });
        task.name = task.name.take().or(name);
        if task.job.is_some() {
            // Sent and received, or received again.
            self.touch(number, now);
            return;
        }
        task.job = Some(number);
        let phase = task.phase;
        let (retries, runtime) = (task.retries, task.runtime);
        let name = task.name.clone().unwrap_or_else(|| Arc::from(UNNAMED));
        if let Some(job) = self.jobs.get_mut(&number) {
            job.last_seen = now;
            if id == job.root {
                job.name = Some(Arc::clone(&name));
            }
            count_in(&mut job.counts, phase, retries);
            count_in(job.of_name(&name), phase, retries);
            if let Phase::Ended(_) = phase {
                job.ended(now);
                if let Some(seconds) = runtime {
                    job.ran(seconds, &name);
                }
            }
        }
        if let Phase::Ended(_) = phase {
            self.tasks.remove(&id);
            self.remember_end(id);
        }
    }

    fn moved(&mut self, id: TaskId, to: Phase, now: Instant) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.meet(id, to, None);
        };
        let from = task.phase;
        // An event may overtake another: what has ended is not begun any more.
        if matches!(from, Phase::Ended(_)) {
            return;
        }
        task.phase = to;
        let (job, name) = (task.job, task.name.clone());
        self.recount(job, name.as_ref(), from, to, now);
    }

    fn retried(&mut self, id: TaskId, now: Instant) {
        self.moved(id.clone(), Phase::Waiting, now);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.retries += 1;
        let Some(job) = task.job.and_then(|number| self.jobs.get_mut(&number)) else {
            return;
        };
        job.counts.retries += 1;
        let name = task.name.clone().unwrap_or_else(|| Arc::from(UNNAMED));
        job.of_name(&name).retries += 1;
    }

    fn end(&mut self, id: TaskId, outcome: Outcome, runtime: Option<f64>, now: Instant) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.meet(id, Phase::Ended(outcome), runtime);
        };
        let from = task.phase;
        if matches!(from, Phase::Ended(_)) {
            return;
        }
        let Some(number) = task.job else {
            task.phase = Phase::Ended(outcome);
            task.runtime = runtime;
            return;
        };
        let name = task.name.take();
        self.tasks.remove(&id);
        self.remember_end(id);
        self.recount(Some(number), name.as_ref(), from, Phase::Ended(outcome), now);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.ended(now);
            if let Some(seconds) = runtime {
                job.ran(seconds, &name.unwrap_or_else(|| Arc::from(UNNAMED)));
            }
        }
    }

    /// A task of which nothing is known yet but this.
    fn meet(&mut self, id: TaskId, phase: Phase, runtime: Option<f64>) {
        self.remember(&id);
        let task = Task {
            job: None,
            name: None,
            phase,
            retries: 0,
            runtime,
        };
        self.tasks.insert(id, task);
    }

    fn recount(&mut self, job: Option<u64>, name: Option<&Arc<str>>, from: Phase, to: Phase, now: Instant) {
        let Some(job) = job.and_then(|number| self.jobs.get_mut(&number)) else {
            return;
        };
        job.last_seen = now;
        count_out(&mut job.counts, from);
        count_in(&mut job.counts, to, 0);
        let unnamed: Arc<str>;
        let name = match name {
            Some(name) => name,
            None => {
                unnamed = Arc::from(UNNAMED);
                &unnamed
            }
        };
        let counts = job.of_name(name);
        count_out(counts, from);
        count_in(counts, to, 0);
    }

    fn touch(&mut self, number: u64, now: Instant) {
        if let Some(job) = self.jobs.get_mut(&number) {
            job.last_seen = now;
        }
    }

    fn number_of(&mut self, root: &TaskId, now: Instant) -> u64 {
        if let Some(number) = self.numbers.get(root) {
            return *number;
        }
        if self.jobs.len() >= self.limits.jobs {
            self.fold_quiet_jobs();
        }
        let number = self.next_number;
        self.next_number += 1;
        self.numbers.insert(root.clone(), number);
        self.jobs.insert(number, Job::new(root.clone(), now));
        number
    }

    /// Makes room for a tenth more: idle jobs first, then those that were quiet for longest.
    fn fold_quiet_jobs(&mut self) {
        let mut order: Vec<(bool, Instant, u64)> = self
            .jobs
            .iter()
            .map(|(number, job)| (!job.is_idle(), job.last_seen, *number))
            .collect();
        order.sort_unstable();
        for (_, _, number) in order.into_iter().take((self.limits.jobs / 10).max(1)) {
            let Some(job) = self.jobs.remove(&number) else { continue };
            self.numbers.remove(&job.root);
            let folded = &mut self.totals.folded;
            folded.waiting += job.counts.waiting;
            folded.running += job.counts.running;
            folded.succeeded += job.counts.succeeded;
            folded.failed += job.counts.failed;
            folded.revoked += job.counts.revoked;
            folded.retries += job.counts.retries;
            self.totals.folded_jobs += 1;
        }
    }

    /// Notes the arrival of a task, and gives up the oldest where there is no room.
    fn remember(&mut self, id: &TaskId) {
        if self.tasks.contains_key(id) {
            return;
        }
        while self.tasks.len() >= self.limits.tasks || self.arrivals.len() >= self.limits.tasks.saturating_mul(2) {
            let Some(oldest) = self.arrivals.pop_front() else { break };
            if let Some(task) = self.tasks.remove(&oldest) {
                match (task.job, task.phase) {
                    (None, _) => self.totals.without_job += 1,
                    (Some(_), _) => self.totals.given_up += 1,
                }
            }
        }
        self.arrivals.push_back(id.clone());
    }

    fn remember_end(&mut self, id: TaskId) {
        while self.ended.len() >= self.limits.ended {
            let Some(oldest) = self.ended_order.pop_front() else {
                break;
            };
            self.ended.remove(&oldest);
        }
        if self.limits.ended > 0 && self.ended.insert(id.clone()) {
            self.ended_order.push_back(id);
        }
        // Arrivals at the front that are over need no place.
        while let Some(first) = self.arrivals.front() {
            if self.tasks.contains_key(first) {
                break;
            }
            self.arrivals.pop_front();
        }
    }
}

fn count_in(counts: &mut TaskCounts, phase: Phase, retries: u64) {
    counts.retries += retries;
    match phase {
        Phase::Waiting => counts.waiting += 1,
        Phase::Running => counts.running += 1,
        Phase::Ended(outcome) => counts.count(outcome),
    }
}

fn count_out(counts: &mut TaskCounts, phase: Phase) {
    match phase {
        Phase::Waiting => counts.waiting = counts.waiting.saturating_sub(1),
        Phase::Running => counts.running = counts.running.saturating_sub(1),
        Phase::Ended(_) => {}
    }
}
