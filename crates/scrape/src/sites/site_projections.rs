//! Projections of a site's state: the words that the journal, the schedule and the registry use for it.

use super::attempt_end::AttemptVerdict;
use super::registry::RegistryStatus;
use crate::jobs::JobFailure;
use orch_journal::{SiteCounts, SiteStatus};

/// Returns the final status of a site, for the journal and the schedule.
pub(crate) fn site_status(verdict: &AttemptVerdict) -> SiteStatus {
    match verdict {
        AttemptVerdict::Complete(_) => SiteStatus::Complete,
        AttemptVerdict::Degraded(_) => SiteStatus::Degraded,
        AttemptVerdict::Failed(JobFailure::Unknown(_)) => SiteStatus::Unknown,
        AttemptVerdict::Failed(_) => SiteStatus::Failed,
    }
}

/// Returns the last status of an attempt's job, for the registry.
pub(crate) fn final_registry_status(verdict: &AttemptVerdict) -> RegistryStatus {
    match verdict {
        AttemptVerdict::Complete(_) | AttemptVerdict::Degraded(_) => RegistryStatus::Complete,
        AttemptVerdict::Failed(_) => RegistryStatus::Failed,
    }
}

/// Returns the status of a job that is under way, for the registry.
pub(crate) fn live_registry_status(is_started: bool, counts: SiteCounts) -> RegistryStatus {
    if counts.completed_chunks.is_some_and(|completed| completed > 0) {
        RegistryStatus::Processing
    } else if is_started {
        RegistryStatus::Dispatched
    } else {
        RegistryStatus::Collecting
    }
}
