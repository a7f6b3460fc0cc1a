//! What the last runs mean for a site of this one: whether it is tried at all, and how much it should yield.
//!
//! Pure, and a function of the configuration and the history alone: nothing else is remembered between nights. What a result of
//! long ago meant is handed on in those after it ([`EndCause`]), so that it matters neither how many runs are looked at nor how
//! many of them were of other sites.

use crate::config::{MinResults, SiteConfig};
use crate::run::{EndCause, PastSite, SiteCounts, SiteStatus};

/// Complete results that a yield is compared with.
const COMPARED_WITH: usize = 5;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub tries: Tries,
    /// Runs in a row in which it has failed.
    failures: u32,
    least: Least,
}

/// How a site that has failed night after night is tried: a circuit breaker whose state is the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tries {
    /// As configured.
    #[default]
    Closed,
    /// One attempt, since it failed in its last runs.
    Once,
    /// None.
    Skipped(Skip),
}

/// Why a site is not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub why: String,
    failures: u32,
    /// Those that will have passed without it.
    runs: u32,
}

/// How much a site should yield.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Least {
    /// Nothing is asked for.
    #[default]
    Any,
    /// A share of what no run has told.
    NotYetKnown(String),
    Results(Floor),
}

/// The least that a site should yield.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Floor {
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

impl Tries {
    /// In JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Tries::Closed => "as_configured",
            Tries::Once => "once",
            Tries::Skipped(_) => "skipped",
        }
    }
}

impl Skip {
    /// What the runs after this one have to know.
    pub fn cause(&self) -> EndCause {
        EndCause::SkippedAfterFailures {
            failures: self.failures,
            runs: self.runs,
        }
    }
}

impl Standing {
    /// Of a site, by its results, the latest first. `forced`: it is tried, whatever they were.
    pub fn of(site: &SiteConfig, results: &[PastSite], forced: bool) -> Self {
        let streak = Streak::of(results);
        let tries = match site.skip_after_failures {
            Some(limit) if !forced => streak.tries(limit),
            _ => Tries::Closed,
        };
        Self {
            tries,
            failures: streak.failures,
            least: site.min_results.map_or(Least::Any, |least| Least::of(least, results)),
        }
    }

    /// What a failure now tells the runs after this one.
    pub fn failure(&self) -> EndCause {
        EndCause::Failure {
            in_a_row: self.failures.saturating_add(1),
        }
    }

