//! What the last runs mean for a site of this one: whether it is tried at all (`breaker`), and how much it should yield
//! (`sanity`).
//!
//! Pure, and a function of the configuration and the history alone: nothing else is remembered between nights. What a result of
//! long ago meant is handed on in those after it ([`EndCause`]), so that it matters neither how many runs are looked at nor how
//! many of them were of other sites.

use super::breaker::{Skip, Streak, Tries};
use super::sanity::{Least, Yield};
use crate::config::SiteConfig;
use crate::run::{EndCause, PastSite, SiteCounts};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub tries: Tries,
    /// Runs in a row in which it has failed.
    failures: u32,
    least: Least,
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
            least: Least::of(site.min_results, results),
        }
    }

    /// What a failure now tells the runs after this one.
    pub fn failure(&self) -> EndCause {
        EndCause::Failure {
            in_a_row: self.failures.saturating_add(1),
            median: self.least.usual(),
        }
    }

    /// What a skip now tells the runs after this one.
    pub fn skip(&self, skip: &Skip) -> EndCause {
        skip.cause(self.least.usual())
    }

    /// Of a complete site that came to this.
    pub fn judge(&self, counts: SiteCounts) -> Yield {
        self.least.judge(counts)
    }
}
