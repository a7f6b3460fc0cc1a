//! Which ends of a site are a measure for later runs, and what they say that it usually takes.
//!
//! Pure. Only a complete end that has something to show is a measure; of its time only an attempt that the run itself began.
//! A night on which a shop was empty is over in seconds: if it counted, the next good night would be out of time.

use std::time::Duration;

use super::end_cause::EndCause;
use super::event::{SiteCounts, SiteStatus};
use super::history::PastSite;
use crate::median::median;

/// Results that an expectation is made of.
pub(super) const EXPECTED_BY: usize = 5;

/// What a site usually takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usual {
    /// Time of one whole attempt.
    pub elapsed: Duration,
    /// `None`: not known.
    pub chunks: Option<u64>,
}

impl Usual {
    /// Medians of the last whole attempts that were complete and had something to show; of results, the latest first.
    pub fn of<'r>(results: impl IntoIterator<Item = &'r PastSite>) -> Option<Self> {
        let whole = |result: &'r PastSite| Some((result.whole_attempt()?, result.counts.total_chunks));
        let (times, chunks): (Vec<_>, Vec<_>) = results.into_iter().filter_map(whole).take(EXPECTED_BY).unzip();
        Some(Self {
            elapsed: median(times)?,
            chunks: median(chunks.into_iter().flatten().collect()),
        })
    }
}

impl PastSite {
    /// Whether its yield is a measure for later runs: it was complete, by the run that tells it, and not empty.
    pub fn is_measure(&self) -> bool {
        is_measure(self.status, self.counts, self.cause)
    }

    /// Time of its attempt where that is a measure for later runs.
    pub fn whole_attempt(&self) -> Option<Duration> {
        self.attempt.filter(|_| self.is_measure())
    }
}

/// Whether such an end is a measure for others, of this run or a later one.
pub fn is_measure(status: SiteStatus, counts: SiteCounts, cause: Option<EndCause>) -> bool {
    status == SiteStatus::Complete && cause != Some(EndCause::ByAnotherRun) && !is_empty(counts)
}

/// Whether a complete job had nothing to do, or has nothing to show. What is not known is not nothing.
fn is_empty(counts: SiteCounts) -> bool {
    let SiteCounts {
        total_urls,
        total_chunks,
        completed_chunks,
        results,
        errors: _,
    } = counts;
    let nothing_done = completed_chunks == Some(0) && results.is_none();
    [total_urls, total_chunks, results].contains(&Some(0)) || nothing_done
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(urls: Option<u64>, chunks: Option<(u64, u64)>, results: Option<u64>) -> SiteCounts {
        SiteCounts {
            total_urls: urls,
            total_chunks: chunks.map(|(_, total)| total),
            completed_chunks: chunks.map(|(done, _)| done),
            results,
            errors: None,
        }
    }

    fn past(status: SiteStatus, counts: SiteCounts, attempt: Option<u64>) -> PastSite {
        PastSite {
            run_id: "r".into(),
            at: 0.0,
            status,
            elapsed: Duration::from_secs(7_777),
            attempt: attempt.map(Duration::from_secs),
            counts,
            reason: None,
            cause: None,
        }
    }

    fn full(seconds: u64) -> PastSite {
        past(
            SiteStatus::Complete,
            counts(Some(80), Some((20, 20)), Some(70)),
            Some(seconds),
        )
    }

    fn seconds(results: &[PastSite]) -> Option<u64> {
        Usual::of(results).map(|usual| usual.elapsed.as_secs())
    }

    #[test]
    fn only_a_complete_whole_attempt_that_has_something_to_show_is_a_measure() {
        use SiteStatus::{Cancelled, Complete, Degraded, Failed, Skipped};
        let some = counts(Some(80), Some((20, 20)), Some(70));
        let unknown = SiteCounts::default();
        for (status, counts, attempt, is_measure) in [
            (Complete, some, Some(600), true),
            (Complete, unknown, Some(600), true),
            (Complete, counts(None, Some((20, 20)), None), Some(600), true),
            // The chunks that had ended were not counted, and there are results.
            (Complete, counts(None, Some((0, 20)), Some(3)), Some(600), true),
            (Complete, counts(Some(0), None, None), Some(2), false),
            (Complete, counts(Some(80), Some((20, 20)), Some(0)), Some(2), false),
            (Complete, counts(None, Some((0, 0)), None), Some(2), false),
            (Complete, counts(None, Some((0, 5)), None), Some(1), false),
            // An earlier run had begun it.
            (Complete, some, None, false),
            (Degraded, some, Some(600), false),
            (Failed, some, Some(600), false),
            (Cancelled, some, Some(600), false),
            (Skipped, unknown, None, false),
        ] {
            let found = past(status, counts, attempt).whole_attempt().is_some();
            assert_eq!(found, is_measure, "{status:?} {counts:?} {attempt:?}");
        }
        let elsewhere = PastSite {
            cause: Some(EndCause::ByAnotherRun),
            ..full(600)
        };
        assert_eq!((elsewhere.is_measure(), elsewhere.whole_attempt()), (false, None));
    }

    #[test]
    fn the_median_is_that_of_whole_attempts_and_not_of_all_that_the_site_took() {
        let empty = || past(SiteStatus::Complete, counts(Some(0), None, Some(0)), Some(2));
        assert_eq!(seconds(&[empty(), empty(), empty()]), None);
        let nights = [empty(), empty(), empty(), full(600), full(500), full(900)];
        assert_eq!(seconds(&nights), Some(600));
        assert_eq!(Usual::of(&nights).and_then(|usual| usual.chunks), Some(20));
        // A degraded one is not, although it is the latest.
        let degraded = PastSite {
            status: SiteStatus::Degraded,
            ..full(3)
        };
        assert_eq!(seconds(&[degraded, full(600)]), Some(600));
    }

    proptest! {
        #[test]
        fn what_is_no_measure_changes_nothing(
            good in proptest::collection::vec(1_u64..10_000, 0..8),
            others in proptest::collection::vec((0_usize..8, 0_usize..5, 0_u64..10), 0..12),
        ) {
            let nights: Vec<PastSite> = good.into_iter().map(full).collect();
            let mut mixed = nights.clone();
            for (place, kind, time) in others {
                let some = counts(Some(80), Some((20, 20)), Some(70));
                let other = match kind {
                    0 => past(SiteStatus::Complete, counts(Some(0), None, None), Some(time)),
                    1 => past(SiteStatus::Complete, counts(None, None, Some(0)), Some(time)),
                    2 => past(SiteStatus::Complete, some, None),
                    3 => past(SiteStatus::Degraded, some, Some(time)),
                    _ => past(SiteStatus::Failed, some, Some(time)),
                };
                mixed.insert(place.min(mixed.len()), other);
            }
            prop_assert_eq!(Usual::of(&mixed), Usual::of(&nights));
        }
    }
}
