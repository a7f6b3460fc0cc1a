//! Ending all that a site has under way, whatever the cause, and saying so in its registry.

use std::time::Duration;

use tokio::time::timeout;

use super::registry::{Registry, RegistryStatus};
use crate::celery::TaskId;
use crate::follow::{Context, Desk, Manner, SiteInFlight, end_work};
use crate::run::SiteName;

/// For the registry, where the manner leaves more.
const WRITING: Duration = Duration::from_secs(2);

/// Ends the jobs of all attempts at the site; what was known of it.
///
/// Drop what follows them before: that would take the end for a failure.
pub(super) async fn end_site(
    context: &Context,
    desk: &Desk,
    site: &SiteName,
    manner: Manner,
    status: RegistryStatus,
) -> SiteInFlight {
    let state = context.in_flight.site(site).unwrap_or_default();
    let first: Vec<TaskId> = state
        .roots
        .iter()
        .flat_map(|root| context.in_flight.tasks_of(root))
        .collect();
    for root in &state.roots {
        context.in_flight.forget_job(root);
    }
    let ended = end_work(context, desk, first, [], manner).await;
    if let Some(left) = ended.left {
        tracing::warn!(%site, left, "not all that the site had under way is known to be gone");
    }
    if let Some((job_id, app_prefix)) = &state.job {
        let within = manner.within.min(WRITING);
        let client = context.celery.with_deadline(within);
        // The registry is the job's own: that of a run which has the site now is another.
        let registry = Registry::new(site, job_id, app_prefix);
        if let Ok(Err(error)) = timeout(within, registry.write(&client, status, state.counts)).await {
            tracing::warn!(%site, %error, "the registry cannot be written");
        }
    }
    state
}
