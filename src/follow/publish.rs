//! Publishing the tasks of a job, through a restart of Redis.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::context::Context;
use crate::celery::{Error, Link, Result};

/// How long a Redis that is away may take to come back.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

/// Publishes a chain (of one link: a plain task), again and again while Redis is away, until `deadline`.
///
/// A chain that may or may not have been published counts as published: whether anything of it is anywhere is found by
/// following it, and publishing twice would run it twice.
pub async fn publish(context: &Context, links: &[Link], deadline: Instant) -> Result<()> {
    let give_up = deadline.min(Instant::now() + PATIENCE);
    loop {
        let error = match context.celery.publish_chain(links).await {
            Ok(_) => return Ok(()),
            Err(Error::Unconfirmed { task, reason, .. }) => {
                tracing::warn!(%task, reason, "the task may or may not have been published");
                return Ok(());
            }
            Err(error) => error,
        };
        if !error.is_transient() || Instant::now() + PAUSE >= give_up {
            return Err(error);
        }
        tracing::debug!(%error, "publishing again");
        sleep(PAUSE).await;
    }
}
