//! Who is next: queued sites in the order of their claim, those of the same demand together.
//!
//! If the first of a demand does not fit none of that demand does, so that only the first ones are looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::state::SiteId;

/// So many moments waited count as one expected.
const MOMENTS_WAITED: i64 = 4;

/// The least goes first. It does not change while a site waits: all that wait age alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    begun: Reverse<bool>,
    score: Reverse<i64>,
    /// As configured.
    site: SiteId,
}

impl Key {
    pub fn new(site: SiteId, begun: bool, chain: Duration, since: Duration) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let score = millis(chain).saturating_sub(millis(since) / MOMENTS_WAITED);
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
pub(super) struct Queue {
    /// By demand; never empty ones.
    waiting: BTreeMap<usize, BTreeSet<Key>>,
    /// The first of each demand.
    first: BTreeSet<(Key, usize)>,
}

impl Queue {
    pub fn insert(&mut self, key: Key, demand: usize) {
        self.change(demand, |waiting| waiting.insert(key));
    }

    pub fn remove(&mut self, key: Key, demand: usize) {
        self.change(demand, |waiting| waiting.remove(&key));
    }

    fn change(&mut self, demand: usize, change: impl FnOnce(&mut BTreeSet<Key>) -> bool) {
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

    /// The first of a demand that comes behind `last`, of all of them at the beginning.
    pub fn next(&self, last: Option<(Key, usize)>) -> Option<(Key, usize)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.first.range((from, Bound::Unbounded)).next().copied()
    }
}
