//! The port of an owned Redis: held while it is away, open while it starts, watched as long as it is open.
//!
//! A worker that lives while its Redis is started again connects to whoever listens there, and executes what it is given.
//! The kernel has no way to open a port to one program only, so another user can be faster; then all has to end at once.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::connection::RedisConnection;
use super::failure::Failure;
use super::listener::listener;
use crate::free_port::Hold;

/// Between two looks at an open port.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Says that another user listens where an owned Redis should.
#[derive(Debug, Default)]
pub struct PortAlarm {
    whose: Mutex<Option<String>>,
    raised: Notify,
}

impl PortAlarm {
    fn raise(&self, whose: String) {
        *self.whose.lock().unwrap_or_else(PoisonError::into_inner) = Some(whose);
        self.raised.notify_one();
    }

    /// Waits until it is raised, for ever if it is not; names who is there.
    pub async fn wait(&self) -> String {
        loop {
            if let Some(whose) = self.whose.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return whose;
            }
            self.raised.notified().await;
        }
    }
}

/// Keeps others from the port.
pub(super) struct PortGuard {
    hold: Mutex<Option<Hold>>,
    alarm: Arc<PortAlarm>,
}

impl PortGuard {
    pub(super) fn new(alarm: Arc<PortAlarm>) -> Self {
        Self {
            hold: Mutex::new(None),
            alarm,
        }
    }

    /// Makes sure that the port can be bound by the server that starts now, within `patience`.
    pub(super) fn open(self: &Arc<Self>, connection: &RedisConnection, patience: Duration) -> Result<(), Failure> {
        let (is_restart, opened) = {
            let mut hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
            match &*hold {
                Some(hold) => (true, hold.open()),
                None => {
                    let taken = Hold::take(&connection.host, connection.port);
                    (false, taken.map(|taken| *hold = Some(taken)))
                }
            }
        };
        let listener = listener(&connection.host, connection.port);
        let reason = match (&listener, opened) {
            (Some(listener), _) => format!("it is held by {listener}"),
            (None, Ok(())) => {
                tokio::spawn(watch(Arc::downgrade(self), connection.clone(), patience));
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

    /// Lets nobody bind the port any more.
    pub(super) fn close(&self) {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = hold.as_ref().map(Hold::close) {
            tracing::warn!(%error, "the port of Redis is not kept from others while Redis is away");
        }
    }
}

/// The port of an owned Redis cannot be had.
pub(super) fn taken(connection: &RedisConnection, reason: String) -> Failure {
    Failure::infrastructure(format!("the port of Redis, {}, is taken", connection.address()))
        .because(reason)
        .hint("`[redis] port = 0` chooses a free one at each start")
}

/// Looks who comes to an open port, until somebody has or the server has had its time.
async fn watch(guard: Weak<PortGuard>, connection: RedisConnection, patience: Duration) {
    let deadline = Instant::now() + patience;
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