    /// Of a complete site that came to this.
    pub fn judge(&self, counts: SiteCounts) -> Yield {
        // A site that had no page to begin with has no result either.
        let nothing = counts.total_urls.filter(|urls| *urls == 0);
        let results = counts.results.or(nothing);
        let not_told = |why: &str| Yield::Unknown(format!("how many results it has is not told, {why}"));
        match (&self.least, results) {
            (Least::Any, _) | (Least::NotYetKnown(_), Some(_)) => Yield::Enough,
            (Least::NotYetKnown(why) | Least::Results(Floor { why, .. }), None) => not_told(why),
            (Least::Results(floor), Some(results)) if results >= floor.results => Yield::Enough,
            (Least::Results(floor), Some(results)) => {
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

impl Least {
    fn of(least: MinResults, results: &[PastSite]) -> Self {
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
}

/// The results that a site usually has, and which runs say so.
fn usual(results: &[PastSite]) -> Option<(u64, String)> {
    // What was degraded is no measure: a slow decay would hide itself.
    let complete = results.iter().filter(|result| result.status == SiteStatus::Complete);
    let known = complete.filter_map(|result| result.counts.results);
    let mut known: Vec<u64> = known.take(COMPARED_WITH).collect();
    known.sort_unstable();
    if let Some(median) = known.get(known.len() / 2) {
        let nights = match known.len() {
            1 => "its last complete run".to_owned(),
            nights => format!("the median of its last {nights} complete runs"),
        };
        return Some((*median, nights));
    }
    // So long ago that no complete run is looked at any more; that it was degraded ever since does not make it usual.
    let handed_on = results.iter().find_map(|result| match result.cause {
        Some(EndCause::TooFewResults { median, .. }) => median,
        _ => None,
    });
    handed_on.map(|median| (median, "the median of complete runs of long ago".to_owned()))
}

/// How a site has failed until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak<'r> {
    /// Runs in a row.
    failures: u32,
    /// Those that have passed without it since.
    passed: u32,
    /// Of the last one, as far as it is known.
    reason: Option<&'r str>,
}

impl<'r> Streak<'r> {
    /// By its results, the latest first. A stop, the failure of another site and a lease that was not to be had say nothing of
    /// this one.
    fn of(results: &'r [PastSite]) -> Self {
        let mut streak = Self::default();
        for result in results {
            match (result.status, result.cause) {
                (SiteStatus::Complete | SiteStatus::Degraded, _) => break,
                (SiteStatus::Failed, Some(EndCause::Refused)) | (SiteStatus::Cancelled, _) => {}
                (SiteStatus::Failed, cause) => {
                    streak.reason = streak.reason.or(result.reason.as_deref());
                    if let Some(EndCause::Failure { in_a_row }) = cause {
                        streak.failures = streak.failures.saturating_add(in_a_row);
                        return streak;
                    }
                    streak.failures = streak.failures.saturating_add(1);
                }
                (SiteStatus::Skipped, Some(EndCause::SkippedAfterFailures { failures, runs })) => {
                    if streak.failures == 0 {
                        streak.passed = runs;
                    }
                    streak.failures = streak.failures.saturating_add(failures);
                    streak.reason = streak.reason.or_else(|| last_failure(results));
                    return streak;
                }
                (SiteStatus::Skipped, _) => {}
            }
        }
        streak
    }

    /// `limit` failures in a row: one more try, with one attempt. It fails: as many runs pass without it, then it is tried once
    /// again, and so on.
    fn tries(self, limit: u32) -> Tries {
        let Self {
            failures,
            passed,
            reason,
        } = self;
        if failures < limit {
            return Tries::Closed;
        }
        if failures == limit || passed >= limit {
            return Tries::Once;
        }
        let next = match limit - passed {
            1 => "in the next run".to_owned(),
            runs => format!("in {runs} runs"),
        };
        let reason = reason.and_then(|reason| reason.lines().next());
        let reason = reason.map_or_else(String::new, |reason| format!(", the last time: {reason}"));
        Tries::Skipped(Skip {
            why: format!(
                "it failed in its last {failures} runs (`skip_after_failures` is {limit}){reason}; it is tried again {next}, \
                 or with --force"
            ),
            failures,
            runs: passed + 1,
        })
    }
}

fn last_failure(results: &[PastSite]) -> Option<&str> {
    let failed = |result: &&PastSite| result.status == SiteStatus::Failed && result.cause != Some(EndCause::Refused);
    results.iter().find(failed)?.reason.as_deref()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

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
            reason: Some("it is closed\nfor good".to_owned()),
            cause: None,
        }
    }

    /// A night that ends so after those before it (the latest first), as orch itself tells it: `.` complete, `d` degraded, `F`
    /// failed, `R` refused, `S` skipped by itself, `s` by another, `C` cancelled; `f` failed, as an older journal says it.
    fn night(letter: char, before: &[PastSite], limit: u32) -> PastSite {
        let streak = Streak::of(before);
        let standing = Standing {
            failures: streak.failures,
            ..Standing::default()
        };
        let (status, cause) = match letter {
            '.' => (SiteStatus::Complete, None),
            'd' => (SiteStatus::Degraded, None),
            'f' => (SiteStatus::Failed, None),
            'F' => (SiteStatus::Failed, Some(standing.failure())),
            'R' => (SiteStatus::Failed, Some(EndCause::Refused)),
            'C' => (SiteStatus::Cancelled, None),
            'S' => match streak.tries(limit) {
                Tries::Skipped(skip) => (SiteStatus::Skipped, Some(skip.cause())),
                tries => panic!("not skipped but {tries:?}"),
            },
            _ => (SiteStatus::Skipped, None),
        };
        PastSite {
            cause,
            ..result(status, None)
        }
    }

    /// The latest first.
    fn nights(letters: &str, limit: u32) -> Vec<PastSite> {
        letters.chars().fold(Vec::new(), |mut nights, letter| {
            nights.insert(0, night(letter, &nights, limit));
            nights
        })
    }

    fn after(letters: &str, limit: u32) -> Tries {
        Streak::of(&nights(letters, limit)).tries(limit)
    }

    #[test]
    fn a_site_that_fails_night_after_night_is_tried_ever_less() {
        for (nights, expected) in [
            ("", "closed"),
            ("FF", "closed"),
            (".FFF", "once"),
            // What others and people did to it does not count.
            ("FsFCF", "once"),
            ("FFRR", "closed"),
            ("RRRRR", "closed"),
            ("FFFRF", "in 3 runs"),
            ("FFdFF", "closed"),
            ("FFF.", "closed"),
            ("FFFF", "in 3 runs"),
            ("fff", "once"),
            ("ffFf", "in 3 runs"),
            ("FFFFs", "in 3 runs"),
            ("FFFFS", "in 2 runs"),
            ("FFFFSsC", "in 2 runs"),
            ("FFFFSS", "in the next run"),
            ("FFFFSSS", "once"),
            ("FFFFSSSF", "in 3 runs"),
            ("FFFFSSSFS", "in 2 runs"),
            ("FFFFSSSFSSS", "once"),
            ("FFFFSSS.", "closed"),
            ("FFFFSSS.F", "closed"),
            ("FFFFSSSd", "closed"),
            // Forced in between, and failed.
            ("FFFFSF", "in 3 runs"),
        ] {
            let seen = after(nights, 3);
            match (&seen, expected) {
                (Tries::Closed, "closed") | (Tries::Once, "once") => {}
                (Tries::Skipped(Skip { why, .. }), next) => {
                    assert!(why.contains(&format!("tried again {next},")), "{nights}: {why}");
                    assert!(why.contains("the last time: it is closed;"), "{why}");
                }
                _ => panic!("{nights}: {seen:?}, not {expected}"),
            }
        }
        assert_eq!(after("F", 1), Tries::Once);
        assert!(matches!(after("FF", 1), Tries::Skipped(_)));
        assert_eq!(after("FFS", 1), Tries::Once);
        let Tries::Skipped(skip) = after("FFFFSSSFS", 3) else {
            panic!("it is skipped")
        };
        assert!(skip.why.starts_with("it failed in its last 5 runs"), "{}", skip.why);
    }

    proptest! {
        /// Whatever happens to it, of ten looks or of one: a site that is skipped is tried again after `limit` runs, and the
        /// latest result of its own alone says the same as all of them.
        #[test]
        fn the_latest_result_says_it_all(
            limit in 1..12_u32,
            known in 1..10_usize,
            fates in proptest::collection::vec(proptest::sample::select(vec!['.', 'd', 'F', 'F', 'F', 'F', 'C', 's', 'R']), 0..120),
        ) {
            let mut all: Vec<PastSite> = Vec::new();
            // By the definition, not by the code: failures in a row, and runs that have passed since the last.
            let (mut failures, mut passed) = (0_u32, 0_u32);
            for fate in fates {
                let own: Vec<PastSite> = all
                    .iter()
                    .filter(|night| night.cause.is_some_and(|cause| cause != EndCause::Refused)
                        || matches!(night.status, SiteStatus::Complete | SiteStatus::Degraded))
                    .take(known)
                    .cloned()
                    .collect();
                let (tries, seen) = (Streak::of(&all).tries(limit), Streak::of(&own).tries(limit));
                match (&tries, &seen) {
                    (Tries::Skipped(all), Tries::Skipped(seen)) => prop_assert_eq!(all.cause(), seen.cause()),
                    _ => prop_assert_eq!(&tries, &seen),
                }
                let expected_to_skip = failures > limit && passed < limit;
                prop_assert_eq!(matches!(tries, Tries::Skipped(_)), expected_to_skip);
                prop_assert_eq!(tries == Tries::Closed, failures < limit);
                // What others do to it comes first, as it does in a run.
                let letter = if expected_to_skip && !matches!(fate, 's' | 'C') { 'S' } else { fate };
                all.insert(0, night(letter, &all, limit));
                match letter {
                    '.' | 'd' => (failures, passed) = (0, 0),
                    'F' => (failures, passed) = (failures + 1, 0),
                    'S' => passed += 1,
                    _ => {}
                }
            }
        }
    }

    fn counts(results: Option<u64>) -> SiteCounts {
        SiteCounts {
            results,
            ..SiteCounts::default()
        }
    }

    fn standing(least: MinResults, history: &[PastSite]) -> Standing {
        Standing {
            least: Least::of(least, history),
            ..Standing::default()
        }
    }

    fn judged(least: MinResults, history: &[PastSite], results: Option<u64>) -> String {
        match standing(least, history).judge(counts(results)) {
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
        let yielded = standing(MinResults::Count(1), &[]).judge(empty);
        assert!(matches!(yielded, Yield::Short(_)), "no pages, no results");
    }

    #[test]
    fn a_decay_is_told_for_as_long_as_it_lasts() {
        let share = MinResults::OfMedian(60);
        let mut history = vec![result(SiteStatus::Complete, Some(100))];
        let mut night = |results: u64| {
            let yielded = standing(share, &history).judge(counts(Some(results)));
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
