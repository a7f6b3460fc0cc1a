//! One attempt under a lease: begun only while it is ours, stopped when it is lost, and counted only if it was ours to
//! the end.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::attempt::Attempt;
use super::end_work::end_work;
use super::lease::{Lease, Loss};
use super::registry::{Registry, RegistryStatus};
use super::take::PATIENCE;
use crate::celery::TaskId;
use crate::follow::{Context, Desk, Failure};
use crate::run::{SiteCounts, SiteName};

/// Runs an attempt to its end, or until the lease is lost.
pub(super) async fn run(
    context: &Context,
    desk: &Desk,
    site: &SiteName,
    lease: &Lease<'_>,
    attempt: Attempt<'_>,
) -> (Option<Failure>, SiteCounts) {
    let root = attempt.root().clone();
    let give_up = attempt.deadline().min(Instant::now() + PATIENCE);
    if let Err(loss) = lease.begin(&root, give_up).await {
        return (Some(Failure::Lost(loss.to_string())), SiteCounts::default());
    }
    let (loss, unfinished) = {
        let mut run = pin!(attempt.run());
        tokio::select! {
            biased;
            // Before the drop: the desk forgets the job with it.
            loss = lease.lost() => (loss, desk.unfinished(&root)),
            (failure, counts) = &mut run => match lease.confirm().await {
                Ok(()) => return (failure, counts),
                Err(loss) => (loss, desk.unfinished(&root)),
            },
        }
    };
    stop(context, desk, site, lease, (&root, unfinished), &loss).await
}

/// Ends what the site has under way, before another run may take the lease if that can be known.
async fn stop(
    context: &Context,
    desk: &Desk,
    site: &SiteName,
    lease: &Lease<'_>,
    (root, unfinished): (&TaskId, Vec<TaskId>),
    loss: &Loss,
) -> (Option<Failure>, SiteCounts) {
    let within = lease.terms().ending();
    let first = context.in_flight.tasks_of(root);
    context.in_flight.forget_job(root);
    let ended = end_work(context, desk, &first, unfinished, within).await;
    tracing::warn!(%site, %loss, tasks = ended.tasks, "the site's work is stopped");
    let state = context.in_flight.site(site).unwrap_or_default();
    if let Some((job_id, app_prefix)) = &state.job {
        mark_failed(
            context,
            site,
            &Registry::new(site, job_id, app_prefix),
            state.counts,
            within,
        )
        .await;
    }
    (Some(Failure::Lost(loss.to_string())), state.counts)
}

/// The registry is the job's own: that of a run which has the site now is another.
async fn mark_failed(context: &Context, site: &SiteName, registry: &Registry, counts: SiteCounts, within: Duration) {
    let client = context.celery.with_deadline(within);
    let written = timeout(within, registry.write(&client, RegistryStatus::Failed, counts)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(%site, %error, "the registry cannot be written");
    }
}
