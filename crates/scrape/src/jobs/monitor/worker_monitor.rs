//! The monitor itself: the facts that its parts share, and the questions about them that need no request.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::queue_watch::QueueWatch;
use crate::jobs::context::JobContext;
use crate::jobs::crash_loops::CrashCounts;
use crate::jobs::task_index::{TaskIndex, TaskOwner};
use orch_celery::{EventStream, NodeName, RemoteControl, TaskExecution, TaskId, UnfinishedTasks};

/// Time that workers have to answer a control command.
pub(super) const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Subscribers of each job, looked up with each event.
pub(super) type JobSubscribers = foldhash::HashMap<TaskId, Arc<Notify>>;

/// Facts from events; both parts are consulted with each event.
#[derive(Default)]
pub(super) struct TaskRecords {
    pub task_index: TaskIndex,
    pub crashes: CrashCounts,
}

/// Observer of the workers and events of all jobs that are followed at one time.
pub struct WorkerMonitor {
    pub(super) context: JobContext,
    pub(super) records: Mutex<TaskRecords>,
    pub(super) subscribers: Mutex<JobSubscribers>,
    /// Queues in which tasks may wait: those that are configured, published to, or consumed by any worker.
    pub(super) queues: Mutex<BTreeSet<String>>,
    pub(super) slots: AtomicU64,
    /// Events were missed: shared workers must be asked which tasks they hold.
    pub(super) are_holders_unknown: AtomicBool,
    pub(super) workers_changed: Notify,
    /// Connections broke, or a worker died.
    pub(super) disrupted: Notify,
    /// Workers still list tasks of a job that is searched for.
    pub(super) stale_poll_due: Notify,
    /// A worker has put a task back on the queue.
    pub(super) put_back: Notify,
    /// Tasks that must not run at any worker: workers forget revocations when they restart, or were not there to
    /// receive them.
    pub(super) banned: Mutex<BTreeSet<TaskId>>,
    pub(super) bans_due: Notify,
    /// Processes of each worker's pool.
    pub(super) pools: Mutex<HashMap<NodeName, HashSet<u32>>>,
    /// The last census, the time at which the census began, and whether all queues were searched.
    pub(super) census: tokio::sync::Mutex<Option<(Instant, bool, Arc<UnfinishedTasks>)>>,
    pub(super) queue_watch: Mutex<QueueWatch>,
    pub(super) stream: tokio::sync::Mutex<Option<EventStream>>,
}

impl WorkerMonitor {
    pub(super) fn control(&self) -> RemoteControl {
        self.context.celery.control()
    }

    pub(super) fn stale_executions(&self) -> HashSet<TaskExecution> {
        self.context.stale_executions.all()
    }

    pub(super) fn owner(&self, task: &TaskId) -> TaskOwner {
        self.records().task_index.owner(task)
    }

    /// Returns the pool slots of all workers that answered last, without workers that execute the tasks of one site
    /// only; 0 if no worker ever answered.
    pub fn slots(&self) -> u64 {
        self.slots.load(Ordering::Relaxed)
    }

    /// Returns the tasks of a job that a worker has taken and that have not ended, also after the end of the
    /// subscription.
    pub fn unfinished(&self, root: &TaskId) -> Vec<TaskId> {
        self.records().task_index.unfinished(root)
    }

    pub(super) fn banned(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        self.banned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the queues in which tasks may wait, as far as they are known by now.
    pub fn queues_to_search(&self) -> BTreeSet<String> {
        self.queues().clone()
    }

    /// Adds queues to which tasks are published.
    pub fn watch_queues(&self, queues: impl IntoIterator<Item = String>) {
        self.queues().extend(queues);
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn records(&self) -> MutexGuard<'_, TaskRecords> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pools(&self) -> MutexGuard<'_, HashMap<NodeName, HashSet<u32>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribers(&self) -> MutexGuard<'_, JobSubscribers> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue_watch(&self) -> MutexGuard<'_, QueueWatch> {
        self.queue_watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first tasks of all jobs that are followed.
    pub(super) fn roots(&self) -> HashSet<TaskId> {
        self.subscribers().keys().cloned().collect()
    }
}
