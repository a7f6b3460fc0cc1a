//! Number of results that a site should yield, and the check of the yield: `min_results` compared with the complete
//! runs of the site.
//!
//! [`attempt_end`](crate::sites::attempt_end) decides about a site that yields too little.

use orch_base::median::median;
use orch_config::MinResults;
use orch_journal::{EndCause, PastSite, SiteCounts};

/// Number of complete runs with which a yield is compared.
const COMPARED_WITH: usize = 5;

/// Number of results that a site should yield.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedResults {
    /// Smallest sufficient number; 0: no results are fine.
    results: u64,
    /// Usual number of results.
    usual: Option<u64>,
    /// Explanation of the smallest sufficient number.
    why: String,
    /// An unknown number of results is reported.
    must_be_known: bool,
}

impl Default for ExpectedResults {
    fn default() -> Self {
        Self::of(MinResults::default(), &[])
    }
}

/// Results of a complete site, compared with the expected number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum YieldVerdict {
    Enough,
    /// The number should be compared, but the app reports none. Carries the reason.
    Unknown(String),
    TooFew(ResultShortfall),
}

/// Reason why a yield is too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultShortfall {
    pub why: String,
    pub cause: EndCause,
}

impl ExpectedResults {
    pub fn of(least: MinResults, results: &[PastSite]) -> Self {
        let known = usual(results);
        let usual = known.as_ref().map(|(median, _)| *median);
        let (results, why) = match (least, known) {
            (MinResults::Count(1), None) => (1, "it should have some".to_owned()),
            (MinResults::Count(1), Some((median, nights))) => (1, format!("usually {median} ({nights})")),
            (MinResults::Count(least), _) => (least, format!("`min_results` is {least}")),
            (MinResults::OfMedian(percent), None) => {
                (1, format!("`min_results` is {percent} % of what complete runs have"))
            }
            (MinResults::OfMedian(percent), Some((median, nights))) => {
                // Rounded up: a share of something is not nothing.
                let least = (u128::from(median) * u128::from(percent)).div_ceil(100).max(1);
                let least = u64::try_from(least).unwrap_or(u64::MAX);
                (
                    least,
                    format!("`min_results` is {percent} % of {nights} with {median}: {least}"),
                )
            }
        };
        Self {
            results,
            usual,
            why,
            // An app that counts no results need not report a number, unless the configuration demands one.
            must_be_known: !matches!(least, MinResults::Count(0 | 1)),
        }
    }

    /// Returns the usual number of results.
    pub fn usual(&self) -> Option<u64> {
        self.usual
    }

    /// Judges the counts of a complete site.
    pub fn judge(&self, counts: SiteCounts) -> YieldVerdict {
        let why = &self.why;
        match counts.known_results() {
            None if self.must_be_known => YieldVerdict::Unknown(format!("the number of results is not known, {why}")),
            None => YieldVerdict::Enough,
            Some(results) if results >= self.results => YieldVerdict::Enough,
            Some(results) => {
                let one = if results == 1 { "" } else { "s" };
                let found = match (results, counts.total_urls) {
                    (0, Some(0)) => "0 URLs".to_owned(),
                    _ => format!("{results} result{one}"),
                };
                YieldVerdict::TooFew(ResultShortfall {
                    why: format!("{found}, {why}"),
                    cause: EndCause::TooFewResults {
                        least: self.results,
                        median: self.usual,
                    },
                })
            }
        }
    }
}

