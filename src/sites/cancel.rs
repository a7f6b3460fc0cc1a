//! What is done about sites that a stop of the whole run has cut short.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::registry::{Registry, RegistryStatus};
use super::report::SiteReport;
use crate::celery::TaskId;
use crate::follow::{Context, Desk, JobInFlight, Manner, Taken, end_work};
use crate::run::SiteStatus;

/// What becomes of the workers after the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// They end with the run, as does the Redis: their own stop is the grace of what runs, and what is queued is left for a
    /// run that goes on with this one.
    End,
    /// Others may go on and take what is queued: all of the sites' work is ended first.
    GoOn,
}

/// For marking the registry.
const TELLING: Duration = Duration::from_millis(500);

/// Ends the sites that [`run_all`](super::run_all) was dropped with: says so at once, then ends their work and marks their
/// registry CANCELLED, as far as Redis and the workers answer in time: half a second where the workers end, else some five.
///
/// May be dropped: what is not done by then is left. Without such sites it does nothing.
pub async fn cancel(context: &Context, workers: Workers) -> Vec<SiteReport> {
    let Taken { jobs, sites, desk } = context.in_flight.take();
    let reports: Vec<SiteReport> = sites
        .iter()
        .map(|(site, state)| SiteReport {
            site: site.clone(),
            status: SiteStatus::Cancelled,
            counts: state.counts,
            elapsed: state.begun.map(|begun| Instant::now() - begun).unwrap_or_default(),
            attempt: None,
            attempts: state.attempts,
            reason: Some("the run was stopped".to_owned()),
            held_by: None,
            dependency: None,
            cause: None,
        })
        .collect();
    for report in &reports {
        context.recorder.emit(report.event());
    }
    let earlier = sites.values().flat_map(|state| state.roots.iter().cloned());
    let tasks: Vec<TaskId> = jobs.values().flat_map(JobInFlight::tasks).chain(earlier).collect();
    let end = async {
        // Where the workers end they take nothing further while they do. Nothing is revoked there: since Celery 5.7 that
        // makes a result of a task which has not run yet, such as the callback of a job that is to be gone on with.
        if workers == Workers::End || tasks.is_empty() {
            return;
        }
        match desk {
            Some(desk) => end_all(context, &desk, tasks).await,
            None => end_all(context, &Desk::open(context).await, tasks).await,
        }
    };
    let client = context.celery.with_deadline(TELLING);
    let mark = join_all(sites.iter().filter_map(|(site, state)| {
        let (job_id, app_prefix) = state.job.as_ref()?;
        let registry = Registry::new(site, job_id, app_prefix);
        let client = &client;
        Some(async move {
            let write = registry.write(client, RegistryStatus::Cancelled, state.counts);
            if let Ok(Err(error)) = timeout(TELLING, write).await {
                tracing::warn!(%site, %error, "the registry cannot be marked as cancelled");
            }
        })
    }));
    tokio::join!(end, mark);
    reports
}

async fn end_all(context: &Context, desk: &Desk, tasks: Vec<TaskId>) {
    let ended = tokio::select! {
        ended = end_work(context, desk, tasks, [], Manner::GENTLE) => ended,
        never = desk.serve() => match never {},
    };
    if let Some(left) = ended.left {
        tracing::warn!(left, "not all that the stopped run had under way is known to be gone");
    }
}
