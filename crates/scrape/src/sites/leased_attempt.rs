//! One attempt under a lease. The attempt begins only while this run holds the lease, stops when the lease is lost, and
//! counts only if the lease was held to the end. The attempt also stops on a stop request for its site, when the site's
//! own worker is given up, and when none of the workers that the run shares is left.

use std::pin::pin;
use std::time::Instant;

use super::attempt::Attempt;
use super::cancel_site::end_site;
use super::own_worker::WorkerRequest;
use super::registry::RegistryStatus;
use super::take_lease::REDIS_OUTAGE_TIMEOUT;
use crate::jobs::{CancelLimits, JobContext, JobFailure, WorkerMonitor};
use crate::sites::lease::{Lease, LeaseLoss};
use orch_journal::{RequestSender, SiteCounts, SiteName};

/// End of an attempt under a lease.
pub(crate) enum LeasedAttemptEnd {
    /// The attempt has ended with this failure and these counts; complete if there is no failure.
    Finished(Option<JobFailure>, SiteCounts),
    /// The attempt is followed no more because of this stop request; the tasks go on until they are ended.
    Stopped(RequestSender),
}

/// Conditions under which an attempt runs.
#[derive(Clone, Copy)]
pub(crate) struct LeasedAttempt<'a> {
    pub site: &'a SiteName,
    pub lease: &'a Lease,
    /// The site's own worker, which may still be starting.
    pub worker: Option<&'a dyn WorkerRequest>,
}

/// Reason why an attempt that has begun cannot go on.
enum AttemptInterruption {
    LeaseLost(LeaseLoss),
    WorkerGivenUp(orch_journal::failure::ServiceFailure),
    /// No worker consumes the site's queue, for this reason.
    NoConsumer(String),
}

/// Runs an attempt to the end, until the lease or the site's own worker is lost, or until a stop request.
pub(crate) async fn run(
    context: &JobContext,
    monitor: &WorkerMonitor,
    leased: LeasedAttempt<'_>,
    attempt: Attempt<'_>,
) -> LeasedAttemptEnd {
    let LeasedAttempt { site, lease, worker } = leased;
    let give_up = attempt.deadline().min(Instant::now() + REDIS_OUTAGE_TIMEOUT);
    let root = attempt.root().clone();
    let work = async {
        let not_begun = |failure| Ok((Some(failure), SiteCounts::default()));
        if let Some(worker) = worker
            && let Err(failure) = worker.usable().await
        {
            return not_begun(without_worker(&failure));
        }
        if let Err(loss) = lease.begin_work(&root, give_up).await {
            return not_begun(JobFailure::Lost(loss.to_string()));
        }
        // Boxed: the future is large and is moved several times.
        let mut run = Box::pin(attempt.run());
        let result = tokio::select! {
            biased;
            result = &mut run => result,
            failure = given_up(worker) => return Err(AttemptInterruption::WorkerGivenUp(failure)),
            // The supervisor looks after a site's own worker.
            absence = context.shared_workers.until_absent(true), if worker.is_none() => return Err(AttemptInterruption::NoConsumer(absence.reason)),
        };
        lease.confirm().await.map_err(AttemptInterruption::LeaseLost)?;
        Ok(result)
    };
    let interruption = {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            loss = lease.wait_for_loss() => AttemptInterruption::LeaseLost(loss),
            result = &mut work => match result {
                Ok((failure, counts)) => return LeasedAttemptEnd::Finished(failure, counts),
                Err(interruption) => interruption,
            },
            by = context.stop_requests.wait_for(site) => return LeasedAttemptEnd::Stopped(by),
        }
    };
    let (failure, counts) = stop(context, monitor, leased, interruption).await;
    LeasedAttemptEnd::Finished(Some(failure), counts)
}

async fn given_up(worker: Option<&dyn WorkerRequest>) -> orch_journal::failure::ServiceFailure {
    match worker {
        Some(worker) => worker.given_up().await,
        None => std::future::pending().await,
    }
}

/// Returns the failure of a site that has lost its own worker, in one line; the worker's log has more.
fn without_worker(failure: &orch_journal::failure::ServiceFailure) -> JobFailure {
    let log = failure.log().map(|log| format!("; log: {}", log.display()));
    let log = log.unwrap_or_default();
    JobFailure::Reported(format!("its own worker was given up: {}{log}", failure.summary))
}

/// Ends the site's work, if possible before another run may acquire the lease.
async fn stop(
    context: &JobContext,
    monitor: &WorkerMonitor,
    leased: LeasedAttempt<'_>,
    interruption: AttemptInterruption,
) -> (JobFailure, SiteCounts) {
    let (site, lease) = (leased.site, leased.lease);
    let failure = match interruption {
        AttemptInterruption::LeaseLost(loss) => JobFailure::Lost(loss.to_string()),
        AttemptInterruption::WorkerGivenUp(failure) => without_worker(&failure),
        AttemptInterruption::NoConsumer(reason) => JobFailure::Lost(reason),
    };
    tracing::warn!(%site, reason = failure.reason(), "the site's work is stopped");
    let manner = CancelLimits::without_grace(lease.terms().stop_timeout());
    let counts = end_site(context, monitor, site, manner, RegistryStatus::Failed).await;
    (failure, counts)
}
