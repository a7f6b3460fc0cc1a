//! End of the sites that a stop of the whole run has interrupted.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::cancel_site::known_progress;
use super::registry::{Registry, RegistryStatus};
use super::report::SiteReport;
use crate::jobs::{CancelLimits, JobContext, JobInFlight, KeptMonitor, TakenInFlight, WorkerMonitor, cancel_jobs};
use orch_celery::TaskId;
use orch_journal::SiteStatus;

/// Lifetime of the workers after the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkersAfterRun {
    /// The workers end with the run, as Redis does: their own stop is the grace period of running tasks, and queued
    /// tasks are left for a run that resumes this one.
    End,
    /// The workers may go on and take queued tasks: all work of the sites is ended first.
    Continue,
}

/// Timeout of the write that marks the registry.
const MARK_CANCELLED_TIMEOUT: Duration = Duration::from_millis(500);

/// Ends the sites that were active when [`run_all`](super::run_sites::run_all) was dropped. Reports them at once, then
/// ends their work and marks their registries CANCELLED, as far as Redis and the workers answer in time: half a second
/// if the workers end, otherwise about five seconds.
///
/// May be dropped: the steps that are not done by then are left out. Without such sites the function does nothing.
pub async fn cancel(context: &JobContext, kept: &KeptMonitor, workers: WorkersAfterRun) -> Vec<SiteReport> {
    let TakenInFlight { jobs, sites } = context.in_flight.take();
    let monitor = kept.take();
    let reports: Vec<SiteReport> = sites
        .iter()
        .map(|(site, state)| {
            let (counts, attempts) = known_progress(context, site);
            SiteReport {
                site: site.clone(),
                status: SiteStatus::Cancelled,
                counts,
                elapsed: state.begun.map(|begun| begun.elapsed()).unwrap_or_default(),
                attempt: None,
                attempts,
                reason: Some("the run was stopped".to_owned()),
                held_by: None,
                dependency: None,
                cause: None,
            }
        })
        .collect();
    for report in &reports {
        report.record(context);
    }
    let earlier = sites.values().flat_map(|state| state.roots.iter().cloned());
    let tasks: Vec<TaskId> = jobs.values().flat_map(JobInFlight::tasks).chain(earlier).collect();
    let end = async {
        // Workers that end take no further tasks during their stop. Their tasks are not revoked: since Celery 5.7 a
        // revocation creates a result for a task that has not run yet, such as the callback of a job that a later run
        // picks up.
        if workers == WorkersAfterRun::End || tasks.is_empty() {
            return;
        }
        match monitor {
            Some(monitor) => end_all(context, &monitor, tasks).await,
            None => end_all(context, &WorkerMonitor::open(context).await, tasks).await,
        }
    };
    let client = context.celery.with_deadline(MARK_CANCELLED_TIMEOUT);
    let mark = join_all(sites.iter().zip(&reports).filter_map(|((site, state), report)| {
        let (job_id, app_prefix) = state.job.as_ref()?;
        let registry = Registry::new(site, job_id, app_prefix);
        let client = &client;
        Some(async move {
            let write = registry.write(client, RegistryStatus::Cancelled, report.counts);
            if let Ok(Err(error)) = timeout(MARK_CANCELLED_TIMEOUT, write).await {
                tracing::warn!(%site, %error, "could not mark the registry as cancelled");
            }
        })
    }));
    tokio::join!(end, mark);
    reports
}

async fn end_all(context: &JobContext, monitor: &WorkerMonitor, tasks: Vec<TaskId>) {
    let ended = tokio::select! {
        ended = cancel_jobs(context, monitor, tasks, [], CancelLimits::GENTLE) => ended,
        never = monitor.serve() => match never {},
    };
    if let Some(left) = ended.remaining {
        tracing::warn!(left, "some tasks of the stopped run may still exist");
    }
}
