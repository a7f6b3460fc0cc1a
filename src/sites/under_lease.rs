//! One attempt under a lease: begun only while it is ours, stopped when it is lost, and counted only if it was ours to
//! the end. It is stopped as well when somebody asks for the stop of its site, when the worker that the site has of its own
//! is given up, and when none of the workers that the run shares is left.

use std::pin::pin;
use std::time::Instant;

use super::attempt::Attempt;
use super::end_site::end_site;
use super::lease::{Lease, Loss};
use super::registry::RegistryStatus;
use super::take::PATIENCE;
use crate::follow::{Asker, Context, Desk, Failure, Manner};
use crate::run::{SiteCounts, SiteName};
use crate::services::Needed;

/// What came of an attempt.
pub(super) enum Came {
    /// Without a failure: complete.
    To(Option<Failure>, SiteCounts),
    /// It is followed no more, and goes on until it is ended.
    Stopped(Asker),
}

/// What an attempt runs under.
#[derive(Clone, Copy)]
pub(super) struct Under<'a> {
    pub site: &'a SiteName,
    pub lease: &'a Lease<'a>,
    /// The site's own worker, which may be starting.
    pub worker: Option<&'a Needed>,
}

/// Why what has begun cannot go on.
enum Ill {
    Lease(Loss),
    Worker(crate::services::Failure),
    /// No worker consumes its queue, for this reason.
    Deserted(String),
}

/// Runs an attempt to its end, until its lease or its worker is lost, or until it is to be stopped.
pub(super) async fn run(context: &Context, desk: &Desk, under: Under<'_>, attempt: Attempt<'_>) -> Came {
    let Under { site, lease, worker } = under;
    let give_up = attempt.deadline().min(Instant::now() + PATIENCE);
    let root = attempt.root().clone();
    let work = async {
        let not_begun = |failure| Ok((Some(failure), SiteCounts::default()));
        if let Some(worker) = worker
            && let Err(failure) = worker.usable().await
        {
            return not_begun(without_worker(&failure));
        }
        if let Err(loss) = lease.begin(&root, give_up).await {
            return not_begun(Failure::Lost(loss.to_string()));
        }
        // Boxed: it is large, and moves through many hands.
        let mut run = Box::pin(attempt.run());
        let came = tokio::select! {
            biased;
            came = &mut run => came,
            failure = given_up(worker) => return Err(Ill::Worker(failure)),
            // A worker of its own is the supervisor's matter.
            absence = context.shared.absent(true), if worker.is_none() => return Err(Ill::Deserted(absence.reason)),
        };
        lease.confirm().await.map_err(Ill::Lease)?;
        Ok(came)
    };
    let ill = {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            loss = lease.lost() => Ill::Lease(loss),
            came = &mut work => match came {
                Ok((failure, counts)) => return Came::To(failure, counts),
                Err(ill) => ill,
            },
            by = context.stops.asked_for(site) => return Came::Stopped(by),
        }
    };
    let (failure, counts) = stop(context, desk, under, ill).await;
    Came::To(Some(failure), counts)
}

async fn given_up(worker: Option<&Needed>) -> crate::services::Failure {
    match worker {
        Some(worker) => worker.given_up().await,
        None => std::future::pending().await,
    }
}

/// In one line; its log has more.
fn without_worker(failure: &crate::services::Failure) -> Failure {
    let log = failure.log().map(|log| format!("; log: {}", log.display()));
    let log = log.unwrap_or_default();
    Failure::Told(format!("its own worker was given up: {}{log}", failure.what))
}

/// Ends what the site has under way, before another run may take the lease if that can be known.
async fn stop(context: &Context, desk: &Desk, under: Under<'_>, ill: Ill) -> (Failure, SiteCounts) {
    let (site, lease) = (under.site, under.lease);
    let failure = match ill {
        Ill::Lease(loss) => Failure::Lost(loss.to_string()),
        Ill::Worker(failure) => without_worker(&failure),
        Ill::Deserted(reason) => Failure::Lost(reason),
    };
    tracing::warn!(%site, reason = failure.reason(), "the site's work is stopped");
    let manner = Manner::at_once(lease.terms().ending());
    let state = end_site(context, desk, site, manner, RegistryStatus::Failed).await;
    (failure, state.counts)
}
