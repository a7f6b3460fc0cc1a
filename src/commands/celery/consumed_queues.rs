//! Question to all workers which queues they consume.

use std::time::Duration;

use orch_celery::{Client, ConsumedQueue, ControlReplies, ControlTarget, Result};

/// Time in which workers must report their queues.
const CONSUMERS_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks all workers for their queues.
pub async fn consumed_queues(client: &Client) -> Result<ControlReplies<Vec<ConsumedQueue>>> {
    let control = client.control();
    control.active_queues(&ControlTarget::All, CONSUMERS_TIMEOUT).await
}
