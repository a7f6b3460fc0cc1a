//! Queue of the sites that wait for a turn, in the order of their keys and grouped by demand.
//!
//! If the first site of a demand does not fit, no site of that demand does, so that only the first sites are examined.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::state::SiteId;

/// Milliseconds of waiting time that count as one millisecond of expected time.
const WAITED_PER_EXPECTED: i64 = 4;

/// Order of a site in the queue: the least key goes first. The key does not change while a site waits, because all
/// waiting sites age alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    begun: Reverse<bool>,
    score: Reverse<i64>,
    /// Position in the configuration.
    site: SiteId,
}

impl QueueKey {
    pub fn new(site: SiteId, begun: bool, chain: Duration, since: Duration) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let score = millis(chain).saturating_sub(millis(since) / WAITED_PER_EXPECTED);
        Self {
            begun: Reverse(begun),
            score: Reverse(score),
            site,
        }
    }

    pub fn site(self) -> SiteId {
        self.site
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SiteQueue {
    /// Keys by demand; no set is empty.
    waiting: BTreeMap<usize, BTreeSet<QueueKey>>,
    /// First key of each demand.
    first: BTreeSet<(QueueKey, usize)>,
}

impl SiteQueue {
    pub fn insert(&mut self, key: QueueKey, demand: usize) {
        self.change(demand, |waiting| waiting.insert(key));
    }

    pub fn remove(&mut self, key: QueueKey, demand: usize) {
        self.change(demand, |waiting| waiting.remove(&key));
    }

    fn change(&mut self, demand: usize, change: impl FnOnce(&mut BTreeSet<QueueKey>) -> bool) {
        let waiting = self.waiting.entry(demand).or_default();
        let before = waiting.first().copied();
        change(waiting);
        let now = waiting.first().copied();
        if now.is_none() {
            self.waiting.remove(&demand);
        }
        if before != now {
            before.map(|key| self.first.remove(&(key, demand)));
            now.map(|key| self.first.insert((key, demand)));
        }
    }

    /// Returns the first key of the next demand after `last`, or of all demands at the beginning.
    pub fn next(&self, last: Option<(QueueKey, usize)>) -> Option<(QueueKey, usize)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.first.range((from, Bound::Unbounded)).next().copied()
    }
}
