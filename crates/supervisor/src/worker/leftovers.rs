//! Tasks and keys of dead runs in Redis, before a worker exists that would take them.

use crate::redis::connection::RedisConnection;
use orch_celery::{Client, KeptJobs};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, Recorder, RedisLeftovers};

/// Removes (owned Redis) or reports the leftovers in these queues, and the progress keys that match a pattern.
pub async fn clear(
    client: &Client,
    connection: &RedisConnection,
    queues: &[&str],
    progress_patterns: &[String],
    kept: &KeptJobs,
    recorder: &Recorder,
) -> Result<(), ServiceFailure> {
    let failed = |error: orch_celery::Error| {
        ServiceFailure::infrastructure(format!(
            "could not clear the leftovers of dead runs in Redis on {}",
            connection.address()
        ))
        .with_cause(error.to_string())
    };
    let (left, progress) = if connection.owned {
        let left = client.remove_leftovers(queues, kept).await.map_err(failed)?;
        (left, client.remove_keys(progress_patterns, kept).await.map_err(failed)?)
    } else {
        let left = client.leftovers(queues).await.map_err(failed)?;
        (left, client.count_keys(progress_patterns).await.map_err(failed)?)
    };
    if !left.is_empty() || progress > 0 {
        recorder.emit(EventKind::LeftoversFound(RedisLeftovers {
            queued: left.queued.values().sum(),
            unacked: left.unacked,
            keys: left.chord_keys + left.reply_lists + progress,
            removed: connection.owned,
        }));
    }
    Ok(())
}
