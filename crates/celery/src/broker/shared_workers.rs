//! The known data about workers that another program owns: which of them live, which tasks they hold, and whether one
//! consumes.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};

use super::task_holders::TaskHolders;
use crate::wire::ids::{NodeName, TaskId};

/// A time in which no worker consumes the queues of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerAbsence {
    /// The reason for people, on one line.
    pub reason: String,
    /// The wait for workers is over.
    pub is_final: bool,
}

/// A worker that has died.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadWorker {
    pub node: NodeName,
    pub pid: u32,
    /// Time at which the process ended, in Unix seconds; `None`: the worker stopped answering, which proves nothing.
    pub seen_at: Option<f64>,
}

/// A handle to the data about shared workers. Cheap to clone; clones share the data. The default has no shared worker.
#[derive(Clone, Default)]
pub struct SharedWorkers(Option<Arc<SharedState>>);

struct SharedState {
    holders: TaskHolders,
    /// Dispatch tasks of the jobs that are followed: the roots of all their tasks.
    jobs: Mutex<HashSet<TaskId>>,
    /// Living workers, whether they answer or not.
    living: Mutex<BTreeSet<NodeName>>,
    absence: watch::Sender<Option<WorkerAbsence>>,
    dead: mpsc::UnboundedSender<DeadWorker>,
}

impl SharedWorkers {
    /// Returns a handle for a watch to fill, and the receiver of dead workers.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<DeadWorker>) {
        // The queue is bounded by the number of workers that die.
        let (dead, receiver) = mpsc::unbounded_channel();
        let state = SharedState {
            holders: TaskHolders::default(),
            jobs: Mutex::default(),
            living: Mutex::default(),
            absence: watch::Sender::new(None),
            dead,
        };
        (Self(Some(Arc::new(state))), receiver)
    }

    /// Records that `node` has taken a task.
    pub fn record_taken(&self, node: &str, task: &TaskId) {
        if let Some(state) = &self.0 {
            state.holders.record_taken(node, task);
        }
    }

    /// Records that a task has ended, or is in the queue again.
    pub fn record_released(&self, task: &TaskId) {
        if let Some(state) = &self.0 {
            state.holders.record_released(task);
        }
    }

    /// Clears all holders after missed events; returns true if workers are shared, so that their tasks have to be read
    /// again.
    pub fn forget_holders(&self) -> bool {
        let Some(state) = &self.0 else { return false };
        state.holders.forget();
        true
    }

    /// Removes and returns the tasks that a dead worker held, as far as they are known.
    pub fn take_tasks_of(&self, node: &NodeName) -> HashSet<TaskId> {
        let state = self.0.as_ref();
        state.map(|state| state.holders.take_tasks_of(node)).unwrap_or_default()
    }

    /// Records that this program follows the job of this dispatch task.
    pub fn record_job(&self, root: &TaskId) {
        if let Some(state) = &self.0 {
            state.jobs().insert(root.clone());
        }
    }

    /// Returns the dispatch tasks of all jobs that this program has followed.
    pub fn jobs(&self) -> HashSet<TaskId> {
        self.0.as_ref().map(|state| state.jobs().clone()).unwrap_or_default()
    }

    /// Returns the known living workers, whether they answer or not.
    pub fn living(&self) -> BTreeSet<NodeName> {
        self.0.as_ref().map(|state| state.living().clone()).unwrap_or_default()
    }

    /// Returns a living worker that is not among `answered`; such a worker may hold any task.
    pub fn living_without_answer(&self, answered: &BTreeSet<NodeName>) -> Option<NodeName> {
        let state = self.0.as_ref()?;
        state.living().difference(answered).next().cloned()
    }

    /// Sets the living workers.
    pub fn set_living(&self, nodes: BTreeSet<NodeName>) {
        if let Some(state) = &self.0 {
            *state.living() = nodes;
        }
    }

    /// Sets or ends the absence of workers.
    pub fn set_absence(&self, absence: Option<WorkerAbsence>) {
        if let Some(state) = &self.0 {
            state.absence.send_if_modified(|before| {
                let changed = *before != absence;
                *before = absence;
                changed
            });
        }
    }

    /// Reports a worker that has died to the receiver of [`Self::new`].
    pub fn report_dead(&self, worker: DeadWorker) {
        if let Some(state) = &self.0 {
            // Without the receiver nobody puts messages back.
            drop(state.dead.send(worker));
        }
    }

    /// Waits until no worker consumes the queues of this program, or until the wait for one is over (`is_final`);
    /// for ever if workers are not shared. Safe to cancel.
    pub async fn until_absent(&self, is_final: bool) -> WorkerAbsence {
        let Some(state) = &self.0 else {
            return std::future::pending().await;
        };
        let mut absence = state.absence.subscribe();
        let wanted =
            |absence: &Option<WorkerAbsence>| absence.as_ref().is_some_and(|absence| absence.is_final || !is_final);
        match absence.wait_for(wanted).await.map(|absence| absence.clone()) {
            Ok(Some(absence)) => absence,
            // This handle owns the sender, so the channel never closes.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until a worker consumes the queues again.
    pub async fn until_present(&self) {
        if let Some(state) = &self.0 {
            state.absence.subscribe().wait_for(Option::is_none).await.ok();
        }
    }
}

impl SharedState {
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
        assert_eq!(shared.living_without_answer(&nodes(&[])), None);
        shared.set_living(nodes(&["a", "b"]));
        assert_eq!(
            shared.living_without_answer(&nodes(&["a", "c"])),
            Some(NodeName::from("b"))
        );
        assert_eq!(shared.living_without_answer(&nodes(&["a", "b"])), None);
        assert_eq!(
            SharedWorkers::default().living_without_answer(&nodes(&[])),
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
            let absence = |is_final| WorkerAbsence {
                reason: "none".to_owned(),
                is_final,
            };
            assert!(tokio::time::timeout(soon, shared.until_absent(false)).await.is_err());
            shared.set_absence(Some(absence(false)));
            assert_eq!(shared.until_absent(false).await, absence(false));
            assert!(tokio::time::timeout(soon, shared.until_absent(true)).await.is_err());
            shared.set_absence(Some(absence(true)));
            assert_eq!(shared.until_absent(true).await, absence(true));
            assert!(tokio::time::timeout(soon, shared.until_present()).await.is_err());
            shared.set_absence(None);
            shared.until_present().await;
        });
    }
}
