//! What is done about sites that a stop has cut short.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::registry::{Registry, RegistryStatus};
use super::report::SiteReport;
use crate::celery::{Target, TaskId};
use crate::follow::Context;
use crate::run::SiteStatus;

/// Ends the sites that [`run_all`](super::run_all) was dropped with: says so at once, then revokes their dispatch and
/// callback tasks and marks their registry CANCELLED, as far as Redis and the workers answer within the time given.
///
/// Running tasks are not interrupted: a warm shutdown lets them finish. Without such sites it does nothing.
pub async fn cancel(context: &Context, within: Duration) -> Vec<SiteReport> {
    let (jobs, sites) = context.in_flight.take();
    let reports: Vec<SiteReport> = sites
        .iter()
        .map(|(site, state)| SiteReport {
            site: site.clone(),
            status: SiteStatus::Cancelled,
            counts: state.counts,
            elapsed: state.begun.map(|begun| Instant::now() - begun).unwrap_or_default(),
            attempts: state.attempts,
            reason: Some("the run was stopped".to_owned()),
            held_by: None,
            dependency: None,
        })
        .collect();
    for report in &reports {
        context.recorder.emit(report.event());
    }
    let tasks: Vec<TaskId> = jobs.values().flat_map(crate::follow::JobInFlight::tasks).collect();
    if tasks.is_empty() {
        return reports;
    }
    let client = context.celery.with_deadline(within);
    let revoke = async {
        if let Err(error) = client.control().revoke(&tasks, None, &Target::All, within).await {
            tracing::warn!(%error, tasks = tasks.len(), "tasks of the stopped run cannot be revoked");
        }
    };
    let mark = join_all(sites.iter().filter_map(|(site, state)| {
        let (job_id, app_prefix) = state.job.as_ref()?;
        let registry = Registry::new(site, job_id, app_prefix);
        let client = &client;
        Some(async move {
            if let Err(error) = registry.write(client, RegistryStatus::Cancelled, state.counts).await {
                tracing::warn!(%site, %error, "the registry cannot be marked as cancelled");
            }
        })
    }));
    // Best effort: what is not done by then is left.
    timeout(within, async { tokio::join!(revoke, mark) }).await.ok();
    reports
}
