//! Connection of the Redis library with a limit on the size of each reply.

use std::sync::Arc;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, Value};
use tokio::task::AbortHandle;

use super::reply_limit::LimitViolation;

/// Connection of the library over a socket that limits the size of each reply. The connection closes with the last
/// clone, even if the server still owes an answer.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) inner: MultiplexedConnection,
    /// Reason why a reply was too large. Never set for TLS, where the library uses its own socket without the limit.
    pub(crate) excess: LimitViolation,
    pub(crate) _driver: Option<Arc<ConnectionDriver>>,
}

/// Task that transfers the bytes of a connection; dropping this handle ends the task.
pub(crate) struct ConnectionDriver(pub(crate) AbortHandle);

impl Drop for ConnectionDriver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}
