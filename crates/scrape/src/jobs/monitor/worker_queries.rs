//! Queries of the workers: their pools, their queues and the tasks that they hold.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::worker_monitor::{WORKER_TIMEOUT, WorkerMonitor};
use crate::jobs::context::JobContext;
use orch_celery::{Consumers, ControlReplies, ControlTarget, NodeName, TaskId, WorkerStats};

/// Time between two queries of the workers; they are also queried when one comes or goes.
const WORKER_QUERY_INTERVAL: Duration = Duration::from_secs(30);

impl WorkerMonitor {
    pub(super) async fn keep_querying_workers(&self) -> Infallible {
        let mut worker_deaths = self.context.worker_exits.clone();
        loop {
            let changed = tokio::select! {
                () = self.workers_changed.notified() => true,
                () = sleep(WORKER_QUERY_INTERVAL) => false,
                Ok(()) = worker_deaths.changed() => {
                    self.disrupted.notify_one();
                    true
                }
            };
            if changed {
                self.bans_due.notify_one();
            }
            self.query_workers().await;
        }
    }

    /// Asks the workers for their pools and queues, and switches on their events: a worker that is reused may send
    /// none.
    pub(super) async fn query_workers(&self) {
        let control = self.context.celery.control();
        let all = &ControlTarget::All;
        if self.are_holders_unknown.swap(false, Ordering::Relaxed) {
            note_holders(&self.context).await;
        }
        let (stats, queues, events) = tokio::join!(
            control.stats(all, WORKER_TIMEOUT),
            control.active_queues(all, WORKER_TIMEOUT),
            control.enable_events(all, WORKER_TIMEOUT),
        );
        if let Err(error) = events {
            tracing::debug!(%error, "could not switch on the task events of workers");
        }
        if let Ok(replies) = &queues {
            let consumed = replies
                .good()
                .flat_map(|(_, queues)| queues.iter().map(|queue| queue.name.clone()));
            self.queues().extend(consumed);
            self.queue_watch().set_consumers(Consumers::of(replies));
        }
        match stats {
            // A moment without workers, such as a restart, says nothing about their number afterwards.
            Ok(replies) if replies.nodes.is_empty() => {}
            Ok(replies) => {
                let processes = |stats: &WorkerStats| stats.pool_processes.iter().copied().collect();
                let pools = replies.good().map(|(node, stats)| (node.clone(), processes(stats)));
                // Until a suspect is judged, the known processes must stay those that existed when the suspect ran.
                if !self.records().crashes.is_suspicious() {
                    self.pools().extend(pools);
                }
                let own = |node: &NodeName| {
                    let consumed = queues.as_ref().ok().and_then(|replies| replies.of(node));
                    consumed.is_some_and(|queues| {
                        let mut names = queues.iter().map(|queue| &queue.name);
                        !queues.is_empty() && names.all(|name| self.context.own_queues.contains(name))
                    })
                };
                let shared = replies.good().filter(|(node, _)| !own(node));
                let slots = shared.map(|(_, stats)| stats.pool_slots).sum();
                self.slots.store(slots, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "could not count the pool slots of workers"),
        }
    }
}

/// Asks the workers for the tasks that they hold, and notes which of these shared workers hold. Returns all tasks.
pub(super) async fn note_holders(context: &JobContext) -> Vec<TaskId> {
    let control = context.celery.control();
    let all = &ControlTarget::All;
    let (active, reserved, scheduled) = tokio::join!(
        control.active(all, WORKER_TIMEOUT),
        control.reserved(all, WORKER_TIMEOUT),
        control.scheduled(all, WORKER_TIMEOUT),
    );
    let mut held = Vec::new();
    for (node, tasks) in scheduled.iter().flat_map(ControlReplies::good) {
        held.extend(tasks.iter().map(|task| (node.clone(), task.request.id.clone())));
    }
    for (node, tasks) in [&active, &reserved]
        .into_iter()
        .flatten()
        .flat_map(ControlReplies::good)
    {
        held.extend(tasks.iter().map(|task| (node.clone(), task.id.clone())));
    }
    let note = |(node, task): (NodeName, TaskId)| {
        context.shared_workers.record_taken(node.as_str(), &task);
        task
    };
    held.into_iter().map(note).collect()
}
