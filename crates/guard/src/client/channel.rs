//! The channel between the owner's threads and the guard: the socket for orders, and the facts that the guard has
//! reported.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::error::Error;
use crate::protocol::{GuardOrder, StopPlan};

/// The facts that the guard has reported.
#[derive(Default)]
pub struct GuardState {
    /// Stop plans of living services.
    pub plans: BTreeMap<String, StopPlan>,
    /// Stop plans of services that are being started: a stop that begins now must wait long enough for them.
    pub starting: BTreeMap<String, StopPlan>,
    /// Main processes, by service, of services of which something may be alive; each is the session of the service's
    /// processes.
    pub main_pids: BTreeMap<String, i32>,
    pub all_gone: bool,
    /// The stop took too long, and orch has killed the guard.
    pub is_given_up: bool,
    /// The socket is closed.
    pub closed: bool,
    /// The reason why processes may be left although the guard is gone.
    pub unsure: Option<String>,
}

/// The socket to the guard, and the facts that came from there.
pub struct GuardChannel {
    pub socket: Mutex<UnixStream>,
    pub known: Mutex<GuardState>,
    pub changed: Condvar,
}

/// Locks a mutex, also after a panic of another holder.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuardChannel {
    /// Returns the channel over this socket; nothing is reported yet.
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket: Mutex::new(socket),
            known: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Sends an order when the orders of other threads are written.
    pub fn send(&self, order: &GuardOrder) -> Result<(), Error> {
        send(&lock(&self.socket), order)
    }

    /// Waits until no other thread writes an order; `None` if that takes longer.
    pub fn turn_within(&self, timeout: Duration) -> Option<MutexGuard<'_, UnixStream>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.socket.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(1)),
            }
        }
    }

    /// Waits until the reports have led to a state; returns true if they have.
    pub fn wait_until(&self, timeout: Duration, done: impl Fn(&GuardState) -> bool) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.known), timeout, |known| !done(known));
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// Writes one order.
pub fn send(mut socket: &UnixStream, order: &GuardOrder) -> Result<(), Error> {
    let mut line = serde_json::to_vec(order).map_err(|error| Error::Spawn(error.to_string()))?;
    line.push(b'\n');
    socket.write_all(&line).map_err(|_| Error::Gone)
}
