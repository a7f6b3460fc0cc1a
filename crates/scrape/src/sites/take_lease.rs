//! Acquisition of a site's lease, which excludes other runs from the site, and the end of the work that the last holder
//! left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::jobs::{CancelLimits, JobContext, WorkerMonitor, cancel_jobs};
use crate::sites::lease::{Lease, LeaseRefusal, Leases};
use orch_config::SiteConfig;
use orch_journal::EventKind;

/// Time between two requests for a lease that another run holds: nothing announces a release.
pub(crate) const LEASE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for a Redis that does not answer.
pub(crate) const REDIS_OUTAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of one try to end the work of a run that did not release its lease, and time until which such tries are
/// repeated if no worker answers: after an outage the workers reconnect one by one, and without a worker this run's own
/// work could not begin either.
const END_LEFTOVER_TIMEOUT: Duration = Duration::from_secs(4);
const WORKER_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Acquires the lease, and ends the work of a holder that did not release the lease, except for a job that is picked
/// up. Waits for Redis until `give_up`.
///
/// # Errors
/// Another run holds the lease, or the lease cannot be acquired.
pub(crate) async fn take(
    context: &JobContext,
    monitor: &WorkerMonitor,
    leases: &Arc<Leases>,
    site: &SiteConfig,
    give_up: Instant,
) -> Result<Lease, LeaseRefusal> {
    // The work that is left may wait in this queue.
    monitor.watch_queues(site.dispatch.queue.clone());
    let (lease, left) = leases.acquire(&site.name, give_up).await?;
    // The job that this run picks up goes on, including the callback.
    let picked_up = context.earlier_jobs.get(&site.name).map(|job| job.task_id.as_str());
    let left = left.filter(|work| !work.tasks.iter().any(|task| Some(task.as_str()) == picked_up));
    if let Some(work) = left {
        let deadline = Instant::now() + WORKER_ANSWER_TIMEOUT;
        let end = || {
            cancel_jobs(
                context,
                monitor,
                work.tasks.iter().cloned(),
                [],
                CancelLimits::without_grace(END_LEFTOVER_TIMEOUT),
            )
        };
        let mut ended = end().await;
        while !ended.is_acknowledged && Instant::now() < deadline {
            sleep(LEASE_POLL_INTERVAL).await;
            ended = end().await;
        }
        context.recorder.emit(EventKind::SiteLeaseAbandoned {
            site: site.name.clone(),
            holder: (&work.of).into(),
            messages_removed: ended.removed as u64,
            tasks_revoked: ended.revoked as u64,
        });
    }
    Ok(lease)
}
