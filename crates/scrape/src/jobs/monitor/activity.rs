//! Activity of a job at the workers: asks them which tasks of the job they run.

use std::collections::HashSet;

use super::subscription::JobSubscription;
use super::worker_monitor::{WORKER_TIMEOUT, WorkerMonitor};
use crate::jobs::signals::WorkerActivity;
use crate::jobs::task_index::TaskOwner;
use orch_celery::{ControlTarget, TaskId};

impl JobSubscription<'_> {
    /// Asks the workers which tasks of the job they run. `known` are tasks that are known to belong to the job.
    pub async fn worker_activity(&self, known: &HashSet<TaskId>) -> WorkerActivity {
        self.monitor.activity_of(&self.root, known).await
    }
}

impl WorkerMonitor {
    /// Asks the workers which tasks of the job they run. `known` are tasks that are known to belong to the job.
    async fn activity_of(&self, root: &TaskId, known: &HashSet<TaskId>) -> WorkerActivity {
        let control = self.control();
        let (active, scheduled) = tokio::join!(
            control.active(&ControlTarget::All, WORKER_TIMEOUT),
            control.scheduled(&ControlTarget::All, WORKER_TIMEOUT)
        );
        let (Ok(active), Ok(scheduled)) = (active, scheduled) else {
            return WorkerActivity::Unknown;
        };
        if active.good().next().is_none() {
            return WorkerActivity::Unknown;
        }
        // A worker may list a task that the pool process has left: such a task does not run.
        let stale = self.stale_executions();
        let running: Vec<&TaskId> = active
            .good()
            .flat_map(|(_, tasks)| tasks)
            .filter(|task| task.time_start.is_some())
            .filter(|task| task.execution().is_none_or(|execution| !stale.contains(&execution)))
            .map(|task| &task.id)
            .collect();
        let is_of_job = |task: &TaskId| known.contains(task) || self.owner(task) == TaskOwner::Job(root.clone());
        let of_job = running.iter().filter(|task| is_of_job(task)).count();
        let is_for_later = || {
            let mut tasks = scheduled.good().flat_map(|(_, tasks)| tasks);
            tasks.any(|task| is_of_job(&task.request.id))
        };
        if of_job > 0 {
            WorkerActivity::Running(u64::try_from(of_job).unwrap_or(u64::MAX))
        } else if active.is_incomplete() {
            // A worker that has not answered may run a task of the job.
            WorkerActivity::Unknown
        } else if !running.is_empty() || is_for_later() {
            WorkerActivity::Waiting
        } else {
            WorkerActivity::Idle
        }
    }
}
