//! Circuit breaker over nights: decides how a site that has failed night after night is tried. The history is its
//! state.
//!
//! [`schedule`](crate::schedule) gives a skipped site no turn, and [`min_results`](super::min_results) decides how much
//! a site should yield.

use orch_journal::{EndCause, PastSite, SiteStatus};

/// State of the circuit breaker: the tries that a site has in this run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Tries as configured.
    #[default]
    Closed,
    /// One attempt, because the site has failed in the last runs.
    HalfOpen,
    /// No attempt.
    Open(BreakerSkip),
}

/// Reason why a site is not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSkip {
    pub why: String,
    failures: u32,
    /// Number of runs in a row without the site, this run included.
    skipped_runs: u32,
}

impl BreakerState {
    /// Returns the word for JSON output.
    pub fn word(&self) -> &'static str {
        match self {
            BreakerState::Closed => "as_configured",
            BreakerState::HalfOpen => "once",
            BreakerState::Open(_) => "skipped",
        }
    }
}

impl BreakerSkip {
    /// Returns the cause that hands the skip on to later runs.
    pub fn cause(&self, median: Option<u64>) -> EndCause {
        EndCause::SkippedAfterFailures {
            failures: self.failures,
            runs: self.skipped_runs,
            median,
        }
    }
}

/// Series of failures of a site up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FailureStreak<'r> {
    /// Number of failed runs in a row.
    pub failures: u32,
    /// Number of runs that have passed without the site since the last failure.
    skipped_runs: u32,
    /// Reason of the last failure, if known.
    reason: Option<&'r str>,
}

impl<'r> FailureStreak<'r> {
    /// Counts the failures in a site's results, the latest first. A stop, the failure of another site and a lease that
    /// another run held say nothing about this site.
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
                        streak.skipped_runs = runs;
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

    /// Decides how the site is tried. After `limit` failures in a row the site has one more try, with one attempt. If
    /// this try fails, `limit` runs pass without the site, then the site is tried once again, and so on.
    pub fn breaker_state(self, limit: u32) -> BreakerState {
        let Self {
            failures,
            skipped_runs: passed,
            reason,
        } = self;
        if failures < limit {
            return BreakerState::Closed;
        }
        if failures == limit || passed >= limit {
            return BreakerState::HalfOpen;
        }
        let next = match limit - passed {
            1 => "in the next run".to_owned(),
            runs => format!("in {runs} runs"),
        };
        let reason = reason.and_then(|reason| reason.lines().next());
        let reason = reason.map_or_else(String::new, |reason| format!(", the last time: {reason}"));
        BreakerState::Open(BreakerSkip {
            why: format!(
                "it failed in its last {failures} runs (`skip_after_failures` is {limit}){reason}; it is tried again {next}, \
                 or with --force"
            ),
            failures,
            skipped_runs: passed + 1,
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
    use orch_journal::SiteCounts;

    /// Builds a night that ends as `letter` says after the nights `before` (the latest first), as orch itself records
    /// it: `.` complete, `d` degraded, `F` failed, `R` refused, `S` skipped by the circuit breaker, `s` skipped because
    /// of another site, `C` cancelled; `f` failed, as an older journal records it.
    fn night(letter: char, before: &[PastSite], limit: u32) -> PastSite {
        let streak = FailureStreak::of(before);
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
            'S' => match streak.breaker_state(limit) {
                BreakerState::Open(skip) => (SiteStatus::Skipped, Some(skip.cause(None))),
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

    /// Builds the nights, the latest first.
    fn nights(letters: &str, limit: u32) -> Vec<PastSite> {
        letters.chars().fold(Vec::new(), |mut nights, letter| {
            nights.insert(0, night(letter, &nights, limit));
            nights
        })
    }

    fn after(letters: &str, limit: u32) -> BreakerState {
        FailureStreak::of(&nights(letters, limit)).breaker_state(limit)
    }

    #[test]
    fn a_site_that_fails_night_after_night_is_tried_ever_less() {
        for (nights, expected) in [
            ("", "closed"),
            ("FF", "closed"),
            (".FFF", "once"),
            // The actions of other sites and of people do not count.
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
                (BreakerState::Closed, "closed") | (BreakerState::HalfOpen, "once") => {}
                (BreakerState::Open(BreakerSkip { why, .. }), next) => {
                    assert!(why.contains(&format!("tried again {next},")), "{nights}: {why}");
                    assert!(why.contains("the last time: it is closed;"), "{why}");
                }
                _ => panic!("{nights}: {seen:?}, not {expected}"),
            }
        }
        assert_eq!(after("F", 1), BreakerState::HalfOpen);
        assert!(matches!(after("FF", 1), BreakerState::Open(_)));
        assert_eq!(after("FFS", 1), BreakerState::HalfOpen);
        let BreakerState::Open(skip) = after("FFFFSSSFS", 3) else {
            panic!("the site is skipped")
        };
        assert!(skip.why.starts_with("it failed in its last 5 runs"), "{}", skip.why);
    }

    proptest! {
        /// Checks, for any sequence of nights, that a skipped site is tried again after `limit` runs, and that a few of
        /// the site's latest results give the same decision as all of them.
        #[test]
        fn the_latest_result_says_it_all(
            limit in 1..12_u32,
            known in 1..10_usize,
            fates in proptest::collection::vec(proptest::sample::select(vec!['.', 'd', 'F', 'F', 'F', 'F', 'C', 's', 'R']), 0..120),
        ) {
            let mut all: Vec<PastSite> = Vec::new();
            // Computed from the definition, not by the code: failures in a row, and runs that have passed since the
            // last one.
            let (mut failures, mut passed) = (0_u32, 0_u32);
            for fate in fates {
                let own: Vec<PastSite> = all
                    .iter()
                    .filter(|night| night.cause.is_some_and(|cause| cause != EndCause::Refused)
                        || matches!(night.status, SiteStatus::Complete | SiteStatus::Degraded))
                    .take(known)
                    .cloned()
                    .collect();
                let (tries, seen) = (FailureStreak::of(&all).breaker_state(limit), FailureStreak::of(&own).breaker_state(limit));
                match (&tries, &seen) {
                    (BreakerState::Open(all), BreakerState::Open(seen)) => prop_assert_eq!(all.cause(None), seen.cause(None)),
                    _ => prop_assert_eq!(&tries, &seen),
                }
                let expected_to_skip = failures > limit && passed < limit;
                prop_assert_eq!(matches!(tries, BreakerState::Open(_)), expected_to_skip);
                prop_assert_eq!(tries == BreakerState::Closed, failures < limit);
                // The effects of other sites and of people come first, as in a run.
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
