//! Life of the worker monitor: opens the monitor, and keeps all of its facts up to date while the jobs are followed.
//!
//! Nothing here runs by itself: the `serve` future is polled while the jobs are followed, and dropped with them.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::sync::Notify;

use super::worker_monitor::{TaskRecords, WorkerMonitor};
use super::worker_queries::note_holders;
use crate::jobs::context::JobContext;
use crate::jobs::crash_loops::CrashCounts;
use crate::jobs::task_index::TaskIndex;

impl WorkerMonitor {
    /// Subscribes to events and asks the workers for their tasks. Takes a few milliseconds; if Redis or workers do not
    /// answer, a few seconds at most. Facts that could not be learnt are learnt later.
    pub async fn open(context: &JobContext) -> Self {
        // First the subscription: tasks that are received from now on are seen, and tasks that run already are foreign.
        let stream = match context.celery.events().await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::warn!(%error, "could not subscribe to task events; retrying");
                None
            }
        };
        let held = note_holders(context).await;
        let mut task_index = TaskIndex::default();
        // If jobs are picked up, tasks that run already may belong to them: their owner is unknown until their job is
        // known.
        if context.earlier_jobs.is_empty() {
            task_index.add_foreign(held);
        }
        let monitor = Self {
            context: context.clone(),
            records: Mutex::new(TaskRecords {
                task_index,
                crashes: CrashCounts::default(),
            }),
            subscribers: Mutex::default(),
            queues: Mutex::new(context.queues.iter().cloned().collect()),
            slots: AtomicU64::new(0),
            are_holders_unknown: AtomicBool::new(false),
            workers_changed: Notify::new(),
            disrupted: Notify::new(),
            stale_poll_due: Notify::new(),
            put_back: Notify::new(),
            banned: Mutex::default(),
            bans_due: Notify::new(),
            pools: Mutex::default(),
            census: tokio::sync::Mutex::default(),
            queue_watch: Mutex::default(),
            stream: tokio::sync::Mutex::new(stream),
        };
        monitor.query_workers().await;
        monitor
    }

    /// Keeps everything up to date while the returned future is polled.
    pub async fn serve(&self) -> Infallible {
        tokio::select! {
            never = self.read_events() => never,
            never = self.keep_querying_workers() => never,
            never = self.poll_stale_executions() => never,
            never = self.revoke_crashing() => never,
            never = self.revoke_banned() => never,
            never = Box::pin(self.watch_for_unconsumed()) => never,
        }
    }
}
