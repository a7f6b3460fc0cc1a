//! Opener of connections to the current server of an endpoint.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::PushInfo;
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::limited_connection::Connection;
use super::resolver::ServerResolver;
use super::server_candidate::{PlainSocket, ServerCandidate};
use crate::error::{Error, Result};

/// Future of a new connection. The concrete type is hidden, because the nested futures would reach the compiler's depth
/// limit.
type OpenFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Opener of connections to the current server of one endpoint.
#[derive(Clone)]
pub(crate) struct RedisConnector {
    resolver: Arc<ServerResolver>,
}

impl RedisConnector {
    /// Creates the connector without connecting; reads the certificate files that the endpoint names.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self> {
        Ok(Self {
            resolver: Arc::new(ServerResolver::new(endpoint)?),
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.resolver.endpoint()
    }

    /// Starts the next connection attempt with another server: the current server accepts no writes or is unreachable.
    pub(crate) fn prefer_next_server(&self) {
        self.resolver.prefer_next_server();
    }

    /// Opens a dedicated connection for commands. The caller limits the time.
    pub(crate) fn open<'a>(&'a self, action: &'a str) -> OpenFuture<'a, Connection> {
        self.open_first(action, move |server| async move { server.open(action).await })
    }

    /// Opens a dedicated connection with `CLIENT TRACKING`: the receiver reports when another client changes a key that
    /// the caller has read over this connection. The receiver is `None` if the server does not report changes. The
    /// caller limits the time.
    pub(crate) fn open_tracking<'a>(
        &'a self,
        action: &'a str,
    ) -> OpenFuture<'a, (Connection, Option<mpsc::UnboundedReceiver<PushInfo>>)> {
        self.open_first(action, move |server| async move { server.open_tracking(action).await })
    }

    /// Opens a dedicated connection for subscriptions. The caller limits the time.
    pub(crate) fn open_pubsub<'a>(&'a self, action: &'a str) -> OpenFuture<'a, redis::aio::PubSub> {
        self.open_first(action, move |server| async move { server.open_pubsub(action).await })
    }

    /// Opens a socket to a server that may receive the password, and returns it with the server and its credentials.
    /// The socket is `None` if the library must open the socket, for TLS. The caller limits the time.
    pub(crate) fn open_socket<'a>(
        &'a self,
        action: &'a str,
    ) -> OpenFuture<'a, (Arc<ServerCandidate>, Option<PlainSocket>)> {
        self.open_first(action, move |server| async move {
            let socket = server.plain_socket(action).await?;
            Ok((server, socket))
        })
    }

    /// Opens a connection of any kind to the first server of the endpoint that can be used.
    fn open_first<'a, T, F>(
        &'a self,
        action: &'a str,
        open: impl Fn(Arc<ServerCandidate>) -> F + Send + 'a,
    ) -> OpenFuture<'a, T>
    where
        T: Send + 'a,
        F: Future<Output = Result<T>> + Send + 'a,
    {
        Box::pin(self.resolver.open_first(action, open))
    }

    pub(crate) fn error(&self, error: &redis::RedisError, action: &str) -> Error {
        Error::from_redis(error, action, self.endpoint())
    }

    pub(crate) fn deadline_error(&self, action: &str, after: Duration) -> Error {
        Error::deadline(action, self.endpoint(), after)
    }
}
