//! One job's figures: how many of its tasks are where, how fast, which were slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tracker::Outcome;
use crate::celery::TaskId;

/// Task names told apart in one job; the rest is counted together.
const NAMES: usize = 100;
/// What is counted together is called so.
const OTHER_NAMES: &str = "(other)";
/// Slowest tasks remembered.
const SLOWEST: usize = 5;
/// Seconds over which the rate is taken.
const WINDOW: usize = 10;

/// Tasks by what became of them. Each task that was seen is in exactly one of waiting, running and the ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Sent, or taken by a worker and not begun; to be tried again.
    pub waiting: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Revoked, or rejected for good.
    pub revoked: u64,
    /// Attempts that failed and were followed by another; counted beside the rest.
    pub retries: u64,
}

impl TaskCounts {
    /// All that were seen.
    pub fn seen(&self) -> u64 {
        self.waiting + self.running + self.ended()
    }

    /// Those that are over.
    pub fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.revoked
    }

    /// Share of those that are over which did not succeed; `None` before the first is.
    pub fn error_rate(&self) -> Option<f64> {
        let ended = self.ended();
        (ended > 0).then(|| (self.failed + self.revoked) as f64 / ended as f64)
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Succeeded => self.succeeded += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Revoked => self.revoked += 1,
        }
    }
}

/// One job, as far as its events were seen.
#[derive(Clone, Debug)]
pub struct Job {
    /// The first task.
    pub root: TaskId,
    /// The first task's name, once it is known.
    pub name: Option<Arc<str>>,
    pub counts: TaskCounts,
    /// The same by task name.
    pub by_name: BTreeMap<Arc<str>, TaskCounts>,
    /// The longest runs: seconds, name.
    pub slowest: Vec<(f64, Arc<str>)>,
    /// When its first and its last event came in.
    pub first_seen: Instant,
    pub last_seen: Instant,
    /// Ends in the second named beside, for the last seconds.
    recent: [(u64, u32); WINDOW],
}

impl Job {
    pub(super) fn new(root: TaskId, now: Instant) -> Self {
        Self {
            root,
            name: None,
            counts: TaskCounts::default(),
            by_name: BTreeMap::new(),
            slowest: Vec::new(),
            first_seen: now,
            last_seen: now,
            recent: [(u64::MAX, 0); WINDOW],
        }
    }

    /// Nothing of it waits or runs.
    pub fn is_idle(&self) -> bool {
        self.counts.waiting == 0 && self.counts.running == 0
    }

    /// Ends per second over the last ten seconds, or since it began.
    pub fn rate(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.first_seen);
        let second = age.as_secs();
        let ends: u32 = self
            .recent
            .iter()
            .filter(|(of, _)| *of <= second && second - of < WINDOW as u64)
            .map(|(_, ends)| ends)
            .sum();
        // The second that has just begun counts as far as it has gone.
        let span = age.as_secs_f64().min((WINDOW - 1) as f64 + age.as_secs_f64().fract());
        f64::from(ends) / span.max(1.0)
    }

    /// How long until `total` tasks have ended, at the present rate; `None` where there is none.
    pub fn time_left(&self, total: u64, now: Instant) -> Option<Duration> {
        let rate = self.rate(now);
        let left = total.saturating_sub(self.counts.ended());
        (rate > 0.0).then(|| Duration::try_from_secs_f64(left as f64 / rate).ok())?
    }

    /// The counts of tasks of this name.
    pub(super) fn of_name(&mut self, name: &Arc<str>) -> &mut TaskCounts {
        if self.by_name.len() >= NAMES && !self.by_name.contains_key(name) {
            return self.by_name.entry(Arc::from(OTHER_NAMES)).or_default();
        }
        self.by_name.entry(Arc::clone(name)).or_default()
    }

    pub(super) fn ended(&mut self, now: Instant) {
        let second = now.duration_since(self.first_seen).as_secs();
        let place = usize::try_from(second % WINDOW as u64).unwrap_or(0);
        if let Some((of, ends)) = self.recent.get_mut(place) {
            if *of != second {
                (*of, *ends) = (second, 0);
            }
            *ends = ends.saturating_add(1);
        }
    }

    pub(super) fn ran(&mut self, seconds: f64, name: &Arc<str>) {
        if !seconds.is_finite() {
            return;
        }
        let place = self.slowest.partition_point(|(slower, _)| *slower >= seconds);
        if place < SLOWEST {
            self.slowest.insert(place, (seconds, Arc::clone(name)));
            self.slowest.truncate(SLOWEST);
        }
    }
}
