//! A watch for a second worker with the node name of a used worker; the checks run during liveness probes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::shared::SharedName;
use orch_celery::{Client, NodeName};
use orch_journal::SharedNodeName;

/// Interval between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait for answers: workers with the same name answer within a few milliseconds of each other.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A watch for a shared node name.
#[derive(Default)]
pub(crate) struct NameWatch(Mutex<NameState>);

#[derive(Default)]
struct NameState {
    looked_at: Option<Instant>,
    shared: Option<SharedName>,
}

/// A shared name that a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundShared {
    /// A description for people, on one line.
    pub reason: String,
    /// The previous check did not find the name shared.
    pub is_new: bool,
}

impl NameWatch {
    /// Checks the name if a check is due; otherwise returns the last result.
    pub async fn check(&self, client: &Client, node: &NodeName) -> Option<FoundShared> {
        let is_due = self
            .state()
            .looked_at
            .is_none_or(|last| last.elapsed() >= CHECK_INTERVAL);
        let mut is_new = false;
        if is_due {
            let shared = SharedName::of(client, node, ANSWER_TIMEOUT).await;
            let mut state = self.state();
            is_new = shared.is_some() && state.shared.is_none();
            state.looked_at = Some(Instant::now());
            state.shared = shared;
        }
        let shared = self.state().shared.clone()?;
        Some(FoundShared {
            reason: format!("{shared}; {}", SharedNodeName::ADVICE),
            is_new,
        })
    }

    fn state(&self) -> MutexGuard<'_, NameState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
