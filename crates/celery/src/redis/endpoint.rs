//! Endpoint of a broker or a result backend: server, credentials and database.
//!
//! [`endpoint_url`](super::endpoint_url) reads endpoints from Celery's URLs,
//! [`celery_url`](super::celery_url) converts an endpoint back to a URL. Redis Cluster is not supported, because Celery
//! does not support it.

use std::fmt;
use std::path::PathBuf;

use super::server_address::{RedisPassword, ServerAddress};

/// Redis database: server, credentials and database number, with further servers to try if the URL is a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: ServerAddress,
    /// User name; `None` is the server's default user.
    pub username: Option<String>,
    pub password: Option<RedisPassword>,
    /// Database number.
    pub database: u32,
    /// Prefix of every key and channel, used unchanged; empty for none. For a broker the prefix is `global_keyprefix`
    /// of `broker_transport_options`, for a result backend that of `result_backend_transport_options`: Celery 5.5 and
    /// newer use that value unchanged, 5.3 and 5.4 add an underscore (include the underscore here), 5.2 ignores the
    /// option.
    pub key_prefix: String,
    /// Way to reach the server, and the check of the server's owner before a password is sent.
    pub access: ServerAccess,
    /// Servers to try in this order if the first cannot be used. Each has its own settings except for the key prefix.
    pub alternatives: Vec<Endpoint>,
}

/// Way to reach a server that has a TCP address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerAccess {
    /// By the address, without a check of the owner.
    #[default]
    AnyOwner,
    /// By the address, with a check of the owner: on this machine, a process of another user than the current user and
    /// root receives only a PING.
    TrustedOwner,
    /// By this Unix socket of the same server. If the socket file does not exist, for example because the server's
    /// directory was removed, by the address with the same check of the owner.
    UnixSocket(PathBuf),
}

/// Endpoints of the broker and the result backend, often two databases of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub broker: Endpoint,
    pub backend: Endpoint,
}

impl Endpoint {
    /// Creates the endpoint of a TCP server without credentials.
    pub fn tcp(host: impl Into<String>, port: u16, database: u32) -> Self {
        let address = ServerAddress::Tcp {
            host: host.into(),
            port,
            tls: None,
        };
        Self::new(address, database)
    }

    /// Creates the endpoint of any server without credentials.
    pub(crate) fn new(address: ServerAddress, database: u32) -> Self {
        Self {
            address,
            username: None,
            password: None,
            database,
            key_prefix: String::new(),
            access: ServerAccess::AnyOwner,
            alternatives: Vec::new(),
        }
    }

    /// Sets the password.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(RedisPassword::new(password));
        self
    }

    /// Returns each server of the endpoint as an endpoint of its own.
    pub fn each_server(&self) -> impl Iterator<Item = Self> {
        let first = Self {
            alternatives: Vec::new(),
            ..self.clone()
        };
        std::iter::once(first).chain(self.alternatives.iter().cloned())
    }
}

/// Name of the database without credentials: `127.0.0.1:6379/0`.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.database)?;
        self.alternatives
            .iter()
            .try_for_each(|other| write!(formatter, ", {other}"))
    }
}
