//! The comparison of a worker's broker with the Redis that orch uses.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::log::BrokerAddress;
use crate::redis::connection::RedisConnection;
use orch_journal::failure::ServiceFailure;

/// Longest time for resolving two host names.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the failure of a worker that uses another broker than orch.
pub fn wrong_broker(connection: &RedisConnection, log: &Path, there: &dyn Display) -> ServiceFailure {
    ServiceFailure::configuration(format!("the worker uses another broker than orch: {there}"))
        .with_cause(format!(
            "orch's Redis is {}; the app does not take its URL from the environment",
            own_broker(connection)
        ))
        .with_log(log)
        .hint(
            "let the app read CELERY_BROKER_URL (or REDIS_HOST and REDIS_PORT), or configure `[redis]` to its address",
        )
}

/// Returns true if a broker is not the Redis that orch uses. Another name of the same host is not another server.
pub async fn is_elsewhere(connection: &RedisConnection, there: &BrokerAddress) -> bool {
    let addresses = async |address: &BrokerAddress| -> BTreeSet<SocketAddr> {
        let found = tokio::net::lookup_host((address.host.as_str(), address.port));
        match tokio::time::timeout(LOOK_UP_TIMEOUT, found).await {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(_)) | Err(_) => BTreeSet::new(),
        }
    };
    let here = connection.broker_addresses();
    if here.is_empty() || here.iter().any(|here| there.is_same_database(here)) {
        return false;
    }
    for here in here
        .iter()
        .filter(|here| (there.port, there.db) == (here.port, here.db))
    {
        let (other, own) = tokio::join!(addresses(there), addresses(here));
        if !other.is_disjoint(&own) {
            return false;
        }
    }
    true
}

fn own_broker(connection: &RedisConnection) -> String {
    let here: Vec<String> = connection.broker_addresses().iter().map(ToString::to_string).collect();
    match here.is_empty() {
        true => connection.address(),
        false => here.join(", "),
    }
}
