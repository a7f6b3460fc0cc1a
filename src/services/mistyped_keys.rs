//! Keys of the broker that hold another type of value than Celery keeps there: a worker that uses one ends, and its restarts
//! cure nothing. In a Redis of orch the value is moved aside; in one of others that is for its owner to do.

use super::connection::RedisConnection;
use super::failure::Failure;
use crate::celery::{Client, MistypedKey};
use crate::run::{EventKind, Level, Recorder};

/// Looks at the types of the keys that a worker of these queues uses.
///
/// # Errors
/// One has a wrong type in a Redis of others. Where Redis cannot be asked nothing is known of its keys, and that is no error.
pub(super) async fn cure(
    client: &Client,
    connection: &RedisConnection,
    queues: &[String],
    recorder: &Recorder,
) -> Result<(), Failure> {
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
        match client.move_key_aside(&key).await {
            Ok(Some(name)) => recorder.emit(EventKind::Noticed {
                level: Level::Warning,
                message: format!(
                    "{key}; its value was moved aside to `{name}`, and what Celery had kept there is lost\n  hint:  find \
                     the program that writes `{}` in database {} of this Redis",
                    key.key, connection.broker_db
                ),
            }),
            Ok(None) => {}
            Err(error) => return Err(failure(&key, connection).because(format!("it could not be moved aside: {error}"))),
        }
    }
    Ok(())
}

fn failure(key: &MistypedKey, connection: &RedisConnection) -> Failure {
    let database = connection.broker_db;
    // By a socket or Sentinels whoever reads this knows how to connect.
    let place = match connection.host.as_str() {
        "" => format!("-n {database}"),
        host => format!("-h {host} -p {} -n {database}", connection.port),
    };
    Failure::infrastructure(format!("{key}"))
        .because("another program has written it: every worker that uses it ends with WRONGTYPE")
        .hint(format!(
            "find the program that writes it; `redis-cli {place} RENAME '{0}' '{0}.aside'` \
             moves it out of the way",
            key.key
        ))
        .lasting()
}
