//! End of an attempt, the decision whether another one follows, and the choice of the attempt that counts. Pure.

use std::time::Duration;

use crate::jobs::JobFailure;
use crate::sites::policy::min_results::{ResultShortfall, YieldVerdict};
use crate::sites::policy::retry::pause_before_retry;
use crate::sites::policy::standing::SiteStanding;
use orch_config::{DegradedAction, SiteConfig};
use orch_journal::SiteCounts;

/// Verdict on one attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AttemptVerdict {
    /// Complete; with a warning if the number of results should be known and is not.
    Complete(Option<String>),
    Degraded(ResultShortfall),
    Failed(JobFailure),
}

/// Verdict and counts at the end of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptEnd {
    pub verdict: AttemptVerdict,
    pub counts: SiteCounts,
}

/// Attempt that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextAttempt {
    pub pause: Duration,
    /// The proxy pool is refreshed before the attempt begins, if a refresh is configured.
    pub refresh_proxies: bool,
}

/// Bounds of a site's attempts at the end of one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryBounds {
    /// Number of the attempt that has ended; 1 for the first.
    pub attempt: u32,
    pub retries: u32,
    /// Time until the site's deadline.
    pub left: Duration,
}

impl NextAttempt {
    /// Returns the attempt that follows at once when an earlier run's job could not be followed further.
    pub fn at_once() -> Self {
        Self {
            pause: Duration::ZERO,
            refresh_proxies: false,
        }
    }
}

impl AttemptVerdict {
    /// Returns whether no further attempt can change the result.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Complete(_) | Self::Degraded(_) => true,
            Self::Failed(failure) => matches!(failure, JobFailure::Unhealthy { may_retry: false, .. }),
        }
    }
}

impl AttemptEnd {
    /// Judges an attempt by its failure (`None`: the job ran to the end) and the counts.
    pub fn of(
        failure: Option<JobFailure>,
        counts: SiteCounts,
        standing: &SiteStanding,
        action: DegradedAction,
    ) -> Self {
        let verdict = match failure {
            Some(failure) => AttemptVerdict::Failed(failure),
            None => match standing.judge(counts) {
                YieldVerdict::Enough => AttemptVerdict::Complete(None),
                YieldVerdict::Unknown(why) => AttemptVerdict::Complete(Some(why)),
                YieldVerdict::TooFew(short) if action == DegradedAction::Fail => {
                    AttemptVerdict::Failed(JobFailure::Unhealthy {
                        reason: format!("{}; `on_degraded` is \"fail\"", short.why),
                        may_retry: false,
                    })
                }
                YieldVerdict::TooFew(short) => AttemptVerdict::Degraded(short),
            },
        };
        Self { verdict, counts }
    }

    /// Returns the attempt after this one; `None`: the site has ended.
    pub fn next(&self, site: &SiteConfig, bounds: RetryBounds) -> Option<NextAttempt> {
        let RetryBounds { attempt, retries, left } = bounds;
        let (failure, refresh_proxies) = match (&self.verdict, site.on_degraded) {
            (AttemptVerdict::Complete(_), _)
            | (AttemptVerdict::Degraded(_), DegradedAction::Warn | DegradedAction::Fail) => {
                return None;
            }
            (AttemptVerdict::Failed(failure), _) => (Some(failure), false),
            (AttemptVerdict::Degraded(_), DegradedAction::Retry) => (None, self.counts.has_no_results()),
            (AttemptVerdict::Degraded(_), DegradedAction::RefreshProxies) => (None, true),
        };
        let pause = pause_before_retry(failure, attempt, retries, site.retry_backoff, left)?;
        Some(NextAttempt { pause, refresh_proxies })
    }

    /// Returns the reason why the attempt is not good enough, as text for a person.
    pub fn reason(&self) -> &str {
        match &self.verdict {
            AttemptVerdict::Complete(_) => "",
            AttemptVerdict::Degraded(short) => &short.why,
            AttemptVerdict::Failed(failure) => failure.reason(),
        }
    }

    /// Returns whether this attempt counts although `later` followed: an attempt that yields less does not replace
    /// results that have been scraped. Among attempts without results, the last one counts.
    pub fn yields_more_than(&self, later: &Self) -> bool {
        let results = self.counts.known_results().unwrap_or(0);
        let is_some = matches!(self.verdict, AttemptVerdict::Degraded(_)) && results > 0;
        is_some
            && match &later.verdict {
                AttemptVerdict::Complete(_) => false,
                AttemptVerdict::Degraded(_) => later.counts.known_results() < Some(results),
                AttemptVerdict::Failed(_) => true,
            }
    }

