//! Polls of the pool processes for stale executions.
//!
//! Not here: which executions are stale ([`crate::jobs::stale_executions`]).

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::worker_monitor::{WORKER_TIMEOUT, WorkerMonitor};
use crate::jobs::stale_executions;
use orch_celery::{ControlTarget, NodeName, RunningTask, TaskId, WorkerStats};

/// Time after a disruption during which pool processes are polled for stale executions.
const DISRUPTION_POLL_TIMEOUT: Duration = Duration::from_secs(120);
const STALE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Polling time for a silent job with tasks that workers still list: long enough for two looks.
const SILENT_JOB_POLL_TIMEOUT: Duration = Duration::from_secs(2);

impl WorkerMonitor {
    /// Polls the pool processes for stale executions for a while: after connections broke or a worker died, and for a
    /// job that is searched for. A worker also keeps a task after the end of the task could not be stored in Redis.
    pub(super) async fn poll_stale_executions(&self) -> Infallible {
        loop {
            let poll_timeout = tokio::select! {
                () = self.disrupted.notified() => DISRUPTION_POLL_TIMEOUT,
                () = self.stale_poll_due.notified() => SILENT_JOB_POLL_TIMEOUT,
            };
            let give_up = Instant::now() + poll_timeout;
            while Instant::now() < give_up {
                self.possibly_stale(WORKER_TIMEOUT).await;
                sleep(STALE_POLL_INTERVAL).await;
            }
        }
    }

    /// Asks workers for their running tasks. Returns those of them that are stale executions, that seem to be, or that
    /// may be because their worker does not report the state of its processes. A signal for such a task can hit another
    /// task that the process runs by now. Returns `None` if no worker could be asked.
    pub(crate) async fn possibly_stale(&self, within: Duration) -> Option<HashSet<TaskId>> {
        let control = self.control();
        // First the lists, then the processes: if a process is gone from the second answer, the listed task has ended.
        let running = control.active(&ControlTarget::All, within).await.ok()?;
        let stats = control.stats(&ControlTarget::All, within).await.ok()?;
        let mut unknown = HashSet::new();
        for (node, running) in running.good() {
            // If two workers have one name, nothing shows which answer belongs to which worker.
            match stats.of(node).filter(|_| !stats.shared_names.contains_key(node)) {
                Some(stats) => self.note_stale_executions(node, running, stats),
                None => unknown.extend(running.iter().map(|task| task.id.clone())),
            }
        }
        unknown.extend(self.context.stale_executions.possibly_stale());
        Some(unknown)
    }

    fn note_stale_executions(&self, node: &NodeName, running: &[RunningTask], stats: &WorkerStats) {
        let pool = stats.pool_processes.iter().copied().collect();
        let idle = orch_celery::idle_processes(node, stats);
        let stale = self
            .context
            .stale_executions
            .update(node, running, (&pool, &idle), Instant::now());
        if let Some(event) = stale_executions::event(node, &stale) {
            self.context.recorder.emit(event);
        }
    }
}
