//! Outcome of a run: the exit code, and the derivation from the ends of the sites.

use serde::{Deserialize, Serialize};

use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;

/// Outcome of a run, which alone decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// All sites finished (or `orch up` was asked to end and did).
    Succeeded,
    /// At least one site failed, or has no results although there should be some.
    SitesFailed,
    /// The configuration or the command line is wrong, even if only the running system could show that.
    ConfigurationError,
    /// Redis, Celery, a service, the guard or the disk failed.
    InfrastructureFailed,
    /// Fewer usable proxies than required.
    NotEnoughProxies,
    /// Another run holds the instance, or other runs hold all sites of this run.
    Busy,
    /// SIGINT, after a clean stop.
    Interrupted,
    /// SIGTERM, after a clean stop.
    Terminated,
    /// SIGHUP, after a clean stop.
    HungUp,
}

impl RunOutcome {
    /// Returns the exit code of the process (`docs/commands.md`, "Exit codes").
    pub fn exit_code(self) -> u8 {
        match self {
            RunOutcome::Succeeded => 0,
            RunOutcome::SitesFailed => 1,
            RunOutcome::ConfigurationError => 2,
            RunOutcome::InfrastructureFailed => 3,
            RunOutcome::NotEnoughProxies => 4,
            RunOutcome::Busy => 75,
            RunOutcome::HungUp => 129,
            RunOutcome::Interrupted => 130,
            RunOutcome::Terminated => 143,
        }
    }

    /// Decides the outcome of a run from the ends of the sites, including those kept from an earlier run. With `strict`
    /// a degraded site is not a success.
    pub fn of_sites(mut ends: impl Iterator<Item = (SiteStatus, SiteCounts)>, strict: bool) -> Self {
        let is_good = |(status, counts): (SiteStatus, SiteCounts)| match status {
            SiteStatus::Complete => true,
            // A site without any results is not a success for programs that read exit codes.
            SiteStatus::Degraded => !strict && !counts.has_no_results(),
            SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Cancelled | SiteStatus::Skipped => false,
        };
        if ends.all(is_good) {
            RunOutcome::Succeeded
        } else {
            RunOutcome::SitesFailed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_degraded_site_is_a_success_if_it_has_results_or_if_their_number_is_not_known() {
        use SiteStatus::{Cancelled, Complete, Degraded, Failed, Skipped};
        let counts = |results| SiteCounts {
            results,
            ..SiteCounts::default()
        };
        for (status, results, good, good_if_strict) in [
            (Complete, Some(3), true, true),
            (Complete, None, true, true),
            // With `min_results = 0`; otherwise the site would not be complete.
            (Complete, Some(0), true, true),
            (Degraded, Some(3), true, false),
            (Degraded, None, true, false),
            (Degraded, Some(0), false, false),
            (Failed, Some(3), false, false),
            (Cancelled, None, false, false),
            (Skipped, None, false, false),
        ] {
            for (strict, good) in [(false, good), (true, good_if_strict)] {
                let ends = [(Complete, counts(Some(1))), (status, counts(results))];
                let expected = if good {
                    RunOutcome::Succeeded
                } else {
                    RunOutcome::SitesFailed
                };
                assert_eq!(
                    RunOutcome::of_sites(ends.into_iter(), strict),
                    expected,
                    "{status:?} {results:?} {strict}"
                );
            }
        }
        let no_urls = SiteCounts {
            total_urls: Some(0),
            ..SiteCounts::default()
        };
        assert_eq!(
            RunOutcome::of_sites([(Degraded, no_urls)].into_iter(), false),
            RunOutcome::SitesFailed
        );
    }
}