    /// Returns the end of the site: this attempt, the best one so far, or `last`, the last one.
    pub fn better_of(self, last: Self) -> Self {
        if !self.yields_more_than(&last) {
            return last;
        }
        let comparison = match &last.verdict {
            AttemptVerdict::Failed(_) => "the last attempt failed",
            AttemptVerdict::Complete(_) | AttemptVerdict::Degraded(_) => "the last attempt had less",
        };
        let verdict = match self.verdict {
            AttemptVerdict::Degraded(short) => AttemptVerdict::Degraded(ResultShortfall {
                why: format!("{}; {comparison}: {}", short.why, last.reason()),
                ..short
            }),
            other => other,
        };
        Self { verdict, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::EndCause;

    fn counts(results: Option<u64>) -> SiteCounts {
        SiteCounts {
            results,
            ..SiteCounts::default()
        }
    }

    fn degraded(results: u64) -> AttemptEnd {
        let cause = EndCause::TooFewResults {
            least: 50,
            median: None,
        };
        AttemptEnd {
            verdict: AttemptVerdict::Degraded(ResultShortfall {
                why: format!("{results} results"),
                cause,
            }),
            counts: counts(Some(results)),
        }
    }

    fn failed() -> AttemptEnd {
        AttemptEnd {
            verdict: AttemptVerdict::Failed(JobFailure::Reported("closed".to_owned())),
            counts: counts(None),
        }
    }

    fn complete(results: Option<u64>) -> AttemptEnd {
        AttemptEnd {
            verdict: AttemptVerdict::Complete(None),
            counts: counts(results),
        }
    }

    #[test]
    fn a_degraded_attempt_is_followed_by_another_where_one_is_left() {
        use DegradedAction::{Fail, RefreshProxies, Retry, Warn};
        let mut site = crate::sites::template_values::tests::site(serde_json::json!({}));
        site.retry_backoff = Duration::from_secs(10);
        for (action, end, attempt, retries, left, expected) in [
            (Retry, degraded(0), 1, 1, 100, Some((10, true))),
            (Retry, degraded(3), 1, 1, 100, Some((10, false))),
            (Retry, degraded(0), 2, 3, 100, Some((20, true))),
            (Retry, degraded(0), 1, 0, 100, None),
            (Retry, degraded(0), 2, 1, 100, None),
            (Retry, degraded(0), 1, 1, 10, None),
            (Warn, degraded(0), 1, 1, 100, None),
            (Fail, degraded(0), 1, 1, 100, None),
            (RefreshProxies, degraded(3), 1, 1, 100, Some((10, true))),
            (RefreshProxies, failed(), 1, 1, 100, Some((10, false))),
            (Retry, failed(), 1, 1, 100, Some((10, false))),
            (Warn, failed(), 1, 1, 100, Some((10, false))),
            (RefreshProxies, complete(Some(9)), 1, 1, 100, None),
            (Retry, complete(None), 1, 1, 100, None),
        ] {
            site.on_degraded = action;
            let left = Duration::from_secs(left);
            let bounds = RetryBounds { attempt, retries, left };
            let next = end.next(&site, bounds);
            let found = next.map(|next| (next.pause.as_secs(), next.refresh_proxies));
            assert_eq!(
                found, expected,
                "{action:?}, attempt {attempt} of {retries} retries: {end:?}"
            );
        }
    }

    #[test]
    fn the_default_standing_takes_nothing_for_degraded_and_fail_for_failed() {
        let standing = SiteStanding::default();
        let judged = |results, action| AttemptEnd::of(None, counts(results), &standing, action).verdict;
        assert_eq!(judged(None, DegradedAction::Retry), AttemptVerdict::Complete(None));
        assert_eq!(judged(Some(1), DegradedAction::Fail), AttemptVerdict::Complete(None));
        let AttemptVerdict::Degraded(_) = judged(Some(0), DegradedAction::Warn) else {
            panic!("zero results are too few")
        };
        let AttemptVerdict::Failed(failure) = judged(Some(0), DegradedAction::Fail) else {
            panic!("the attempt counts as failed")
        };
        assert_eq!(
            failure.reason(),
            "0 results, it should have some; `on_degraded` is \"fail\""
        );
    }

    #[test]
    fn the_attempt_that_came_to_most_counts() {
        for (before, later, status, reason) in [
            (degraded(3), complete(Some(60)), "complete", ""),
            (degraded(3), complete(None), "complete", ""),
            (degraded(3), degraded(4), "degraded", "4 results"),
            (degraded(3), degraded(3), "degraded", "3 results"),
            (
                degraded(3),
                degraded(0),
                "degraded",
                "3 results; the last attempt had less: 0 results",
            ),
            (
                degraded(3),
                failed(),
                "degraded",
                "3 results; the last attempt failed: closed",
            ),
            // Attempts without results are equal.
            (degraded(0), failed(), "failed", "closed"),
            (degraded(0), degraded(0), "degraded", "0 results"),
            (failed(), degraded(0), "degraded", "0 results"),
            (failed(), failed(), "failed", "closed"),
        ] {
            let shown = format!("{before:?}, then {later:?}");
            let end = before.better_of(later);
            let found = match end.verdict {
                AttemptVerdict::Complete(_) => "complete",
                AttemptVerdict::Degraded(_) => "degraded",
                AttemptVerdict::Failed(_) => "failed",
            };
            assert_eq!((found, end.reason()), (status, reason), "{shown}");
        }
    }
}
