//! Revocation of tasks that crash their pool processes again and again.

use std::collections::HashSet;
use std::convert::Infallible;

use tracing::Instrument;

use super::worker_monitor::{WORKER_TIMEOUT, WorkerMonitor};
use crate::jobs::crash_loops::CrashingTask;
use orch_celery::{ControlTarget, TaskId};
use orch_journal::EventKind;

impl WorkerMonitor {
    /// Finds out why workers put tasks back, and revokes tasks that crash their pool processes repeatedly.
    pub(super) async fn revoke_crashing(&self) -> Infallible {
        loop {
            self.put_back.notified().await;
            let stats = self
                .context
                .celery
                .control()
                .stats(&ControlTarget::All, WORKER_TIMEOUT)
                .await;
            let Ok(stats) = stats else { continue };
            for (node, stats) in stats.good() {
                let now: HashSet<u32> = stats.pool_processes.iter().copied().collect();
                let before = self.pools().insert(node.clone(), now.clone()).unwrap_or_default();
                let crashing = self.records().crashes.judge(node, &before, &now);
                if !crashing.is_empty() {
                    let worker = tracing::info_span!("worker", %node);
                    self.revoke(&crashing).instrument(worker).await;
                }
            }
        }
    }

    /// Revokes these tasks. A worker that restarts forgets the revocation; the next crash then causes another one.
    async fn revoke(&self, crashing: &[CrashingTask]) {
        for CrashingTask { task, name, crashes } in crashing {
            self.context.recorder.emit(EventKind::CrashingTaskRevoked {
                task_id: task.to_string(),
                name: name.clone(),
                crashes: *crashes,
            });
        }
        let tasks: Vec<TaskId> = crashing.iter().map(|crashing| crashing.task.clone()).collect();
        // Without a signal: a task that has started already ends by itself, and the next delivery is refused.
        let control = self.context.celery.control();
        let revoked = control.revoke(&tasks, None, &ControlTarget::All, WORKER_TIMEOUT);
        if let Err(error) = revoked.await {
            tracing::warn!(%error, ?tasks, "could not revoke tasks that crash their pool processes");
        }
    }
}
