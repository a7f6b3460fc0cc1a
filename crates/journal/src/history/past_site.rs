//! Result of a site in one run, with the decision whether it is valid for comparisons.
//!
//! Only a complete result that is not empty is valid; the duration only if the run itself began the attempt. A site
//! without any content ends within seconds: if that result counted, the next normal run would exceed the limits.

use std::time::Duration;

use crate::end_cause::EndCause;
use crate::ids::RunId;
use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;

/// End of a site in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct PastSite {
    pub run_id: RunId,
    /// Wall clock of the end, Unix seconds.
    pub at: f64,
    pub status: SiteStatus,
    /// Duration of all attempts of this run, with the waits between them.
    pub elapsed: Duration,
    /// Time from the last dispatch to the end; `None`: dispatched by an earlier run, or never.
    pub attempt: Option<Duration>,
    pub counts: SiteCounts,
    /// Reason, unless the site is complete.
    pub reason: Option<String>,
    /// Cause, as in the event.
    pub cause: Option<EndCause>,
}

impl PastSite {
    /// Decides whether the result is valid for comparisons: complete, by the run that reports it, and not empty.
    pub fn is_comparable(&self) -> bool {
        is_comparable(self.status, self.counts, self.cause)
    }

    /// Returns the duration of the attempt if valid for comparisons.
    pub fn whole_attempt(&self) -> Option<Duration> {
        self.attempt.filter(|_| self.is_comparable())
    }
}

/// Decides whether such an end is valid for comparisons with others of this run or a later one.
pub fn is_comparable(status: SiteStatus, counts: SiteCounts, cause: Option<EndCause>) -> bool {
    status == SiteStatus::Complete && cause != Some(EndCause::ByAnotherRun) && !is_empty(counts)
}

/// Decides whether a complete job had nothing to do, or has no results. Unknown counts are not zero.
fn is_empty(counts: SiteCounts) -> bool {
    let SiteCounts {
        total_urls,
        total_chunks,
        completed_chunks,
        results,
        errors: _,
    } = counts;
    let nothing_done = completed_chunks == Some(0) && results.is_none();
    [total_urls, total_chunks, results].contains(&Some(0)) || nothing_done
}
