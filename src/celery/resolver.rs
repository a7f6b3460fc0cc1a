//! Which server an endpoint means now: the one of a list that answers, or the master that Sentinels name.
//!
//! All connections of an endpoint share one resolver, so that they go to one server. Every connection that is opened asks
//! anew: a failover needs no other notice than that the connections to the old master break or are refused writes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::candidate::Candidate;
use super::endpoint::{Access, Address};
use super::sentinel::Sentinels;
use super::{Endpoint, Error, Result};

/// For each server but the last: one that is silent must not take the time of those behind it.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds the servers of one endpoint.
pub(super) struct Resolver {
    endpoint: Endpoint,
    /// The servers of a list, or the Sentinels.
    servers: Vec<Arc<Candidate>>,
    /// The place of the one to try first.
    preferred: AtomicUsize,
}

impl Resolver {
    pub(super) fn new(endpoint: Endpoint) -> Result<Self> {
        let servers = match &endpoint.address {
            Address::Sentinel(sentinels) => sentinel_endpoints(sentinels),
            Address::Tcp { .. } | Address::Unix(_) => endpoint.each().collect(),
        };
        let servers: Result<Vec<_>> = servers
            .into_iter()
            .map(|server| Candidate::new(server).map(Arc::new))
            .collect();
        Ok(Self {
            servers: servers?,
            endpoint,
            preferred: AtomicUsize::new(0),
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Begins with the next server of a list from now on.
    pub(super) fn distrust(&self) {
        self.preferred.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the servers to try for one connection.
    pub(super) async fn trial(&self, action: &str) -> Result<Trial<'_>> {
        let first = self.preferred.load(Ordering::Relaxed) % self.servers.len().max(1);
        let in_order = (first..self.servers.len()).chain(0..first);
        let mut servers: VecDeque<(usize, Arc<Candidate>)> = in_order
            .filter_map(|index| Some((index, Arc::clone(self.servers.get(index)?))))
            .collect();
        if let Address::Sentinel(sentinels) = &self.endpoint.address {
            let master = self.master(action, sentinels, servers).await?;
            servers = VecDeque::from([(0, Arc::new(master))]);
        }
        Ok(Trial {
            resolver: self,
            servers,
            current: 0,
            error: None,
        })
    }

    /// Asks one Sentinel after the other, and the server that it names whether it is the master: for a while after a
    /// failover a Sentinel may still name the old one.
    async fn master(
        &self,
        action: &str,
        sentinels: &Sentinels,
        servers: VecDeque<(usize, Arc<Candidate>)>,
    ) -> Result<Candidate> {
        let mut last = None;
        for (index, sentinel) in servers {
            let asked = async {
                let (host, port) = ask_sentinel(action, &sentinel, sentinels).await?;
                let master = Candidate::new(Endpoint {
                    address: Address::Tcp {
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
                Err(_) => Err(Error::Deadline {
                    action: action.to_owned(),
                    endpoint: sentinel.endpoint().to_string(),
                    after: SERVER_TIMEOUT,
                }),
            };
            match found {
                Ok(master) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(master);
                }
                // What a person must mend is said before what may pass.
                Err(error) if last.as_ref().is_none_or(Error::is_transient) => last = Some(error),
                Err(_) => {}
            }
        }
        Err(last.unwrap_or_else(|| unreachable(action, &self.endpoint, "no Sentinel is named".to_owned())))
    }
}

/// The servers that are tried for one connection.
pub(super) struct Trial<'a> {
    resolver: &'a Resolver,
    servers: VecDeque<(usize, Arc<Candidate>)>,
    current: usize,
    error: Option<Error>,
}

impl Trial<'_> {
    /// Gives the next server, or the error of the first that was tried.
    pub(super) fn next(&mut self) -> Result<Arc<Candidate>> {
        match (self.servers.pop_front(), self.error.take()) {
            (Some((index, candidate)), error) => {
                self.current = index;
                self.error = error;
                Ok(candidate)
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(unreachable(
                "connect",
                self.resolver.endpoint(),
                "no server is named".to_owned(),
            )),
        }
    }

    /// Waits for a connection: for the last server as long as the caller does.
    pub(super) async fn bounded<T>(&self, opening: impl Future<Output = Result<T>>) -> Result<T> {
        if self.servers.is_empty() {
            return opening.await;
        }
        match timeout(SERVER_TIMEOUT, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::Deadline {
                action: "connect".to_owned(),
                endpoint: self.resolver.endpoint().to_string(),
                after: SERVER_TIMEOUT,
            }),
        }
    }

    /// Remembers the server that works; `None` where the next one is to be tried.
    pub(super) fn judge<T>(&mut self, opened: Result<T>) -> Result<Option<T>> {
        match opened {
            Ok(opened) => {
                if !matches!(self.resolver.endpoint.address, Address::Sentinel(_)) {
                    self.resolver.preferred.store(self.current, Ordering::Relaxed);
                }
                Ok(Some(opened))
            }
            Err(error) if error.is_transient() && !self.servers.is_empty() => {
                self.error.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(self.error.take().unwrap_or(error)),
        }
    }
}

fn unreachable(action: &str, endpoint: &Endpoint, reason: String) -> Error {
    Error::Unreachable {
        action: action.to_owned(),
        endpoint: endpoint.to_string(),
        reason,
    }
}

/// The Sentinels as servers: they have a user and a password of their own, and no databases.
fn sentinel_endpoints(sentinels: &Sentinels) -> Vec<Endpoint> {
    let endpoint = |(host, port): &(String, u16)| Endpoint {
        username: sentinels.username.clone(),
        password: sentinels.password.clone(),
        access: Access::Address,
        ..Endpoint::tcp(host.clone(), *port, 0)
    };
    sentinels.servers.iter().map(endpoint).collect()
}

async fn ask_sentinel(action: &str, sentinel: &Candidate, sentinels: &Sentinels) -> Result<(String, u16)> {
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
        reason: format!("it knows no master named `{}`", sentinels.master_name),
    })
}

/// Refuses a server that says it is none. One that does not say, for want of privileges, is taken for one.
async fn check_role(action: &str, master: &Candidate) -> Result<()> {
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
        Some(other) => Err(Error::NotMaster {
            action: action.to_owned(),
            endpoint: master.endpoint().to_string(),
            reason: format!("Sentinel names it as the master, it is a {other} yet"),
        }),
    }
}
