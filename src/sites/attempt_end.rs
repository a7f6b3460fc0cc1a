//! What an attempt came to, whether another one follows, and which of a site's attempts counts. Pure.

use std::time::Duration;

use super::retry::pause_before_retry;
use super::sanity::{Shortfall, Yield};
use super::standing::Standing;
use crate::config::{DegradedAction, SiteConfig};
use crate::follow::Failure;
use crate::run::SiteCounts;

/// The verdict over one attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Complete; a warning, if the number of results should be known and is not.
    Complete(Option<String>),
    Degraded(Shortfall),
    Failed(Failure),
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AttemptEnd {
    pub verdict: Verdict,
    pub counts: SiteCounts,
}

/// The attempt that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub pause: Duration,
    /// The pool of proxies is refreshed before it begins, where there is a chain that does it.
    pub refresh_proxies: bool,
}

/// The bounds of a site's attempts, at the end of one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The attempt that has ended; 1 for the first.
    pub attempt: u32,
    pub retries: u32,
    /// The time until the site's deadline.
    pub left: Duration,
}

impl Next {
    /// The attempt that follows where an earlier run's job could not be followed further.
    pub fn at_once() -> Self {
        Self {
            pause: Duration::ZERO,
            refresh_proxies: false,
        }
    }
}

impl AttemptEnd {
    /// Judges an attempt that came to this, without a failure to its own end.
    pub fn of(failure: Option<Failure>, counts: SiteCounts, standing: &Standing, action: DegradedAction) -> Self {
        let verdict = match failure {
            Some(failure) => Verdict::Failed(failure),
            None => match standing.judge(counts) {
                Yield::Enough => Verdict::Complete(None),
                Yield::Unknown(why) => Verdict::Complete(Some(why)),
                Yield::Short(short) if action == DegradedAction::Fail => Verdict::Failed(Failure::Unhealthy {
                    reason: format!("{}; `on_degraded` is \"fail\"", short.why),
                    may_retry: false,
                }),
                Yield::Short(short) => Verdict::Degraded(short),
            },
        };
        Self { verdict, counts }
    }

    /// The attempt after this one; `None`: the site has ended.
    pub fn next(&self, site: &SiteConfig, bounds: Bounds) -> Option<Next> {
        let Bounds { attempt, retries, left } = bounds;
        let (failure, refresh_proxies) = match (&self.verdict, site.on_degraded) {
            (Verdict::Complete(_), _) | (Verdict::Degraded(_), DegradedAction::Warn | DegradedAction::Fail) => {
                return None;
            }
            (Verdict::Failed(failure), _) => (Some(failure), false),
            (Verdict::Degraded(_), DegradedAction::Retry) => (None, self.counts.has_no_results()),
            (Verdict::Degraded(_), DegradedAction::RefreshProxies) => (None, true),
        };
        let pause = pause_before_retry(failure, attempt, retries, site.retry_backoff, left)?;
        Some(Next { pause, refresh_proxies })
    }

    /// Why it is not good enough, as a person should read it.
    pub fn reason(&self) -> &str {
        match &self.verdict {
            Verdict::Complete(_) => "",
            Verdict::Degraded(short) => &short.why,
            Verdict::Failed(failure) => failure.reason(),
        }
    }

    /// Whether this attempt counts although `later` came after it: what has been scraped is not undone by an attempt that
    /// comes to less. Of attempts without any results the last one counts.
    pub fn outdoes(&self, later: &Self) -> bool {
        let results = self.counts.known_results().unwrap_or(0);
        let is_some = matches!(self.verdict, Verdict::Degraded(_)) && results > 0;
        is_some
            && match &later.verdict {
                Verdict::Complete(_) => false,
                Verdict::Degraded(_) => later.counts.known_results() < Some(results),
                Verdict::Failed(_) => true,
            }
    }

    /// The end of a site of which this was the best attempt so far, and `last` is the last one.
    pub fn or_last(self, last: Self) -> Self {
        if !self.outdoes(&last) {
            return last;
        }
        let what = match &last.verdict {
            Verdict::Failed(_) => "the last attempt failed",
            Verdict::Complete(_) | Verdict::Degraded(_) => "the last attempt had less",
        };
        let verdict = match self.verdict {
            Verdict::Degraded(short) => Verdict::Degraded(Shortfall {
                why: format!("{}; {what}: {}", short.why, last.reason()),
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
    use crate::run::EndCause;

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
            verdict: Verdict::Degraded(Shortfall {
                why: format!("{results} results"),
                cause,
            }),
            counts: counts(Some(results)),
        }
    }

    fn failed() -> AttemptEnd {
        AttemptEnd {
            verdict: Verdict::Failed(Failure::Told("closed".to_owned())),
            counts: counts(None),
        }
    }

    fn complete(results: Option<u64>) -> AttemptEnd {
        AttemptEnd {
            verdict: Verdict::Complete(None),
            counts: counts(results),
        }
    }

    #[test]
    fn a_degraded_attempt_is_followed_by_another_where_one_is_left() {
        use DegradedAction::{Fail, RefreshProxies, Retry, Warn};
        let mut site = crate::sites::values::tests::site(serde_json::json!({}));
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
            let bounds = Bounds { attempt, retries, left };
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
        let standing = Standing::default();
        let judged = |results, action| AttemptEnd::of(None, counts(results), &standing, action).verdict;
        assert_eq!(judged(None, DegradedAction::Retry), Verdict::Complete(None));
        assert_eq!(judged(Some(1), DegradedAction::Fail), Verdict::Complete(None));
        let Verdict::Degraded(_) = judged(Some(0), DegradedAction::Warn) else {
            panic!("nothing is too little")
        };
        let Verdict::Failed(failure) = judged(Some(0), DegradedAction::Fail) else {
            panic!("it counts as failed")
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
            // Nothing is nothing.
            (degraded(0), failed(), "failed", "closed"),
            (degraded(0), degraded(0), "degraded", "0 results"),
            (failed(), degraded(0), "degraded", "0 results"),
            (failed(), failed(), "failed", "closed"),
        ] {
            let shown = format!("{before:?}, then {later:?}");
            let end = before.or_last(later);
            let found = match end.verdict {
                Verdict::Complete(_) => "complete",
                Verdict::Degraded(_) => "degraded",
                Verdict::Failed(_) => "failed",
            };
            assert_eq!((found, end.reason()), (status, reason), "{shown}");
        }
    }
}
