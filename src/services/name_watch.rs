//! Whether another worker has taken the name of one that is in use, looked at from one liveness probe to the next.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::celery::{Client, NodeName};
use crate::shared_services::SharedName;

/// From one look to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Workers of one name answer within a few milliseconds of each other; others are not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Default)]
pub(super) struct NameWatch(Mutex<NameState>);

#[derive(Default)]
struct NameState {
    looked_at: Option<Instant>,
    shared: Option<SharedName>,
}

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundShared {
    /// For people, on one line.
    pub reason: String,
    /// It was not so at the last look.
    pub is_news: bool,
}

impl NameWatch {
    /// Looks, if that is due; what was found last stays so until then.
    pub async fn look(&self, client: &Client, node: &NodeName) -> Option<FoundShared> {
        let is_due = self
            .state()
            .looked_at
            .is_none_or(|last| last.elapsed() >= LOOK_INTERVAL);
        let mut is_news = false;
        if is_due {
            let shared = SharedName::of(client, node, ANSWER_TIMEOUT).await;
            let mut state = self.state();
            is_news = shared.is_some() && state.shared.is_none();
            state.looked_at = Some(Instant::now());
            state.shared = shared;
        }
        let shared = self.state().shared.clone()?;
        Some(FoundShared {
            reason: format!("{shared}; {}", SharedName::CURE),
            is_news,
        })
    }

    fn state(&self) -> MutexGuard<'_, NameState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
