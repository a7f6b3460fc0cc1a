//! What is known of shared workers, for those who follow jobs.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};

use super::task_holders::TaskHolders;
use crate::celery::{NodeName, TaskId};
use crate::services::Failure;

/// A time in which no worker consumes the queues of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// For people, on one line.
    pub reason: String,
    /// Nobody is waited for any more.
    pub is_final: bool,
}

/// A worker that has died.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadWorker {
    pub node: NodeName,
    pub pid: u32,
    /// When its process was seen to have ended, in unix seconds; `None`: it fell silent, which proves nothing.
    pub seen_at: Option<f64>,
}

/// Cheap to clone; clones share what is known. The default knows of no shared worker.
#[derive(Clone, Default)]
pub struct SharedWorkers(Option<Arc<SharedState>>);

struct SharedState {
    holders: TaskHolders,
    /// Dispatch tasks of the jobs of this run: the roots of all their tasks.
    jobs: Mutex<HashSet<TaskId>>,
    /// Workers that live, whether they answer or not.
    living: Mutex<BTreeSet<NodeName>>,
    absence: watch::Sender<Option<Absence>>,
    dead: mpsc::UnboundedSender<DeadWorker>,
    /// Redis does not answer for some time.
    redis_away: Mutex<Option<Failure>>,
    /// Rises when Redis answers again, or was started anew.
    redis_returns: watch::Sender<u64>,
}

impl SharedWorkers {
    /// A handle to be filled by a watch, and where the dead are reported.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<DeadWorker>) {
        // Bounded by the number of workers that die.
        let (dead, receiver) = mpsc::unbounded_channel();
        let state = SharedState {
            holders: TaskHolders::default(),
            jobs: Mutex::default(),
            living: Mutex::default(),
            absence: watch::Sender::new(None),
            dead,
            redis_away: Mutex::default(),
            redis_returns: watch::Sender::new(0),
        };
        (Self(Some(Arc::new(state))), receiver)
    }

    /// `node` has taken a task.
    pub fn took(&self, node: &str, task: &TaskId) {
        if let Some(state) = &self.0 {
            state.holders.took(node, task);
        }
    }

    /// A task has ended, or is on its queue again.
    pub fn let_go(&self, task: &TaskId) {
        if let Some(state) = &self.0 {
            state.holders.let_go(task);
        }
    }

    /// Events were missed; whether anybody wants to know what workers hold.
    pub fn forget_holders(&self) -> bool {
        let Some(state) = &self.0 else { return false };
        state.holders.forget();
        true
    }

    /// The tasks that a dead worker held, as far as they are known.
    pub fn take_tasks_of(&self, node: &NodeName) -> HashSet<TaskId> {
        let state = self.0.as_ref();
        state.map(|state| state.holders.take_of(node)).unwrap_or_default()
    }

    /// The run follows the job of this dispatch task.
    pub fn follows(&self, root: &TaskId) {
        if let Some(state) = &self.0 {
            state.jobs().insert(root.clone());
        }
    }

    /// The dispatch tasks of all jobs that the run has followed.
    pub fn jobs(&self) -> HashSet<TaskId> {
        self.0.as_ref().map(|state| state.jobs().clone()).unwrap_or_default()
    }

    /// Workers that live, whether they answer or not, as far as they are known.
    pub fn living(&self) -> BTreeSet<NodeName> {
        self.0.as_ref().map(|state| state.living().clone()).unwrap_or_default()
    }

    /// A living worker that is not among `answered`: it may hold anything.
    pub fn living_beyond(&self, answered: &BTreeSet<NodeName>) -> Option<NodeName> {
        let state = self.0.as_ref()?;
        state.living().difference(answered).next().cloned()
    }

    pub(super) fn set_living(&self, nodes: BTreeSet<NodeName>) {
        if let Some(state) = &self.0 {
            *state.living() = nodes;
        }
    }

    pub(super) fn set_absence(&self, absence: Option<Absence>) {
        if let Some(state) = &self.0 {
            state.absence.send_if_modified(|before| {
                let changed = *before != absence;
                *before = absence;
                changed
            });
        }
    }

    pub(super) fn report_dead(&self, worker: DeadWorker) {
        if let Some(state) = &self.0 {
            // Who put messages back has ended with the run.
            drop(state.dead.send(worker));
        }
    }

    /// Waits until no worker consumes the queues of the run, or none will any more (`is_final`); for ever where workers are
    /// not shared. Safe to cancel.
    pub async fn absent(&self, is_final: bool) -> Absence {
        let Some(state) = &self.0 else {
            return std::future::pending().await;
        };
        let mut absence = state.absence.subscribe();
        let wanted = |absence: &Option<Absence>| absence.as_ref().is_some_and(|absence| absence.is_final || !is_final);
        match absence.wait_for(wanted).await.map(|absence| absence.clone()) {
            Ok(Some(absence)) => absence,
            // The sender is ours.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn set_redis_away(&self, failure: Failure) {
        if let Some(state) = &self.0 {
            *state.redis_away() = Some(failure);
        }
    }

    /// The outage of Redis, while there is one that is no blink.
    pub fn redis_away(&self) -> Option<Failure> {
        self.0.as_ref()?.redis_away().clone()
    }

    pub(super) fn redis_returned(&self) {
        if let Some(state) = &self.0 {
            *state.redis_away() = None;
            state.redis_returns.send_modify(|returns| *returns += 1);
        }
    }

    /// Rises when Redis answers again after an outage; `None` where it is the run's own.
    pub fn redis_returns(&self) -> Option<watch::Receiver<u64>> {
        Some(self.0.as_ref()?.redis_returns.subscribe())
    }

    /// Waits until a worker consumes the queues again.
    pub async fn present(&self) {
        if let Some(state) = &self.0 {
            state.absence.subscribe().wait_for(Option::is_none).await.ok();
        }
    }
}

impl SharedState {
    fn redis_away(&self) -> MutexGuard<'_, Option<Failure>> {
        self.redis_away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn living(&self) -> MutexGuard<'_, BTreeSet<NodeName>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_living_worker_that_has_not_answered_may_hold_anything() {
        let nodes = |names: &[&str]| -> BTreeSet<NodeName> { names.iter().map(|name| NodeName::from(*name)).collect() };
        let (shared, _dead) = SharedWorkers::new();
        assert_eq!(shared.living_beyond(&nodes(&[])), None);
        shared.set_living(nodes(&["a", "b"]));
        assert_eq!(shared.living_beyond(&nodes(&["a", "c"])), Some(NodeName::from("b")));
        assert_eq!(shared.living_beyond(&nodes(&["a", "b"])), None);
        assert_eq!(
            SharedWorkers::default().living_beyond(&nodes(&[])),
            None,
            "none is shared"
        );
    }

    #[test]
    fn an_absence_is_named_before_it_is_final_and_ends_with_the_next_worker() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (shared, _dead) = SharedWorkers::new();
            let soon = Duration::from_millis(20);
            let absence = |is_final| Absence {
                reason: "none".to_owned(),
                is_final,
            };
            assert!(tokio::time::timeout(soon, shared.absent(false)).await.is_err());
            shared.set_absence(Some(absence(false)));
            assert_eq!(shared.absent(false).await, absence(false));
            assert!(tokio::time::timeout(soon, shared.absent(true)).await.is_err());
            shared.set_absence(Some(absence(true)));
            assert_eq!(shared.absent(true).await, absence(true));
            assert!(tokio::time::timeout(soon, shared.present()).await.is_err());
            shared.set_absence(None);
            shared.present().await;
        });
    }
}