/// Returns the usual number of results of a site, and the text that names the underlying runs.
fn usual(results: &[PastSite]) -> Option<(u64, String)> {
    // Degraded and empty runs are left out: with them a slow decay would hide itself.
    let complete = results.iter().filter(|result| result.is_comparable());
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
    // The complete runs are too old to be read. The number is handed on from the runs since then: their own results do
    // not become usual only because the site has been degraded ever since.
    let handed_on = results.iter().find_map(|result| result.cause?.median());
    handed_on.map(|median| (median, "the median of complete runs of long ago".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::{collection, option};

    use super::*;
    use orch_journal::SiteStatus;

    fn result(status: SiteStatus, results: Option<u64>) -> PastSite {
        PastSite {
            run_id: "r".into(),
            at: 0.0,
            status,
            elapsed: Duration::from_secs(1),
            attempt: Some(Duration::from_secs(1)),
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
        match ExpectedResults::of(least, history).judge(counts(results)) {
            YieldVerdict::Enough => "enough".to_owned(),
            YieldVerdict::Unknown(why) | YieldVerdict::TooFew(ResultShortfall { why, .. }) => why,
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
                "the number of results is not known, `min_results` is 50",
            ),
            // Nothing to compare with: any number except zero is enough.
            (share, &[], Some(1), "enough"),
            (
                share,
                &[],
                Some(0),
                "0 results, `min_results` is 60 % of what complete runs have",
            ),
            (
                share,
                &[],
                None,
                "the number of results is not known, `min_results` is 60 % of what complete runs have",
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
    }

    #[test]
    fn nothing_is_too_little_unless_the_configuration_says_otherwise_and_unknown_is_not_nothing() {
        use SiteStatus::{Complete, Degraded};
        let default = MinResults::default();
        let usually = [result(Degraded, Some(0)), result(Complete, Some(101))];
        // An older orch reports empty nights as complete.
        let zeros = [result(Complete, Some(0)), result(Complete, Some(0))];
        let then = [zeros[0].clone(), zeros[1].clone(), result(Complete, Some(7))];
        let ago = PastSite {
            cause: Some(EndCause::TooFewResults {
                least: 1,
                median: Some(40),
            }),
            ..result(Degraded, Some(0))
        };
        for (least, history, results, expected) in [
            (default, &[][..], Some(0), "0 results, it should have some"),
            (default, &[], Some(1), "enough"),
            (default, &[], None, "enough"),
            (
                default,
                &usually,
                Some(0),
                "0 results, usually 101 (its last complete run)",
            ),
            (default, &usually, Some(1), "enough"),
            (default, &zeros, Some(0), "0 results, it should have some"),
            (default, &then, Some(0), "0 results, usually 7 (its last complete run)"),
            (
                default,
                std::slice::from_ref(&ago),
                Some(0),
                "0 results, usually 40 (the median of complete runs of long ago)",
            ),
            (MinResults::Count(0), &usually, Some(0), "enough"),
            (MinResults::Count(0), &usually, None, "enough"),
            (
                MinResults::OfMedian(1),
                &then,
                Some(0),
                "0 results, `min_results` is 1 % of its last complete run with 7: 1",
            ),
        ] {
            assert_eq!(judged(least, history, results), expected, "{least:?} {history:?}");
        }
        let no_urls = |results| SiteCounts {
            total_urls: Some(0),
            ..counts(results)
        };
        for results in [None, Some(0)] {
            let YieldVerdict::TooFew(short) = ExpectedResults::of(default, &[]).judge(no_urls(results)) else {
                panic!("no URLs are too few results")
            };
            assert_eq!(short.why, "0 URLs, it should have some");
        }
        assert_eq!(
            ExpectedResults::of(default, &[]).judge(no_urls(Some(3))),
            YieldVerdict::Enough
        );
        let YieldVerdict::TooFew(short) = ExpectedResults::of(default, &usually).judge(counts(Some(0))) else {
            panic!("zero results are too few")
        };
        // The usual number is handed on.
        let median = Some(101);
        assert_eq!(short.cause, EndCause::TooFewResults { least: 1, median });
    }

    #[test]
    fn failures_and_skips_hand_on_what_is_usual() {
        let share = MinResults::OfMedian(60);
        let median = Some(100);
        for cause in [
            EndCause::TooFewResults { least: 60, median },
            EndCause::Failure { in_a_row: 12, median },
            EndCause::SkippedAfterFailures {
                failures: 3,
                runs: 1,
                median,
            },
        ] {
            let mut history = vec![result(SiteStatus::Cancelled, None); 2];
            history.push(PastSite {
                cause: Some(cause),
                ..result(SiteStatus::Failed, Some(0))
            });
            let expected = "1 result, `min_results` is 60 % of the median of complete runs of long ago with 100: 60";
            assert_eq!(judged(share, &history, Some(1)), expected, "{cause:?}");
        }
    }

    proptest! {
        #[test]
        fn less_is_never_better_and_zero_is_fine_only_where_it_is_written_down(
            least in prop_oneof![any::<u64>().prop_map(MinResults::Count), (1..=100u8).prop_map(MinResults::OfMedian)],
            history in collection::vec(option::of(any::<u64>()), 0..8),
            results in any::<u64>(),
        ) {
            let history: Vec<PastSite> = history.into_iter().map(|past| result(SiteStatus::Complete, past)).collect();
            let least_of = ExpectedResults::of(least, &history);
            let is_enough = |results| least_of.judge(counts(Some(results))) == YieldVerdict::Enough;
            prop_assert_eq!(is_enough(0), least == MinResults::Count(0));
            if !is_enough(results) {
                prop_assert!(!is_enough(results / 2));
            }
            prop_assert!(is_enough(u64::MAX));
            let is_short = matches!(least_of.judge(counts(None)), YieldVerdict::TooFew(_));
            prop_assert!(!is_short, "an unknown number is not too few");
        }
    }

    #[test]
    fn a_decay_is_reported_for_as_long_as_it_lasts() {
        let share = MinResults::OfMedian(60);
        let mut history = vec![result(SiteStatus::Complete, Some(100))];
        let mut night = |results: u64| {
            let yielded = ExpectedResults::of(share, &history).judge(counts(Some(results)));
            let (status, cause) = match &yielded {
                YieldVerdict::TooFew(short) => (SiteStatus::Degraded, Some(short.cause)),
                _ => (SiteStatus::Complete, None),
            };
            let ended = PastSite {
                cause,
                ..result(status, Some(results))
            };
            history.insert(0, ended);
            // The number of runs that are read.
            history.truncate(10);
            (status, yielded)
        };
        for _ in 0..40 {
            assert_eq!(night(59).0, SiteStatus::Degraded);
        }
        let (_, YieldVerdict::TooFew(short)) = night(59) else {
            panic!("59 results are too few")
        };
        assert_eq!(
            short.why,
            "59 results, `min_results` is 60 % of the median of complete runs of long ago with 100: 60"
        );
        assert_eq!(night(60).0, SiteStatus::Complete);
    }
}
