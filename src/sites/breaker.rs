//! The circuit breaker over nights: how a site that has failed night after night is tried. Its state is the history.
//!
//! Not here: that a site which is skipped has no turn (`schedule`), and how much one should yield (`sanity`).

use crate::run::{EndCause, PastSite, SiteStatus};

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
    pub fn cause(&self, median: Option<u64>) -> EndCause {
        EndCause::SkippedAfterFailures {
            failures: self.failures,
            runs: self.runs,
            median,
        }
    }
}

/// How a site has failed until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak<'r> {
    /// Runs in a row.
    pub failures: u32,
    /// Those that have passed without it since.
    passed: u32,
    /// Of the last one, as far as it is known.
    reason: Option<&'r str>,
}

impl<'r> Streak<'r> {
    /// By its results, the latest first. A stop, the failure of another site and a lease that was not to be had say nothing of
    /// this one.
    pub fn of(results: &'r [PastSite]) -> Self {
        let mut streak = Self::default();
        for result in results {
            match (result.status, result.cause) {
                (SiteStatus::Complete | SiteStatus::Degraded, _) => break,
                (SiteStatus::Failed, Some(EndCause::Refused)) | (SiteStatus::Cancelled | SiteStatus::Unknown, _) => {}
                (SiteStatus::Failed, cause) => {
                    streak.reason = streak.reason.or(result.reason.as_deref());
                    if let Some(EndCause::Failure { in_a_row, .. }) = cause {
                        streak.failures = streak.failures.saturating_add(in_a_row);
                        return streak;
                    }
                    streak.failures = streak.failures.saturating_add(1);
                }
                (SiteStatus::Skipped, Some(EndCause::SkippedAfterFailures { failures, runs, .. })) => {
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
    pub fn tries(self, limit: u32) -> Tries {
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
    use crate::run::SiteCounts;

    /// A night that ends so after those before it (the latest first), as orch itself tells it: `.` complete, `d` degraded, `F`
    /// failed, `R` refused, `S` skipped by itself, `s` by another, `C` cancelled; `f` failed, as an older journal says it.
    fn night(letter: char, before: &[PastSite], limit: u32) -> PastSite {
        let streak = Streak::of(before);
        let (status, cause) = match letter {
            '.' => (SiteStatus::Complete, None),
            'd' => (SiteStatus::Degraded, None),
            'f' => (SiteStatus::Failed, None),
            'F' => (
                SiteStatus::Failed,
                Some(EndCause::Failure {
                    in_a_row: streak.failures + 1,
                    median: None,
                }),
            ),
            'R' => (SiteStatus::Failed, Some(EndCause::Refused)),
            'C' => (SiteStatus::Cancelled, None),
            'S' => match streak.tries(limit) {
                Tries::Skipped(skip) => (SiteStatus::Skipped, Some(skip.cause(None))),
                tries => panic!("not skipped but {tries:?}"),
            },
            _ => (SiteStatus::Skipped, None),
        };
        PastSite {
            cause,
            run_id: "r".into(),
            at: 0.0,
            status,
            elapsed: Duration::from_secs(1),
            attempt: Some(Duration::from_secs(1)),
            counts: SiteCounts::default(),
            reason: Some("it is closed\nfor good".to_owned()),
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
                    (Tries::Skipped(all), Tries::Skipped(seen)) => prop_assert_eq!(all.cause(None), seen.cause(None)),
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
}
