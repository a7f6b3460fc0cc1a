//! The outcome of a run, by the ends of its sites.

use super::event::{Outcome, SiteCounts, SiteStatus};

impl Outcome {
    /// Judges a run whose sites, also those that it keeps from an earlier run, ended so. `strict`: a degraded site is no
    /// success.
    pub fn of_sites(mut ends: impl Iterator<Item = (SiteStatus, SiteCounts)>, strict: bool) -> Self {
        let is_good = |(status, counts): (SiteStatus, SiteCounts)| match status {
            SiteStatus::Complete => true,
            // A night in which a site yields nothing is no success for whoever reads exit codes.
            SiteStatus::Degraded => !strict && !counts.has_no_results(),
            SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Cancelled | SiteStatus::Skipped => false,
        };
        if ends.all(is_good) {
            Outcome::Succeeded
        } else {
            Outcome::SitesFailed
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
            // `min_results = 0`, or it would not be complete.
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
                let expected = if good { Outcome::Succeeded } else { Outcome::SitesFailed };
                assert_eq!(
                    Outcome::of_sites(ends.into_iter(), strict),
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
            Outcome::of_sites([(Degraded, no_urls)].into_iter(), false),
            Outcome::SitesFailed
        );
    }
}
