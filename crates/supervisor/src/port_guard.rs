//! The port of an owned Redis: held while Redis is down, open while Redis starts, watched as long as the port is open.
//!
//! A worker that lives during a restart of Redis connects to any program that listens there, and executes the tasks
//! from there. The kernel cannot open a port to one program only, so another user may be faster; then everything must
//! end at once.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::redis::connection::RedisConnection;
use orch_base::net::free_port::PortHold;
use orch_base::net::listener::listener;
use orch_journal::failure::ServiceFailure;

/// Interval between two looks at an open port.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// An alarm that another user listens on the port of an owned Redis.
#[derive(Debug, Default)]
pub struct PortAlarm {
    owner: Mutex<Option<String>>,
    raised: Notify,
}

impl PortAlarm {
    fn raise(&self, owner: String) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        self.raised.notify_one();
    }

    /// Waits until the alarm is raised; for ever if that does not happen. Returns the owner of the socket.
    pub async fn wait(&self) -> String {
        loop {
            if let Some(owner) = self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return owner;
            }
            self.raised.notified().await;
        }
    }
}

/// A guard that keeps other programs from the port.
pub(crate) struct PortGuard {
    hold: Mutex<Option<PortHold>>,
    alarm: Arc<PortAlarm>,
}

impl PortGuard {
    pub(crate) fn new(alarm: Arc<PortAlarm>) -> Self {
        Self {
            hold: Mutex::new(None),
            alarm,
        }
    }

    /// Opens the port for the server that starts now, and watches it for `timeout`.
    pub(crate) fn open(
        self: &Arc<Self>,
        connection: &RedisConnection,
        timeout: Duration,
    ) -> Result<(), ServiceFailure> {
        let (is_restart, opened) = {
            let mut hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
            match &*hold {
                Some(hold) => (true, hold.open()),
                None => {
                    let taken = PortHold::take(&connection.host, connection.port);
                    (false, taken.map(|taken| *hold = Some(taken)))
                }
            }
        };
        let listener = listener(&connection.host, connection.port);
        let reason = match (&listener, opened) {
            (Some(listener), _) => format!("it is held by {listener}"),
            (None, Ok(())) => {
                tokio::spawn(watch(Arc::downgrade(self), connection.clone(), timeout));
                return Ok(());
            }
            (None, Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
                "a process that does not listen holds it".to_owned()
            }
            (None, Err(error)) => error.to_string(),
        };
        self.close();
        if let Some(listener) = listener.filter(|listener| is_restart && !listener.is_trusted()) {
            self.alarm.raise(listener.to_string());
        }
        Err(taken(connection, reason))
    }

    /// Keeps all programs from binding the port.
    pub(crate) fn close(&self) {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = hold.as_ref().map(PortHold::close) {
            tracing::warn!(%error, "could not keep other programs from the port of Redis while Redis is down");
        }
    }
}

/// Describes that the port of an owned Redis is in use.
pub(crate) fn taken(connection: &RedisConnection, reason: String) -> ServiceFailure {
    ServiceFailure::infrastructure(format!("the port of Redis, {}, is taken", connection.address()))
        .with_cause(reason)
        .hint("`[redis] port = 0` chooses a free one at each start")
}

/// Watches an open port until a socket listens on it or the time of the server is over.
async fn watch(guard: Weak<PortGuard>, connection: RedisConnection, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    loop {
        let Some(guard) = guard.upgrade() else { return };
        match listener(&connection.host, connection.port) {
            Some(found) if !found.is_trusted() => {
                guard.close();
                guard.alarm.raise(found.to_string());
                return;
            }
            Some(_) => return guard.close(),
            None if Instant::now() >= deadline => return guard.close(),
            None => {}
        }
        drop(guard);
        sleep(POLL_INTERVAL).await;
    }
}
