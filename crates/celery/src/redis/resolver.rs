//! Resolution of an endpoint to the current server: the first server of a list that answers, or the master that
//! Sentinels name.
//!
//! All connections of an endpoint share one resolver, so that they use the same server. Every new connection resolves
//! the endpoint again. So a failover needs no notification: connections to the old master break or their writes are
//! refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::endpoint::{Endpoint, ServerAccess};
use super::server_address::{Sentinels, ServerAddress};
use super::server_candidate::ServerCandidate;
use crate::error::{Error, Result};

/// Time limit for each server except the last, so that a silent server does not use up the time of the servers after
/// it.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Resolver of one endpoint to its servers.
pub(crate) struct ServerResolver {
    endpoint: Endpoint,
    /// Servers of the list, or the Sentinels.
    servers: Vec<Arc<ServerCandidate>>,
    /// Index of the server to try first, modulo the number of servers.
    preferred: AtomicUsize,
}

impl ServerResolver {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self> {
        let servers = match &endpoint.address {
            ServerAddress::Sentinel(sentinels) => sentinel_endpoints(sentinels),
            ServerAddress::Tcp { .. } | ServerAddress::Unix(_) => endpoint.each_server().collect(),
        };
        let servers: Result<Vec<_>> = servers
            .into_iter()
            .map(|server| ServerCandidate::new(server).map(Arc::new))
            .collect();
        Ok(Self {
            servers: servers?,
            endpoint,
            preferred: AtomicUsize::new(0),
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Makes further connections start with the next server of the list.
    pub(crate) fn prefer_next_server(&self) {
        self.preferred.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens a connection with `open` to the first server that can be used, and remembers the server. The error is that
    /// of the first failed server.
    pub(crate) async fn open_first<T, F: Future<Output = Result<T>>>(
        &self,
        action: &str,
        open: impl Fn(Arc<ServerCandidate>) -> F,
    ) -> Result<T> {
        let mut first_error = None;
        let mut servers = self.servers_to_try(action).await?;
        while let Some((index, server)) = servers.pop_front() {
            let error = match self.with_server_timeout(servers.is_empty(), open(server)).await {
                Ok(opened) => {
                    if !matches!(self.endpoint.address, ServerAddress::Sentinel(_)) {
                        self.preferred.store(index, Ordering::Relaxed);
                    }
                    return Ok(opened);
                }
                Err(error) => error,
            };
            if !error.is_transient() || servers.is_empty() {
                return Err(first_error.unwrap_or(error));
            }
            first_error.get_or_insert(error);
        }
        Err(Error::unreachable(
            "connect",
            &self.endpoint,
            "the address names no server",
        ))
    }

    /// Returns the servers for one connection in the order in which they are tried, with their indexes.
    async fn servers_to_try(&self, action: &str) -> Result<VecDeque<(usize, Arc<ServerCandidate>)>> {
        let first = self.preferred.load(Ordering::Relaxed) % self.servers.len().max(1);
        let in_order = (first..self.servers.len()).chain(0..first);
        let servers: VecDeque<_> = in_order
            .filter_map(|index| Some((index, Arc::clone(self.servers.get(index)?))))
            .collect();
        let ServerAddress::Sentinel(sentinels) = &self.endpoint.address else {
            return Ok(servers);
        };
        let master = self.master(action, sentinels, servers).await?;
        Ok(VecDeque::from([(0, Arc::new(master))]))
    }

    /// Waits for a connection with a time limit; for the last server only the caller limits the time.
    async fn with_server_timeout<T>(&self, is_last: bool, opening: impl Future<Output = Result<T>>) -> Result<T> {
        if is_last {
            return opening.await;
        }
        match timeout(SERVER_TIMEOUT, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::deadline("connect", &self.endpoint, SERVER_TIMEOUT)),
        }
    }

    /// Finds the master: asks one Sentinel after the other, and checks the role of the server that a Sentinel names.
    /// For a while after a failover a Sentinel may still name the old master.
    async fn master(
        &self,
        action: &str,
        sentinels: &Sentinels,
        servers: VecDeque<(usize, Arc<ServerCandidate>)>,
    ) -> Result<ServerCandidate> {
        let mut last = None;
        for (index, sentinel) in servers {
            let asked = async {
                let (host, port) = ask_sentinel(action, &sentinel, sentinels).await?;
                let master = ServerCandidate::new(Endpoint {
                    address: ServerAddress::Tcp {
                        host,
                        port,
                        tls: sentinels.tls.clone(),
                    },
                    alternatives: Vec::new(),
                    ..self.endpoint.clone()
                })?;
                check_role(action, &master).await?;
                Ok(master)
            };
            let found = match timeout(SERVER_TIMEOUT, asked).await {
                Ok(found) => found,
                Err(_) => Err(Error::deadline(action, sentinel.endpoint(), SERVER_TIMEOUT)),
            };
            match found {
                Ok(master) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(master);
                }
                // An error that a person must fix takes precedence over a transient error.
                Err(error) if last.as_ref().is_none_or(Error::is_transient) => last = Some(error),
                Err(_) => {}
            }
        }
        Err(last.unwrap_or_else(|| Error::unreachable(action, &self.endpoint, "the address names no Sentinel")))
    }
}

/// Returns the endpoints of the Sentinels, which have their own user and password and no databases.
fn sentinel_endpoints(sentinels: &Sentinels) -> Vec<Endpoint> {
    let endpoint = |(host, port): &(String, u16)| Endpoint {
        username: sentinels.username.clone(),
        password: sentinels.password.clone(),
        access: ServerAccess::AnyOwner,
        ..Endpoint::tcp(host.clone(), *port, 0)
    };
    sentinels.servers.iter().map(endpoint).collect()
}

async fn ask_sentinel(action: &str, sentinel: &ServerCandidate, sentinels: &Sentinels) -> Result<(String, u16)> {
    let action = format!("{action}: ask Sentinel for the master");
    let mut connection = sentinel.open(&action).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(&sentinels.master_name);
    let found: Option<(String, u16)> = ask
        .query_async(&mut connection)
        .await
        .map_err(|error| sentinel.error(&error, &action))?;
    found.ok_or_else(|| Error::Refused {
        action,
        endpoint: sentinel.endpoint().to_string(),
        reason: format!("the Sentinel knows no master named `{}`", sentinels.master_name),
    })
}

/// Refuses a server in another role than master. A server that refuses the command for lack of privileges counts as a
/// master.
async fn check_role(action: &str, master: &ServerCandidate) -> Result<()> {
    let mut connection = master.open(action).await?;
    let role: redis::RedisResult<Vec<redis::Value>> = redis::cmd("ROLE").query_async(&mut connection).await;
    let role = match role {
        Ok(role) => role
            .into_iter()
            .next()
            .and_then(|role| redis::from_redis_value::<String>(role).ok()),
        Err(error) if error.is_io_error() => return Err(master.error(&error, action)),
        Err(_) => None,
    };
    match role.as_deref() {
        None | Some("master") => Ok(()),
        Some(other) => Err(Error::NotServing {
            action: action.to_owned(),
            endpoint: master.endpoint().to_string(),
            reason: format!("a Sentinel names this server as the master, but its role is still {other}"),
        }),
    }
}
