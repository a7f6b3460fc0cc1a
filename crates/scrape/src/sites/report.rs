//! Report on the end of a site in a run.

use std::time::Duration;

use crate::jobs::JobContext;
use crate::sites::lease::{CompletionRecord, LeaseOccupant, LeaseRefusal};
use crate::sites::policy::circuit_breaker::BreakerSkip;
use orch_journal::{EndCause, EventKind, RequestSender, SiteCounts, SiteName, SiteStatus};

/// End of one site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteReport {
    pub site: SiteName,
    pub status: SiteStatus,
    pub counts: SiteCounts,
    /// Time since the first dispatch of the site.
    pub elapsed: Duration,
    /// Duration of the last attempt; `None`: an earlier run had begun that attempt, or there was none.
    pub attempt: Option<Duration>,
    /// Number of attempts: 1 if the first was the last, 0 if there was none.
    pub attempts: u32,
    /// Reason of the end, unless the site is complete.
    pub reason: Option<String>,
    /// Other run that held the lease, so that the site was not begun.
    pub held_by: Option<LeaseOccupant>,
    /// Dependency with an end that caused the skip of this site.
    pub dependency: Option<SiteName>,
    /// Cause that the end hands on to later runs.
    pub cause: Option<EndCause>,
}

impl SiteReport {
    /// Reports a site that never began.
    fn not_begun(site: &SiteName, status: SiteStatus, reason: String) -> Self {
        Self {
            site: site.clone(),
            status,
            counts: SiteCounts::default(),
            elapsed: Duration::ZERO,
            attempt: None,
            attempts: 0,
            reason: Some(reason),
            held_by: None,
            dependency: None,
            cause: None,
        }
    }

    /// Reports a site with a lease that could not be acquired.
    pub(crate) fn refused(site: &SiteName, refused: LeaseRefusal) -> Self {
        let report = Self::not_begun(site, SiteStatus::Failed, refused.to_string());
        Self {
            held_by: match refused {
                LeaseRefusal::Held(occupant) => Some(occupant),
                LeaseRefusal::Unreachable(_) => None,
            },
            cause: Some(EndCause::Refused),
            ..report
        }
    }

    /// Reports a site that another run has completed while holding the lease.
    pub(crate) fn completed_by_another_run(
        site: &SiteName,
        completed: CompletionRecord,
        elapsed: Duration,
        attempts: u32,
    ) -> Self {
        let CompletionRecord { by, completion, .. } = completed;
        let why = completion.reason.map(|why| format!(": {why}")).unwrap_or_default();
        Self {
            counts: completion.counts,
            elapsed,
            attempts,
            cause: Some(EndCause::ByAnotherRun),
            ..Self::not_begun(
                site,
                completion.status,
                format!("run {} on host {} completed it{why}", by.run_id, by.host),
            )
        }
    }

    /// Reports a site with a dependency that has not succeeded.
    pub(crate) fn skipped(site: &SiteName, dependency: &SiteName, reason: String) -> Self {
        Self {
            dependency: Some(dependency.clone()),
            ..Self::not_begun(site, SiteStatus::Skipped, reason)
        }
    }

    /// Reports a site that has failed too often in earlier runs.
    pub(crate) fn not_tried(site: &SiteName, skip: &BreakerSkip, cause: EndCause) -> Self {
        Self {
            cause: Some(cause),
            ..Self::not_begun(site, SiteStatus::Skipped, skip.why.clone())
        }
    }

    /// Reports a site with a stop request from before the first turn.
    pub(crate) fn stopped(site: &SiteName, by: &RequestSender) -> Self {
        Self::not_begun(site, SiteStatus::Cancelled, stopped_by(by))
    }

    /// Reports a site that did not begin because the run was drained.
    pub(crate) fn drained(site: &SiteName) -> Self {
        let reason = "the run was drained before the site began; `orch run --resume` runs it";
        Self::not_begun(site, SiteStatus::Skipped, reason.to_owned())
    }

    /// Reports a site of which nothing is known.
    pub(crate) fn unknown(site: &SiteName, reason: String) -> Self {
        Self::not_begun(site, SiteStatus::Unknown, reason)
    }

    /// Records the end of the site, and before it the failures of its tasks.
    pub(crate) fn record(&self, context: &JobContext) {
        if let Some(errors) = context.failures.take(&self.site) {
            context.recorder.emit(EventKind::SiteErrorsCounted(errors));
        }
        context.recorder.emit(self.event());
    }

    fn event(&self) -> EventKind {
        EventKind::SiteFinished {
            site: self.site.clone(),
            status: self.status,
            counts: self.counts,
            elapsed_ms: EventKind::millis(self.elapsed),
            reason: self.reason.clone(),
            dependency: self.dependency.clone(),
            cause: self.cause,
        }
    }
}

/// Returns the reason of a stopped site.
pub(crate) fn stopped_by(by: &RequestSender) -> String {
    format!("it was stopped by {by}")
}
