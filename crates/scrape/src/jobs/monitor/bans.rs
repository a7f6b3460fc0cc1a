//! Bans: tasks that must not run at any worker are revoked again whenever workers may not know the revocation.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::worker_monitor::{WORKER_TIMEOUT, WorkerMonitor};
use orch_celery::{ControlTarget, Signal, TaskId};

/// Time after a change during which workers are sent the revocations of banned tasks, and the interval of these.
const BAN_TIMEOUT: Duration = Duration::from_secs(10);
const BAN_INTERVAL: Duration = Duration::from_secs(1);

impl WorkerMonitor {
    /// Bans tasks: they are revoked for a while from now, and again whenever a worker comes or goes, while the monitor
    /// is served. A running task gets SIGTERM.
    pub fn ban(&self, tasks: impl IntoIterator<Item = TaskId>) {
        self.banned().extend(tasks);
        self.bans_due.notify_one();
    }

    /// Revokes banned tasks whenever that is due. A worker that announces itself may not receive control commands yet,
    /// so the revocation is repeated for a while.
    pub(super) async fn revoke_banned(&self) -> Infallible {
        loop {
            self.bans_due.notified().await;
            let give_up = Instant::now() + BAN_TIMEOUT;
            while Instant::now() < give_up {
                let tasks: Vec<TaskId> = self.banned().iter().cloned().collect();
                if tasks.is_empty() {
                    break;
                }
                self.revoke_and_terminate(tasks).await;
                sleep(BAN_INTERVAL).await;
            }
        }
    }

    /// Terminates these tasks if they run. Stale executions are only revoked without a signal, so that no worker starts
    /// them again.
    async fn revoke_and_terminate(&self, tasks: Vec<TaskId>) {
        let possibly_stale = self.possibly_stale(WORKER_TIMEOUT).await;
        let (stale, rest): (Vec<TaskId>, Vec<TaskId>) = match possibly_stale {
            Some(possibly_stale) => tasks.into_iter().partition(|task| possibly_stale.contains(task)),
            None => (tasks, Vec::new()),
        };
        let control = self.context.celery.control();
        for (tasks, signal) in [(rest, Some(Signal::Term)), (stale, None)] {
            if tasks.is_empty() {
                continue;
            }
            if let Err(error) = control
                .revoke(&tasks, signal, &ControlTarget::All, WORKER_TIMEOUT)
                .await
            {
                tracing::debug!(%error, tasks = tasks.len(), "could not revoke banned tasks");
            }
        }
    }
}
