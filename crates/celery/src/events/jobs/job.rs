//! Numbers of one job: tasks by state, rate of finished tasks, slowest tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::wire::ids::TaskId;
use crate::wire::task_outcome::TaskOutcome;

/// Number of task names that are counted separately in one job. Further names are counted together.
const NAME_LIMIT: usize = 100;
/// Name under which further task names are counted together.
const OTHER_NAMES: &str = "(other)";
/// Number of slowest tasks that are kept.
const SLOWEST_LIMIT: usize = 5;
/// Seconds over which the rate is calculated.
const WINDOW_SECONDS: usize = 10;

/// Number of tasks by state. Each known task is in exactly one state: waiting, running, succeeded, failed or revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Tasks that were sent or received and not started, and tasks that wait for a retry.
    pub waiting: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Tasks that were revoked, or rejected without requeueing.
    pub revoked: u64,
    /// Failed attempts that were followed by a retry. This number is separate from the states.
    pub retries: u64,
}

impl TaskCounts {
    /// Returns the number of known tasks.
    pub fn seen(&self) -> u64 {
        self.waiting + self.running + self.ended()
    }

    /// Returns the number of tasks that have ended.
    pub fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.revoked
    }

    /// Returns the share of ended tasks that did not succeed, or `None` when no task has ended.
    pub fn error_rate(&self) -> Option<f64> {
        let ended = self.ended();
        (ended > 0).then(|| (self.failed + self.revoked) as f64 / ended as f64)
    }

    pub(crate) fn count(&mut self, outcome: TaskOutcome) {
        match outcome {
            TaskOutcome::Succeeded => self.succeeded += 1,
            TaskOutcome::Failed => self.failed += 1,
            TaskOutcome::Revoked => self.revoked += 1,
        }
    }
}

/// Job with the state that the received events show.
#[derive(Clone, Debug)]
pub struct Job {
    /// Id of the first task.
    pub root: TaskId,
    /// Name of the first task, as soon as the name is known.
    pub name: Option<Arc<str>>,
    pub counts: TaskCounts,
    /// Counts by task name.
    pub by_name: BTreeMap<Arc<str>, TaskCounts>,
    /// Longest runtimes: seconds and task name.
    pub slowest: Vec<(f64, Arc<str>)>,
    /// Arrival times of the first and the last event.
    pub first_seen: Instant,
    pub last_seen: Instant,
    /// Number of ended tasks per second for the last seconds, as pairs of second and number.
    recent: [(u64, u32); WINDOW_SECONDS],
}

impl Job {
    pub(crate) fn new(root: TaskId, now: Instant) -> Self {
        Self {
            root,
            name: None,
            counts: TaskCounts::default(),
            by_name: BTreeMap::new(),
            slowest: Vec::new(),
            first_seen: now,
            last_seen: now,
            recent: [(u64::MAX, 0); WINDOW_SECONDS],
        }
    }

    /// Returns true when no task is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.counts.waiting == 0 && self.counts.running == 0
    }

    /// Returns the ended tasks per second over the last ten seconds, or since the start of a younger job.
    pub fn rate(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.first_seen);
        let second = age.as_secs();
        let ends: u32 = self
            .recent
            .iter()
            .filter(|(of, _)| *of <= second && second - of < WINDOW_SECONDS as u64)
            .map(|(_, ends)| ends)
            .sum();
        // The current second counts only as far as it has passed.
        let span = age
            .as_secs_f64()
            .min((WINDOW_SECONDS - 1) as f64 + age.as_secs_f64().fract());
        f64::from(ends) / span.max(1.0)
    }

    /// Returns the counts for this task name.
    pub(crate) fn counts_of_name(&mut self, name: &Arc<str>) -> &mut TaskCounts {
        if self.by_name.len() >= NAME_LIMIT && !self.by_name.contains_key(name) {
            return self.by_name.entry(Arc::from(OTHER_NAMES)).or_default();
        }
        self.by_name.entry(Arc::clone(name)).or_default()
    }

    pub(crate) fn record_end(&mut self, now: Instant) {
        let second = now.duration_since(self.first_seen).as_secs();
        let place = usize::try_from(second % WINDOW_SECONDS as u64).unwrap_or(0);
        if let Some((of, ends)) = self.recent.get_mut(place) {
            if *of != second {
                (*of, *ends) = (second, 0);
            }
            *ends = ends.saturating_add(1);
        }
    }

    pub(crate) fn record_runtime(&mut self, seconds: f64, name: &Arc<str>) {
        if !seconds.is_finite() {
            return;
        }
        let place = self.slowest.partition_point(|(slower, _)| *slower >= seconds);
        if place < SLOWEST_LIMIT {
            self.slowest.insert(place, (seconds, Arc::clone(name)));
            self.slowest.truncate(SLOWEST_LIMIT);
        }
    }
}
