//! The outage of a Redis that the run does not own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use orch_journal::failure::ServiceFailure;

/// A handle to the state of a Redis that the run does not own. Cheap to clone; clones share the state. The default is for a
/// run with a Redis of its own.
#[derive(Clone, Default)]
pub struct RedisOutage(Option<Arc<WatchedRedis>>);

struct WatchedRedis {
    /// The outage, after some time without an answer.
    failure: Mutex<Option<ServiceFailure>>,
    /// Counter that increases when Redis answers again, or was restarted.
    returns: watch::Sender<u64>,
}

impl RedisOutage {
    /// Returns a handle for a watch to fill.
    pub fn new() -> Self {
        Self(Some(Arc::new(WatchedRedis {
            failure: Mutex::default(),
            returns: watch::Sender::new(0),
        })))
    }

    pub(crate) fn set(&self, failure: ServiceFailure) {
        if let Some(state) = &self.0 {
            *state.failure() = Some(failure);
        }
    }

    pub(crate) fn end(&self) {
        if let Some(state) = &self.0 {
            *state.failure() = None;
            state.returns.send_modify(|returns| *returns += 1);
        }
    }

    /// Returns the outage, if one lasts longer than a short interruption.
    pub fn failure(&self) -> Option<ServiceFailure> {
        self.0.as_ref()?.failure().clone()
    }

    /// Subscribes to the counter of returns after an outage; `None` if Redis belongs to the run.
    pub fn returns(&self) -> Option<watch::Receiver<u64>> {
        Some(self.0.as_ref()?.returns.subscribe())
    }
}

impl WatchedRedis {
    fn failure(&self) -> MutexGuard<'_, Option<ServiceFailure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
