//! Totals of all sites of a run, updated with each event instead of summed over thousands of sites. The schedule
//! estimates the remaining time.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::views::{SitePhase, SiteView};
use crate::site_counts::SiteCounts;

/// Length of the window of the chunk rate in seconds.
const RATE_WINDOW: f64 = 60.0;
const SAMPLE_PAUSE: f64 = 1.0;
/// Shortest time in seconds from which a rate is computed.
const MIN_WINDOW: f64 = 2.0;

/// Totals over all sites. The sums use 128 bits, since counts from outside may exceed 64 bits in total.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunTotals {
    /// Number of sites in each phase; no zeros.
    pub sites: BTreeMap<SitePhase, usize>,
    /// Chunks of the sites with a known number.
    pub total_chunks: u128,
    pub completed_chunks: u128,
    /// Number of sites whose number of chunks is known.
    pub sites_with_chunks: usize,
    pub results: u128,
    /// Number of sites whose number of results is known.
    pub sites_with_results: usize,
    pub errors: u128,
    /// Number of sites whose number of errors is known.
    pub sites_with_errors: usize,
    #[serde(skip)]
    ended: ChunkRateMeter,
}

/// Contribution of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SiteContribution {
    phase: SitePhase,
    counts: SiteCounts,
}

impl SiteContribution {
    pub fn of(site: &SiteView) -> Self {
        Self {
            phase: site.phase,
            counts: site.counts,
        }
    }
}

impl RunTotals {
    /// Computes the totals of these sites.
    pub(crate) fn of(sites: &[SiteView]) -> Self {
        let mut totals = Self::default();
        for site in sites {
            totals.add(SiteContribution::of(site));
        }
        totals
    }

    /// Replaces the contribution of a site that has changed or is new at this run time.
    pub(crate) fn replace(&mut self, before: Option<SiteContribution>, after: Option<SiteContribution>, now: f64) {
        if before == after {
            return;
        }
        let completed =
            |share: Option<SiteContribution>| share.and_then(|share| share.counts.completed_chunks).unwrap_or(0);
        // A new attempt begins at zero, but the chunks of the discarded attempt have ended.
        self.ended.add(completed(after).saturating_sub(completed(before)), now);
        if let Some(before) = before {
            self.remove(before);
        }
        if let Some(after) = after {
            self.add(after);
        }
    }

    fn add(&mut self, share: SiteContribution) {
        *self.sites.entry(share.phase).or_default() += 1;
        self.change(share.counts, |sum, count| *sum += u128::from(count));
        self.sites_with_chunks += usize::from(share.counts.total_chunks.is_some());
        self.sites_with_results += usize::from(share.counts.results.is_some());
        self.sites_with_errors += usize::from(share.counts.errors.is_some());
    }

    fn remove(&mut self, share: SiteContribution) {
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

    /// Returns the number of sites in this phase.
    pub fn in_phase(&self, phase: SitePhase) -> usize {
        self.sites.get(&phase).copied().unwrap_or(0)
    }

    /// Returns the number of sites in a final phase.
    pub fn ended_sites(&self) -> usize {
        let ended = self.sites.iter().filter(|(phase, _)| phase.is_final());
        ended.map(|(_, sites)| sites).sum()
    }

    /// Returns the number of sites that have begun and not ended.
    pub fn running_sites(&self) -> usize {
        let running = [SitePhase::Dispatching, SitePhase::Running, SitePhase::Retrying];
        running.into_iter().map(|phase| self.in_phase(phase)).sum()
    }

    /// Returns the number of chunks that ended per second in the minute before this run time; `None`: the time is too
    /// short.
    pub fn chunk_rate(&self, now: f64) -> Option<f64> {
        self.ended.rate(now)
    }
}

/// Ended chunks with their times.
#[derive(Clone, Debug, Default, PartialEq)]
struct ChunkRateMeter {
    count: u128,
    /// Run time of the first.
    since: Option<f64>,
    /// Samples of run time and number of chunks that had ended before; the oldest first, at most one per second, all of
    /// the last minute.
    samples: VecDeque<(f64, u128)>,
}

impl ChunkRateMeter {
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
        (time >= MIN_WINDOW).then(|| (self.count - before) as f64 / time)
    }
}

#[cfg(test)]
#[path = "totals_tests.rs"]
mod tests;
