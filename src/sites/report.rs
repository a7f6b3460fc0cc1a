//! How a site ended, as its run reports it.

use std::time::Duration;

use super::breaker::Skip;
use super::lease::{Completed, Occupant, Refused};
use crate::follow::Asker;
use crate::run::{EndCause, EventKind, SiteCounts, SiteName, SiteStatus};

/// How one site ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteReport {
    pub site: SiteName,
    pub status: SiteStatus,
    pub counts: SiteCounts,
    /// Since its first dispatch.
    pub elapsed: Duration,
    /// Of its last attempt; `None`: an earlier run had begun that, or there was none.
    pub attempt: Option<Duration>,
    /// 1 when the first attempt was the last; 0 when there was none.
    pub attempts: u32,
    /// Why, unless it is complete.
    pub reason: Option<String>,
    /// Another run was at it, so that it was not begun.
    pub held_by: Option<Occupant>,
    /// The site by whose end it was decided that this one is skipped.
    pub dependency: Option<SiteName>,
    /// What its end tells the runs after this one.
    pub cause: Option<EndCause>,
}

impl SiteReport {
    /// It never began.
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

    /// Its lease could not be had.
    pub(super) fn refused(site: &SiteName, refused: Refused) -> Self {
        let report = Self::not_begun(site, SiteStatus::Failed, refused.to_string());
        Self {
            held_by: match refused {
                Refused::Held(occupant) => Some(occupant),
                Refused::Unreachable(_) => None,
            },
            cause: Some(EndCause::Refused),
            ..report
        }
    }

    /// Another run had its lease meanwhile and has completed it.
    pub(super) fn by_another(site: &SiteName, completed: Completed, elapsed: Duration, attempts: u32) -> Self {
        let Completed { by, completion, .. } = completed;
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

    /// What it depends on has not succeeded.
    pub(super) fn skipped(site: &SiteName, dependency: &SiteName, reason: String) -> Self {
        Self {
            dependency: Some(dependency.clone()),
            ..Self::not_begun(site, SiteStatus::Skipped, reason)
        }
    }

    /// It has failed too often in earlier runs.
    pub(super) fn not_tried(site: &SiteName, skip: &Skip, cause: EndCause) -> Self {
        Self {
            cause: Some(cause),
            ..Self::not_begun(site, SiteStatus::Skipped, skip.why.clone())
        }
    }

    /// Somebody has asked for its stop before it began.
    pub(super) fn stopped(site: &SiteName, by: &Asker) -> Self {
        Self::not_begun(site, SiteStatus::Cancelled, stopped_by(by))
    }

    pub(super) fn event(&self) -> EventKind {
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

/// Why a site was stopped.
pub(super) fn stopped_by(by: &Asker) -> String {
    format!("it was stopped by {by}")
}
