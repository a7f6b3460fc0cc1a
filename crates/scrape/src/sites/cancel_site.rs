//! End of all work that a site has under way, whatever the cause, with a note in the site's registry.

use std::time::Duration;

use tokio::time::timeout;

use super::registry::{Registry, RegistryStatus};
use crate::jobs::{CancelLimits, JobContext, WorkerMonitor, cancel_jobs};
use orch_celery::TaskId;
use orch_journal::{RunState, SiteCounts, SiteName};

/// Timeout of the write to the registry, if the manner leaves more time.
const REGISTRY_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Ends the jobs of all attempts at the site; returns the last known counts of the site.
///
/// Drop the futures that follow these jobs first: they would take the end for a failure.
pub(crate) async fn end_site(
    context: &JobContext,
    monitor: &WorkerMonitor,
    site: &SiteName,
    manner: CancelLimits,
    status: RegistryStatus,
) -> SiteCounts {
    let state = context.in_flight.site(site).unwrap_or_default();
    let (counts, _) = known_progress(context, site);
    let first: Vec<TaskId> = state
        .roots
        .iter()
        .flat_map(|root| context.in_flight.tasks_of(root))
        .collect();
    for root in &state.roots {
        context.in_flight.forget_job(root);
    }
    let ended = cancel_jobs(context, monitor, first, [], manner).await;
    if let Some(left) = ended.remaining {
        tracing::warn!(%site, left, "some tasks of the site may still exist");
    }
    if let Some((job_id, app_prefix)) = &state.job {
        let within = manner.time_limit.min(REGISTRY_WRITE_TIMEOUT);
        let client = context.celery.with_deadline(within);
        // The registry belongs to the job: a run that has the site now uses another registry.
        let registry = Registry::new(site, job_id, app_prefix);
        if let Ok(Err(error)) = timeout(within, registry.write(&client, status, counts)).await {
            tracing::warn!(%site, %error, "could not write the registry");
        }
    }
    counts
}

/// Returns the counts and the number of the site's last attempt.
pub(crate) fn known_progress(context: &JobContext, site: &SiteName) -> (SiteCounts, u32) {
    let progress = |state: &RunState| state.site_named(site).map(|site| (site.counts, site.attempt));
    context.recorder.with_state(progress).unwrap_or_default()
}
