//! Subscription of a follower to its job: the facts of the job that events have shown, and the news of further events.

use std::sync::Arc;

use tokio::sync::Notify;

use super::worker_monitor::WorkerMonitor;
use crate::jobs::event_end::EventEnd;
use crate::jobs::failures::failure_log::FailureLog;
use crate::jobs::inputs::TaskTally;
use crate::jobs::inventory::EventTasks;
use crate::jobs::signals::ChunkEnd;
use orch_celery::TaskId;

impl WorkerMonitor {
    /// Subscribes to a job; must be called before the job's first task is published. Failures of the job's tasks go to
    /// the log.
    pub fn subscribe(&self, root: &TaskId, failures: FailureLog) -> JobSubscription<'_> {
        self.records().task_index.open(root, failures);
        let changed = Arc::new(Notify::new());
        self.subscribers().insert(root.clone(), Arc::clone(&changed));
        JobSubscription {
            monitor: self,
            root: root.clone(),
            changed,
        }
    }
}

/// Subscription to one job; dropping it ends the subscription.
pub struct JobSubscription<'d> {
    pub(super) monitor: &'d WorkerMonitor,
    pub(super) root: TaskId,
    changed: Arc<Notify>,
}

impl JobSubscription<'_> {
    /// Returns a number that rises with every event of the job.
    pub(crate) fn changes(&self) -> u64 {
        self.monitor.records().task_index.changes(&self.root)
    }

    /// Waits for the next event of the job, or until events may have been missed. Safe to cancel.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Remembers the end of `task` from now on.
    pub fn watch(&self, task: &TaskId) {
        self.monitor.records().task_index.watch(&self.root, task);
    }

    /// Returns how a watched task ended, from the event of the end.
    pub fn end_of(&self, task: &TaskId) -> Option<EventEnd> {
        self.monitor.records().task_index.end_of(&self.root, task)
    }

    /// Sets the tasks of the header of the job's chord.
    pub fn set_header(&self, tasks: &[TaskId]) {
        self.monitor.records().task_index.set_header(&self.root, tasks);
    }

    /// Returns the ends of the job's chunks since the last call.
    pub fn take_ends(&self) -> impl Iterator<Item = ChunkEnd> + use<> {
        self.monitor.records().task_index.take_ends(&self.root).into_iter()
    }

    pub fn tally(&self) -> TaskTally {
        self.monitor.records().task_index.tally(&self.root)
    }

    /// Returns the tasks of the job that a worker has taken and that have not ended.
    pub fn unfinished(&self) -> Vec<TaskId> {
        self.monitor.records().task_index.unfinished(&self.root)
    }

    /// Marks the events of the job as incomplete, because an earlier run has published the job.
    pub fn mark_incomplete(&self) {
        self.monitor.records().task_index.mark_incomplete(&self.root);
    }

    /// Returns whether a worker has taken `task` and the task has not ended.
    pub fn is_unfinished(&self, task: &TaskId) -> bool {
        self.monitor.records().task_index.is_unfinished(task)
    }

    /// Returns whether a worker has reported any task, of this or another job.
    pub fn has_events(&self) -> bool {
        self.monitor.records().task_index.has_events()
    }

    /// Returns the tasks of the chord's header that have no known end; `None` if the header is not known.
    pub fn open_header(&self) -> Option<Vec<TaskId>> {
        self.monitor.records().task_index.open_header(&self.root)
    }

    /// Returns revoked tasks of unknown jobs.
    pub fn strays(&self) -> Vec<TaskId> {
        self.monitor.records().task_index.strays()
    }

    /// Returns the tasks of the job by their events, without the dispatch task.
    pub fn tasks(&self) -> EventTasks {
        self.monitor.records().task_index.tasks(&self.root)
    }
}

impl Drop for JobSubscription<'_> {
    fn drop(&mut self) {
        self.monitor.records().task_index.close(&self.root);
        self.monitor.subscribers().remove(&self.root);
    }
}
