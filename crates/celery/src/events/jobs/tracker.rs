//! State machine that derives jobs from task events. The functions have no side effects: the time is the arrival time
//! of the events.
//!
//! Only `task-sent` and `task-received` contain the root of a task (Celery wire, observed on 5.2 to 5.7). Other events
//! are matched by the task id, in any order. Memory is limited: finished tasks are kept as counts, finished jobs as
//! totals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashSet};

use super::job::{Job, TaskCounts};
use crate::events::event::{Event, EventKind, TaskEvent};
use crate::wire::ids::TaskId;
use crate::wire::task_outcome::TaskOutcome;

/// Name for tasks with an unknown name.
const UNNAMED: &str = "?";

/// Maximum numbers of the entries that the tracker keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackerLimits {
    /// Jobs. Above this number the jobs without recent events are added to the totals and removed.
    pub jobs: usize,
    /// Tasks that have not ended. Above this number the oldest task is dropped.
    pub tasks: usize,
    /// Ids of ended tasks, which identify late or repeated events.
    pub ended: usize,
    /// Task names.
    pub names: usize,
}

impl Default for TrackerLimits {
    fn default() -> Self {
        Self {
            jobs: 1_000,
            tasks: 200_000,
            ended: 20_000,
            names: 2_000,
        }
    }
}

/// Totals over all events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerTotals {
    /// Number of task events.
    pub events: u64,
    /// Counts of the jobs that the tracker has removed.
    pub folded: TaskCounts,
    pub folded_jobs: u64,
    /// Tasks without a known root: they were received before the tracker started, or in a gap.
    pub without_job: u64,
    /// Tasks that were dropped to limit memory.
    pub given_up: u64,
    /// Number of times that events were lost.
    pub gaps: u64,
}

/// Phase of a task, in the usual order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TaskPhase {
    #[default]
    Waiting,
    Running,
    /// Kept only until the root of the task is known.
    Ended(TaskOutcome),
}

/// Task that is kept individually.
#[derive(Debug, Default)]
struct TrackedTask {
    /// Number of the job, or `None` until an event contains the root.
    job: Option<u64>,
    name: Option<Arc<str>>,
    phase: TaskPhase,
    retries: u64,
    runtime: Option<f64>,
}

/// Tracker of all jobs for which events were received.
#[derive(Debug, Default)]
pub struct JobTracker {
    limits: TrackerLimits,
    jobs: HashMap<u64, Job>,
    /// Job numbers by root. A number is never reused, so a task of a removed job finds no job.
    numbers: HashMap<TaskId, u64>,
    next_number: u64,
    tasks: HashMap<TaskId, TrackedTask>,
    /// Task ids in the order of arrival. Some of these tasks may have ended.
    arrivals: VecDeque<TaskId>,
    ended: HashSet<TaskId>,
    ended_order: VecDeque<TaskId>,
    names: HashSet<Arc<str>>,
    totals: TrackerTotals,
}

impl JobTracker {
    pub fn new(limits: TrackerLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Applies an event. Events of workers and apps have no effect.
    pub fn fold(&mut self, event: Event) {
        let now = event.received_at;
        let EventKind::Task { id, event } = event.kind else {
            return;
        };
        self.totals.events += 1;
        if self.ended.contains(&id) {
            // The event is late, repeated, or belongs to a redelivered message; the task is counted already.
            return;
        }
        match event {
            TaskEvent::Sent { task, .. } | TaskEvent::Received(task) => {
                let root = task.root_id.unwrap_or_else(|| id.clone());
                let name = task.name.as_deref().map(|name| self.name(name));
                self.assign_to_job(id, root, name, now);
            }
            TaskEvent::Started => self.set_phase(id, TaskPhase::Running, now),
            TaskEvent::Retried { .. } => self.record_retry(id, now),
            TaskEvent::Rejected { requeue: true } => self.set_phase(id, TaskPhase::Waiting, now),
            TaskEvent::Rejected { requeue: false } | TaskEvent::Revoked { .. } => {
                self.record_end(id, TaskOutcome::Revoked, None, now);
            }
            TaskEvent::Succeeded { runtime_seconds, .. } => {
                self.record_end(id, TaskOutcome::Succeeded, runtime_seconds, now)
            }
            TaskEvent::Failed { .. } => self.record_end(id, TaskOutcome::Failed, None, now),
        }
    }

    /// Records that events were lost. Tasks may have ended without an event, so the caller checks [`Self::all_open_tasks`]
    /// and calls [`Self::settle`].
    pub fn record_gap(&mut self) {
        self.totals.gaps += 1;
    }

    /// Returns the tasks of all jobs that have not ended, as far as known.
    pub fn all_open_tasks(&self) -> Vec<TaskId> {
        let of_jobs = self.tasks.iter().filter(|(_, task)| task.job.is_some());
        of_jobs.map(|(id, _)| id.clone()).collect()
    }

    /// Applies an outcome from a stored result. Does nothing when the end of the task is known already.
    pub fn settle(&mut self, id: &TaskId, outcome: TaskOutcome, now: Instant) {
        if self.tasks.contains_key(id) {
            self.record_end(id.clone(), outcome, None, now);
        }
    }

    pub fn job(&self, root: &TaskId) -> Option<&Job> {
        self.jobs.get(self.numbers.get(root)?)
    }

    /// Returns all jobs in no particular order.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    pub fn totals(&self) -> &TrackerTotals {
        &self.totals
    }

