//! How much a site should yield, and whether it does: `min_results` against what its complete runs had.
//!
//! Not here: what becomes of a site that yields too little (`course`).

use crate::config::MinResults;
use crate::median::median;
use crate::run::{EndCause, PastSite, SiteCounts, SiteStatus};

/// Complete results that a yield is compared with.
const COMPARED_WITH: usize = 5;

/// How much a site should yield.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Least {
    /// Nothing is asked for.
    #[default]
    Any,
    /// A share of what no run has told.
    NotYetKnown(String),
    Results(Floor),
}

/// The least that a site should yield.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    results: u64,
    /// Of which it is a share.
    median: Option<u64>,
    /// Where it comes from.
    why: String,
}

/// How a complete site's results compare with what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Yield {
    Enough,
    /// It should be compared, and the app tells no number: why.
    Unknown(String),
    Short(Shortfall),
}

/// Why a yield is too little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub why: String,
    pub cause: EndCause,
}

impl Least {
    pub fn of(least: MinResults, results: &[PastSite]) -> Self {
        let percent = match least {
            MinResults::Count(least) => {
                return Least::Results(Floor {
                    results: least,
                    median: None,
                    why: format!("`min_results` is {least}"),
                });
            }
            MinResults::OfMedian(percent) => percent,
        };
        let Some((median, nights)) = usual(results) else {
            return Least::NotYetKnown(format!("`min_results` is {percent} % of what complete runs have"));
        };
        // Rounded up: a share of something is not nothing.
        let least = (u128::from(median) * u128::from(percent)).div_ceil(100);
        let least = u64::try_from(least).unwrap_or(u64::MAX);
        Least::Results(Floor {
            results: least,
            median: Some(median),
            why: format!("`min_results` is {percent} % of {nights} with {median}: {least}"),
        })
    }

    /// Of a complete site that came to this.
    pub fn judge(&self, counts: SiteCounts) -> Yield {
        // A site that had no page to begin with has no result either.
        let nothing = counts.total_urls.filter(|urls| *urls == 0);
        let results = counts.results.or(nothing);
        let not_told = |why: &str| Yield::Unknown(format!("how many results it has is not told, {why}"));
        match (self, results) {
            (Self::Any, _) | (Self::NotYetKnown(_), Some(_)) => Yield::Enough,
            (Self::NotYetKnown(why) | Self::Results(Floor { why, .. }), None) => not_told(why),
            (Self::Results(floor), Some(results)) if results >= floor.results => Yield::Enough,
            (Self::Results(floor), Some(results)) => {
                let one = if results == 1 { "" } else { "s" };
                Yield::Short(Shortfall {
                    why: format!("{results} result{one}, {}", floor.why),
                    cause: EndCause::TooFewResults {
                        least: floor.results,
                        median: floor.median,
                    },
                })
            }
        }
    }
}

/// The results that a site usually has, and which runs say so.
fn usual(results: &[PastSite]) -> Option<(u64, String)> {
    // What was degraded is no measure: a slow decay would hide itself.
    let complete = results.iter().filter(|result| result.status == SiteStatus::Complete);
    let known = complete.filter_map(|result| result.counts.results);
    let known: Vec<u64> = known.take(COMPARED_WITH).collect();
    let nights = known.len();
    if let Some(median) = median(known) {
        let nights = match nights {
            1 => "its last complete run".to_owned(),
            nights => format!("the median of its last {nights} complete runs"),
        };
        return Some((median, nights));
    }
    // So long ago that no complete run is looked at any more; that it was degraded ever since does not make it usual.
    let handed_on = results.iter().find_map(|result| match result.cause {
        Some(EndCause::TooFewResults { median, .. }) => median,
        _ => None,
    });
    handed_on.map(|median| (median, "the median of complete runs of long ago".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn result(status: SiteStatus, results: Option<u64>) -> PastSite {
        PastSite {
            run_id: "r".into(),
            at: 0.0,
            status,
            elapsed: Duration::from_secs(1),
            counts: SiteCounts {
                results,
                ..SiteCounts::default()
            },
            reason: None,
            cause: None,
        }
    }

    fn counts(results: Option<u64>) -> SiteCounts {
        SiteCounts {
            results,
            ..SiteCounts::default()
        }
    }

    fn judged(least: MinResults, history: &[PastSite], results: Option<u64>) -> String {
        match Least::of(least, history).judge(counts(results)) {
            Yield::Enough => "enough".to_owned(),
            Yield::Unknown(why) | Yield::Short(Shortfall { why, .. }) => why,
        }
    }

    #[test]
    fn the_yield_is_compared_with_what_is_configured_or_with_the_median_of_complete_runs() {
        use SiteStatus::{Complete, Degraded, Failed};
        let history = [
            result(Degraded, Some(1)),
            result(Complete, Some(90)),
            result(Failed, Some(0)),
            result(Complete, None),
            result(Complete, Some(200)),
            result(Complete, Some(101)),
        ];
        let count = MinResults::Count(50);
        let share = MinResults::OfMedian(60);
        for (least, history, results, expected) in [
            (count, &[][..], Some(50), "enough"),
            (count, &[], Some(1), "1 result, `min_results` is 50"),
            (
                count,
                &[],
                None,
                "how many results it has is not told, `min_results` is 50",
            ),
            // Nothing to compare with.
            (share, &[], Some(0), "enough"),
            (
                share,
                &[],
                None,
                "how many results it has is not told, `min_results` is 60 % of what complete runs have",
            ),
            (share, &history, Some(61), "enough"),
            (
                share,
                &history,
                Some(60),
                "60 results, `min_results` is 60 % of the median of its last 3 complete runs with 101: 61",
            ),
        ] {
            assert_eq!(judged(least, history, results), expected, "{least:?}");
        }
        let empty = SiteCounts {
            total_urls: Some(0),
            ..SiteCounts::default()
        };
        let yielded = Least::of(MinResults::Count(1), &[]).judge(empty);
        assert!(matches!(yielded, Yield::Short(_)), "no pages, no results");
    }

    #[test]
    fn a_decay_is_told_for_as_long_as_it_lasts() {
        let share = MinResults::OfMedian(60);
        let mut history = vec![result(SiteStatus::Complete, Some(100))];
        let mut night = |results: u64| {
            let yielded = Least::of(share, &history).judge(counts(Some(results)));
            let (status, cause) = match &yielded {
                Yield::Short(short) => (SiteStatus::Degraded, Some(short.cause)),
                _ => (SiteStatus::Complete, None),
            };
            let ended = PastSite {
                cause,
                ..result(status, Some(results))
            };
            history.insert(0, ended);
            // As many as are looked at.
            history.truncate(10);
            (status, yielded)
        };
        for _ in 0..40 {
            assert_eq!(night(59).0, SiteStatus::Degraded);
        }
        let (_, Yield::Short(short)) = night(59) else {
            panic!("it is too little")
        };
        assert_eq!(
            short.why,
            "59 results, `min_results` is 60 % of the median of complete runs of long ago with 100: 60"
        );
        assert_eq!(night(60).0, SiteStatus::Complete);
    }
}
