//! One attempt under a lease: begun only while it is ours, stopped when it is lost, and counted only if it was ours to
//! the end. It is stopped as well when somebody asks for the stop of its site.

use std::pin::pin;
use std::time::Instant;

use super::attempt::Attempt;
use super::end_site::end_site;
use super::lease::{Lease, Loss};
use super::registry::RegistryStatus;
use super::take::PATIENCE;
use crate::follow::{Asker, Context, Desk, Failure, Manner};
use crate::run::{SiteCounts, SiteName};

/// What came of an attempt.
pub(super) enum Came {
    /// Without a failure: complete.
    To(Option<Failure>, SiteCounts),
    /// It is followed no more, and goes on until it is ended.
    Stopped(Asker),
}

/// Runs an attempt to its end, until the lease is lost, or until it is to be stopped.
pub(super) async fn run(
    context: &Context,
    desk: &Desk,
    site: &SiteName,
    lease: &Lease<'_>,
    attempt: Attempt<'_>,
) -> Came {
    let give_up = attempt.deadline().min(Instant::now() + PATIENCE);
    if let Err(loss) = lease.begin(attempt.root(), give_up).await {
        return Came::To(Some(Failure::Lost(loss.to_string())), SiteCounts::default());
    }
    let loss = {
        let mut run = pin!(attempt.run());
        tokio::select! {
            biased;
            loss = lease.lost() => loss,
            (failure, counts) = &mut run => match lease.confirm().await {
                Ok(()) => return Came::To(failure, counts),
                Err(loss) => loss,
            },
            by = context.stops.asked_for(site) => return Came::Stopped(by),
        }
    };
    let (failure, counts) = stop(context, desk, site, lease, &loss).await;
    Came::To(Some(failure), counts)
}

/// Ends what the site has under way, before another run may take the lease if that can be known.
async fn stop(
    context: &Context,
    desk: &Desk,
    site: &SiteName,
    lease: &Lease<'_>,
    loss: &Loss,
) -> (Failure, SiteCounts) {
    tracing::warn!(%site, %loss, "the site's work is stopped");
    let manner = Manner::at_once(lease.terms().ending());
    let state = end_site(context, desk, site, manner, RegistryStatus::Failed).await;
    (Failure::Lost(loss.to_string()), state.counts)
}
