//! Taking a site's lease, which lets nobody else be at it, and ending what its last holder has left.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::lease::{Lease, Leases, Refused};
use crate::config::SiteConfig;
use crate::follow::{Context, Desk, Manner, end_work};
use crate::run::{EventKind, Level};

/// Between two looks at a lease that another run has: its end is announced by nobody.
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long a Redis that is away may take to come back.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// For one try to end what a run has left that did not give its lease back, and until a worker has heard of it: after an
/// outage workers connect again by and by, and without one our own work could not begin either.
const ENDING: Duration = Duration::from_secs(4);
const HEARD_WITHIN: Duration = Duration::from_secs(15);

/// Takes the lease, and ends what a holder has left that did not give it back, but for a job that is picked up. A Redis
/// that is away has until `give_up`.
///
/// # Errors
/// Another run keeps the lease, or it cannot be taken.
pub(super) async fn take<'r>(
    context: &Context,
    desk: &Desk,
    leases: &'r Leases,
    site: &SiteConfig,
    give_up: Instant,
) -> Result<Lease<'r>, Refused> {
    // What is left may wait there.
    desk.watch_queues(site.dispatch.queue.clone());
    let (lease, left) = leases.take(&site.name, give_up).await?;
    // The job that this run picks up goes on, its callback included.
    let picked_up = context.earlier.get(&site.name).map(|job| job.task_id.as_str());
    let left = left.filter(|work| !work.tasks.iter().any(|task| Some(task.as_str()) == picked_up));
    if let Some(work) = left {
        let hurry = Instant::now() + HEARD_WITHIN;
        let end = || end_work(context, desk, work.tasks.iter().cloned(), [], Manner::at_once(ENDING));
        let mut ended = end().await;
        while !ended.heard && Instant::now() < hurry {
            sleep(LOOK_AGAIN_AFTER).await;
            ended = end().await;
        }
        let message = format!(
            "{}: {} has not given its lease back; what may be left of its work is ended ({} messages removed, {} tasks revoked)",
            site.name, work.of, ended.removed, ended.revoked
        );
        let level = Level::Info;
        context.recorder.emit(EventKind::Noticed { level, message });
    }
    Ok(lease)
}
