//! Census of the work in progress of all followed jobs, and looks at the queues that no worker consumes.
//!
//! Not here: the conclusions from the looks ([`super::queue_watch`]).

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::sleep;

use super::queue_watch::QueueLook;
use super::remaining_work::RemainingWork;
use super::worker_monitor::{WORKER_TIMEOUT, WorkerMonitor};
use orch_celery::{BrokerQueues, ConsumerPresence, Consumers, ControlTarget, TaskId, UnfinishedTasks, WaitingMessages};

/// Shortest pause between two looks at all queues of the broker.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
const LONGEST_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Factor between the duration of a look and the pause after the look, which limits the load of large databases.
const LOOK_COST_FACTOR: u32 = 20;

impl WorkerMonitor {
    /// Counts the work in progress of all followed jobs: in the known queues, among the unacknowledged messages and in
    /// the workers; with `everywhere`, in all queues of the broker. Messages in queues without a consumer are left out;
    /// `left_in_unconsumed_queues` has them. The look began after the call; several jobs that call at the same time
    /// share one look.
    pub(super) async fn take_census(&self, everywhere: bool) -> orch_celery::Result<Arc<UnfinishedTasks>> {
        let called = Instant::now();
        let mut last = self.census.lock().await;
        if let Some((begun, was_everywhere, census)) = last.as_ref()
            && *begun >= called
            && (*was_everywhere || !everywhere)
        {
            return Ok(Arc::clone(census));
        }
        // Jobs whose searches begin at the same moment call first, and share this look.
        yield_now().await;
        let begun = Instant::now();
        let celery = &self.context.celery;
        let roots = self.roots();
        let all = match everywhere {
            true => celery.broker_queues().await?,
            false => BrokerQueues::default(),
        };
        let (queues, unseen) = self.look_at_queues(&roots, all).await?;
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let mut census = celery
            .unfinished_tasks(&roots, &queues, self.context.stale_executions.all())
            .await?;
        census.unseen = census.unseen.or(unseen);
        let census = Arc::new(census);
        *last = Some((begun, everywhere, Arc::clone(&census)));
        Ok(census)
    }

    /// Describes the remaining work of a job of which the last survey found nothing.
    pub(super) fn left_in_unconsumed_queues(&self, root: &TaskId) -> Option<RemainingWork> {
        self.queue_watch().left_of(root, Instant::now())
    }

    /// Returns whether tasks of a job wait in a queue that no worker consumes.
    pub fn has_unconsumed(&self, root: &TaskId) -> bool {
        self.left_in_unconsumed_queues(root).is_some()
    }

    /// Inspects all queues of the broker every few seconds while jobs are followed, and reports queues without a
    /// consumer.
    pub(super) async fn watch_for_unconsumed(&self) -> Infallible {
        let mut pause = LOOK_INTERVAL;
        loop {
            sleep(pause).await;
            let begun = Instant::now();
            if self.roots().is_empty() || !self.context.workers_settled.is_settled() {
                pause = LOOK_INTERVAL;
                continue;
            }
            if let Err(error) = self.look_for_unconsumed().await {
                tracing::debug!(%error, "could not look for queues without a consumer");
            }
            pause = (begun.elapsed() * LOOK_COST_FACTOR).clamp(LOOK_INTERVAL, LONGEST_LOOK_INTERVAL);
        }
    }

    async fn look_for_unconsumed(&self) -> orch_celery::Result<()> {
        let all = self.context.celery.broker_queues().await?;
        let is_doubtful = self.queue_watch().is_doubtful(&all.messages);
        if is_doubtful {
            self.look_at_queues(&self.roots(), all).await?;
        }
        Ok(())
    }

    /// Searches for messages of these jobs in the known queues and in those of `all` that no worker consumes. Returns
    /// the other queues, and the reason if some could not be searched.
    async fn look_at_queues(
        &self,
        roots: &HashSet<TaskId>,
        all: BrokerQueues,
    ) -> orch_celery::Result<(BTreeSet<String>, Option<String>)> {
        let celery = &self.context.celery;
        let control = celery.control();
        let consumers = Consumers::of(&control.active_queues(&ControlTarget::All, WORKER_TIMEOUT).await?);
        let filled = all.messages.into_iter().filter(|(_, messages)| *messages > 0);
        let mut queues: BTreeSet<String> = filled.map(|(queue, _)| queue).collect();
        queues.extend(self.queues_to_search());
        queues.extend(consumers.names().map(str::to_owned));
        let (unconsumed, others): (BTreeSet<String>, BTreeSet<String>) = queues
            .into_iter()
            .partition(|queue| consumers.consumed(queue) == ConsumerPresence::No);
        let names: Vec<&str> = unconsumed.iter().map(String::as_str).collect();
        let WaitingMessages { by_queue, unseen } = celery.waiting_messages(roots, &names).await?;
        // From now on every search includes these queues, and their messages are removed when their job is cancelled.
        self.watch_queues(by_queue.keys().cloned());
        let look = QueueLook {
            // If a worker has not answered, the state of a queue without a consumer does not change.
            decided: {
                let consumed = others
                    .iter()
                    .filter(|queue| consumers.consumed(queue) == ConsumerPresence::Yes);
                unconsumed.iter().chain(consumed).cloned().collect()
            },
            waiting: by_queue,
            consumers,
        };
        let events = self.queue_watch().take(look, Instant::now());
        for event in events {
            self.context.recorder.emit(event);
        }
        Ok((others, unseen.or(all.unseen)))
    }
}
