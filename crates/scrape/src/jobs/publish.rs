//! Publishing of a job's tasks, through a restart of Redis.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::context::JobContext;
use orch_celery::{Error, Result, TaskLink};

/// Longest outage of Redis during which publishing is tried again, and the interval of these tries.
const OUTAGE_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Publishes a chain (a plain task is a chain of one link), and tries again while Redis is away, until `deadline`.
///
/// A chain that may or may not have been published counts as published: following the job finds out whether any task of
/// the chain exists, and publishing twice would run the chain twice.
pub async fn publish(context: &JobContext, links: &[TaskLink], deadline: Instant) -> Result<()> {
    let give_up = deadline.min(Instant::now() + OUTAGE_TIMEOUT);
    loop {
        let error = match context.celery.publish_chain(links).await {
            Ok(_) => return Ok(()),
            Err(Error::Unconfirmed { task, reason, .. }) => {
                tracing::warn!(%task, reason, "the task may or may not have been published");
                return Ok(());
            }
            Err(error) => error,
        };
        if !error.is_transient() || Instant::now() + RETRY_INTERVAL >= give_up {
            return Err(error);
        }
        tracing::debug!(%error, "could not publish the tasks; retrying");
        sleep(RETRY_INTERVAL).await;
    }
}
