//! Consequences of the last runs for a site: whether the site is tried at all
//! ([`circuit_breaker`](super::circuit_breaker)), and how much the site should yield
//! ([`min_results`](super::min_results)).
//!
//! Pure, and a function of the configuration and the history alone: nothing else is remembered between nights. The
//! meaning of an old result is handed on in the results after it ([`EndCause`]), so that neither the number of runs
//! read nor the number of runs of other sites among them matters.

use super::circuit_breaker::{BreakerSkip, BreakerState, FailureStreak};
use super::min_results::{ExpectedResults, YieldVerdict};
use orch_config::SiteConfig;
use orch_journal::{EndCause, PastSite, SiteCounts};

/// Consequences of the last runs for a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteStanding {
    pub breaker: BreakerState,
    /// Number of runs in a row in which the site has failed.
    failures: u32,
    expected_results: ExpectedResults,
}

impl SiteStanding {
    /// Derives the consequences from the results of a site, the latest first. A `forced` site is tried whatever its
    /// results are.
    pub fn of(site: &SiteConfig, results: &[PastSite], forced: bool) -> Self {
        let streak = FailureStreak::of(results);
        let tries = match site.skip_after_failures {
            Some(limit) if !forced => streak.breaker_state(limit),
            _ => BreakerState::Closed,
        };
        Self {
            breaker: tries,
            failures: streak.failures,
            expected_results: ExpectedResults::of(site.min_results, results),
        }
    }

    /// Returns the cause that hands a failure on to later runs.
    pub fn failure_cause(&self) -> EndCause {
        EndCause::Failure {
            in_a_row: self.failures.saturating_add(1),
            median: self.expected_results.usual(),
        }
    }

    /// Returns the cause that hands a skip on to later runs.
    pub fn skip_cause(&self, skip: &BreakerSkip) -> EndCause {
        skip.cause(self.expected_results.usual())
    }

    /// Judges the counts of a complete site.
    pub fn judge(&self, counts: SiteCounts) -> YieldVerdict {
        self.expected_results.judge(counts)
    }
}