    /// Returns the current number of entries: jobs, tasks, ids of ended tasks, names.
    pub fn entry_counts(&self) -> TrackerLimits {
        TrackerLimits {
            jobs: self.jobs.len(),
            tasks: self.tasks.len().max(self.arrivals.len()),
            ended: self.ended.len(),
            names: self.names.len(),
        }
    }

    /// Returns a shared text for the name, so that equal names use the same memory.
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

    /// Assigns a task to its job once an event contains the root.
    fn assign_to_job(&mut self, id: TaskId, root: TaskId, name: Option<Arc<str>>, now: Instant) {
        let number = self.number_of(&root, now);
        self.remember(&id);
        let task = self.tasks.entry(id.clone()).or_default();
        task.name = task.name.take().or(name);
        if task.job.is_some() {
            // The task is known already: sent and received, or received twice.
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
            count_in(job.counts_of_name(&name), phase, retries);
            if let TaskPhase::Ended(_) = phase {
                job.record_end(now);
                if let Some(seconds) = runtime {
                    job.record_runtime(seconds, &name);
                }
            }
        }
        if let TaskPhase::Ended(_) = phase {
            self.tasks.remove(&id);
            self.remember_ended_id(id);
        }
    }

    fn set_phase(&mut self, id: TaskId, to: TaskPhase, now: Instant) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.add_without_job(id, to, None);
        };
        let from = task.phase;
        // Events can arrive out of order: an ended task does not start again.
        if matches!(from, TaskPhase::Ended(_)) {
            return;
        }
        task.phase = to;
        let (job, name) = (task.job, task.name.clone());
        self.recount(job, name.as_ref(), from, to, now);
    }

    fn record_retry(&mut self, id: TaskId, now: Instant) {
        self.set_phase(id.clone(), TaskPhase::Waiting, now);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.retries += 1;
        let Some(job) = task.job.and_then(|number| self.jobs.get_mut(&number)) else {
            return;
        };
        job.counts.retries += 1;
        let name = task.name.clone().unwrap_or_else(|| Arc::from(UNNAMED));
        job.counts_of_name(&name).retries += 1;
    }

    fn record_end(&mut self, id: TaskId, outcome: TaskOutcome, runtime: Option<f64>, now: Instant) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.add_without_job(id, TaskPhase::Ended(outcome), runtime);
        };
        let from = task.phase;
        if matches!(from, TaskPhase::Ended(_)) {
            return;
        }
        let Some(number) = task.job else {
            task.phase = TaskPhase::Ended(outcome);
            task.runtime = runtime;
            return;
        };
        let name = task.name.take();
        self.tasks.remove(&id);
        self.remember_ended_id(id);
        self.recount(Some(number), name.as_ref(), from, TaskPhase::Ended(outcome), now);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.record_end(now);
            if let Some(seconds) = runtime {
                job.record_runtime(seconds, &name.unwrap_or_else(|| Arc::from(UNNAMED)));
            }
        }
    }

    /// Adds a task of which only the id and the phase are known.
    fn add_without_job(&mut self, id: TaskId, phase: TaskPhase, runtime: Option<f64>) {
        self.remember(&id);
        let task = TrackedTask {
            phase,
            runtime,
            ..TrackedTask::default()
        };
        self.tasks.insert(id, task);
    }

    fn recount(&mut self, job: Option<u64>, name: Option<&Arc<str>>, from: TaskPhase, to: TaskPhase, now: Instant) {
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
        let counts = job.counts_of_name(name);
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

    /// Removes a tenth of the allowed number of jobs: idle jobs first, then jobs without recent events.
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

    /// Records the arrival of a task and drops the oldest tasks when the limit is reached.
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

    fn remember_ended_id(&mut self, id: TaskId) {
        while self.ended.len() >= self.limits.ended {
            let Some(oldest) = self.ended_order.pop_front() else {
                break;
            };
            self.ended.remove(&oldest);
        }
        if self.limits.ended > 0 && self.ended.insert(id.clone()) {
            self.ended_order.push_back(id);
        }
        // Ended tasks at the front of the list are removed.
        while let Some(first) = self.arrivals.front() {
            if self.tasks.contains_key(first) {
                break;
            }
            self.arrivals.pop_front();
        }
    }
}

fn count_in(counts: &mut TaskCounts, phase: TaskPhase, retries: u64) {
    counts.retries += retries;
    match phase {
        TaskPhase::Waiting => counts.waiting += 1,
        TaskPhase::Running => counts.running += 1,
        TaskPhase::Ended(outcome) => counts.count(outcome),
    }
}

fn count_out(counts: &mut TaskCounts, phase: TaskPhase) {
    match phase {
        TaskPhase::Waiting => counts.waiting = counts.waiting.saturating_sub(1),
        TaskPhase::Running => counts.running = counts.running.saturating_sub(1),
        TaskPhase::Ended(_) => {}
    }
}
