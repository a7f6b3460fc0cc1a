//! Usual durations and chunks of a site, from the results that are valid for comparisons.
//!
//! Pure functions; [`crate::history::past_site`] decides which results are valid.

use std::time::Duration;

use super::past_site::PastSite;
use orch_base::median::median;

/// Number of results on which an expectation is based.
pub(crate) const MAX_BASELINE_RESULTS: usize = 5;

/// Usual duration and size of a site's job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteBaseline {
    /// Duration of one whole attempt.
    pub elapsed: Duration,
    /// Number of chunks; `None`: not known.
    pub chunks: Option<u64>,
}

impl SiteBaseline {
    /// Computes the medians of the last whole attempts that were complete and not empty; `results` has the latest
    /// first.
    pub fn of<'r>(results: impl IntoIterator<Item = &'r PastSite>) -> Option<Self> {
        let whole = |result: &'r PastSite| Some((result.whole_attempt()?, result.counts.total_chunks));
        let (times, chunks): (Vec<_>, Vec<_>) =
            results.into_iter().filter_map(whole).take(MAX_BASELINE_RESULTS).unzip();
        Some(Self {
            elapsed: median(times)?,
            chunks: median(chunks.into_iter().flatten().collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::end_cause::EndCause;
    use crate::site_counts::SiteCounts;
    use crate::site_status::SiteStatus;

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
        SiteBaseline::of(results).map(|usual| usual.elapsed.as_secs())
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
            // The ended chunks were not counted, and there are results.
            (Complete, counts(None, Some((0, 20)), Some(3)), Some(600), true),
            (Complete, counts(Some(0), None, None), Some(2), false),
            (Complete, counts(Some(80), Some((20, 20)), Some(0)), Some(2), false),
            (Complete, counts(None, Some((0, 0)), None), Some(2), false),
            (Complete, counts(None, Some((0, 5)), None), Some(1), false),
            // An earlier run had begun the attempt.
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
        assert_eq!((elsewhere.is_comparable(), elsewhere.whole_attempt()), (false, None));
    }

    #[test]
    fn the_median_is_that_of_whole_attempts_and_not_of_all_that_the_site_took() {
        let empty = || past(SiteStatus::Complete, counts(Some(0), None, Some(0)), Some(2));
        assert_eq!(seconds(&[empty(), empty(), empty()]), None);
        let nights = [empty(), empty(), empty(), full(600), full(500), full(900)];
        assert_eq!(seconds(&nights), Some(600));
        assert_eq!(SiteBaseline::of(&nights).and_then(|usual| usual.chunks), Some(20));
        // A degraded result is not used, not even the latest.
        let degraded = PastSite {
            status: SiteStatus::Degraded,
            ..full(3)
        };
        assert_eq!(seconds(&[degraded, full(600)]), Some(600));
    }

    proptest! {
        #[test]
        fn invalid_results_change_nothing(
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
            prop_assert_eq!(SiteBaseline::of(&mixed), SiteBaseline::of(&nights));
        }
    }
}
