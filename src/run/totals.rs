//! What all sites of a run add up to, kept up with each event: no sum over thousands of sites for one that changed.
//!
//! Not here: how long the rest will take, which the schedule knows (`sites::forecast`).

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::event::SiteCounts;
use super::state::{SitePhase, SiteView};

/// Seconds over which the chunk rate is taken, and between two samples of it.
const RATE_WINDOW: f64 = 60.0;
const SAMPLE_PAUSE: f64 = 1.0;
/// Seconds that a rate needs to mean something.
const SHORTEST_WINDOW: f64 = 2.0;

/// See the module. Sums of counts that come from outside do not fit 64 bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Sites in each phase; no zeros.
    pub sites: BTreeMap<SitePhase, usize>,
    /// Of the sites that have told theirs.
    pub total_chunks: u128,
    pub completed_chunks: u128,
    /// Sites whose number of chunks is known.
    pub sites_with_chunks: usize,
    pub results: u128,
    /// Sites of which the number of results is known.
    pub sites_with_results: usize,
    pub errors: u128,
    /// Sites of which the number of errors is known.
    pub sites_with_errors: usize,
    #[serde(skip)]
    ended: Ended,
}

/// The part of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    phase: SitePhase,
    counts: SiteCounts,
}

impl Share {
    pub fn of(site: &SiteView) -> Self {
        Self {
            phase: site.phase,
            counts: site.counts,
        }
    }
}

impl Totals {
    /// Of all of these.
    pub(super) fn of(sites: &[SiteView]) -> Self {
        let mut totals = Self::default();
        for site in sites {
            totals.add(Share::of(site));
        }
        totals
    }

    /// A site has changed, or is new, at this run time.
    pub(super) fn replace(&mut self, before: Option<Share>, after: Option<Share>, now: f64) {
        if before == after {
            return;
        }
        let completed = |share: Option<Share>| share.and_then(|share| share.counts.completed_chunks).unwrap_or(0);
        // A new attempt begins with none: what it throws away has ended all the same.
        self.ended.add(completed(after).saturating_sub(completed(before)), now);
        if let Some(before) = before {
            self.remove(before);
        }
        if let Some(after) = after {
            self.add(after);
        }
    }

    fn add(&mut self, share: Share) {
        *self.sites.entry(share.phase).or_default() += 1;
        self.change(share.counts, |sum, count| *sum += u128::from(count));
        self.sites_with_chunks += usize::from(share.counts.total_chunks.is_some());
        self.sites_with_results += usize::from(share.counts.results.is_some());
        self.sites_with_errors += usize::from(share.counts.errors.is_some());
    }

    fn remove(&mut self, share: Share) {
        if let Some(sites) = self.sites.get_mut(&share.phase) {
            *sites -= 1;
            if *sites == 0 {
                self.sites.remove(&share.phase);
            }
        }
        self.change(share.counts, |sum, count| *sum -= u128::from(count));
        self.sites_with_chunks -= usize::from(share.counts.total_chunks.is_some());
        self.sites_with_results -= usize::from(share.counts.results.is_some());
        self.sites_with_errors -= usize::from(share.counts.errors.is_some());
    }

    fn change(&mut self, counts: SiteCounts, change: impl Fn(&mut u128, u64)) {
        let SiteCounts {
            total_urls: _,
            total_chunks,
            completed_chunks,
            results,
            errors,
        } = counts;
        change(&mut self.total_chunks, total_chunks.unwrap_or(0));
        change(&mut self.completed_chunks, completed_chunks.unwrap_or(0));
        change(&mut self.results, results.unwrap_or(0));
        change(&mut self.errors, errors.unwrap_or(0));
    }

    /// Sites in this phase.
    pub fn in_phase(&self, phase: SitePhase) -> usize {
        self.sites.get(&phase).copied().unwrap_or(0)
    }

    /// Sites to which nothing further will happen.
    pub fn ended_sites(&self) -> usize {
        let ended = self.sites.iter().filter(|(phase, _)| phase.is_final());
        ended.map(|(_, sites)| sites).sum()
    }

    /// Sites that have begun and not ended.
    pub fn running_sites(&self) -> usize {
        let running = [SitePhase::Dispatching, SitePhase::Running, SitePhase::Retrying];
        running.into_iter().map(|phase| self.in_phase(phase)).sum()
    }

    /// Chunks that ended per second, over the last minute before this run time; `None`: too short a time tells nothing.
    pub fn chunk_rate(&self, now: f64) -> Option<f64> {
        self.ended.rate(now)
    }
}

/// Chunks that have ended, and when.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ended {
    count: u128,
    /// Run time of the first.
    since: Option<f64>,
    /// Run time, and how many had ended before; the oldest first, at most one a second, all of the last minute.
    samples: VecDeque<(f64, u128)>,
}

impl Ended {
    fn add(&mut self, more: u64, now: f64) {
        if more == 0 {
            return;
        }
        self.since.get_or_insert(now);
        if self.samples.back().is_none_or(|(at, _)| now - at >= SAMPLE_PAUSE) {
            self.samples.push_back((now, self.count));
        }
        self.count += u128::from(more);
        while self.samples.front().is_some_and(|(at, _)| now - at > RATE_WINDOW) {
            self.samples.pop_front();
        }
    }

    fn rate(&self, now: f64) -> Option<f64> {
        let time = (now - self.since?).min(RATE_WINDOW);
        let within = self.samples.iter().find(|(at, _)| now - at <= RATE_WINDOW);
        let before = within.map_or(self.count, |(_, before)| *before);
        (time >= SHORTEST_WINDOW).then(|| (self.count - before) as f64 / time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::{RunState, any_event};

    proptest! {
        #[test]
        fn what_is_kept_up_is_the_sum_over_all_sites(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut state = RunState::default();
            for event in &events {
                state.apply(event);
                let summed = Totals { ended: state.totals.ended.clone(), ..Totals::of(&state.sites) };
                prop_assert_eq!(&state.totals, &summed);
                prop_assert!(state.totals.ended.samples.len() <= 62);
            }
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let mut ended = Ended::default();
        assert_eq!(ended.rate(10.0), None);
        ended.add(5, 10.0);
        assert_eq!(ended.rate(10.5), None, "too short");
        assert_eq!(ended.rate(15.0), Some(1.0));
        // Three a second for two minutes.
        for tenth in 0..1200 {
            ended.add(u64::from(tenth % 10 == 0) * 3, 20.0 + f64::from(tenth) / 10.0);
        }
        let now = 140.0;
        let rate = ended.rate(now).unwrap();
        assert!((rate - 3.0).abs() < 0.1, "{rate}");
        assert_eq!(ended.rate(now + 61.0), Some(0.0), "nothing for a minute");
        assert!(ended.samples.len() < 64, "{}", ended.samples.len());
    }
}
