//! Keys of the broker with another type of value than Celery uses: a worker that uses such a key ends, and a restart
//! does not help. In a Redis of orch the value is moved aside; in an external one the owner must do that.

use super::connection::RedisConnection;
use orch_celery::{Client, MistypedKey};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, Recorder, RedisProblem};

/// Checks the types of the keys that a worker of these queues uses.
///
/// # Errors
/// A key has a wrong type in an external Redis. If Redis cannot be asked, the keys are unknown, and that is no error.
pub(crate) async fn repair(
    client: &Client,
    connection: &RedisConnection,
    queues: &[String],
    recorder: &Recorder,
) -> Result<(), ServiceFailure> {
    let found = match client.mistyped_keys(queues).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "could not read the types of the broker's keys");
            return Ok(());
        }
    };
    for key in found {
        if !connection.owned {
            return Err(failure(&key, connection));
        }
        match client.rename_mistyped_key(&key).await {
            Ok(Some(moved_to)) => recorder.emit(EventKind::RedisProblemFound {
                problem: RedisProblem::KeyMistyped {
                    key: key.key,
                    database: connection.broker_db,
                    found_type: key.found_type,
                    expected_type: key.expected_type.to_owned(),
                    purpose: key.purpose,
                    moved_to,
                },
            }),
            Ok(None) => {}
            Err(error) => {
                return Err(failure(&key, connection).with_cause(format!("it could not be moved aside: {error}")));
            }
        }
    }
    Ok(())
}

fn failure(key: &MistypedKey, connection: &RedisConnection) -> ServiceFailure {
    let database = connection.broker_db;
    // For a socket or Sentinels the command has no address; the reader knows how to connect.
    let place = match connection.host.as_str() {
        "" => format!("-n {database}"),
        host => format!("-h {host} -p {} -n {database}", connection.port),
    };
    ServiceFailure::infrastructure(format!("{key}"))
        .with_cause("another program has written it: every worker that uses it ends with WRONGTYPE")
        .hint(format!(
            "find the program that writes it; `redis-cli {place} RENAME '{0}' '{0}.aside'` \
             moves it out of the way",
            key.key
        ))
        .permanent()
}
