//! The cure of a worker that answers but does not consume: its consumer is added again, a few times; when that does not
//! help it counts as dead, and is restarted (warm, then cold, as its stop plan has it).
//!
//! A broker that cannot be asked is no reason for anything.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::celery::Celery;
use crate::celery::{ConsumptionWatch, Target, Verdict};
use crate::run::EventKind;

/// How often, within the window of the restart policy, a worker process is given its consumer back before it is restarted.
const LIMIT: usize = 3;

/// What is remembered from one liveness probe to the next.
#[derive(Default)]
pub struct ConsumptionCare(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    watch: Option<ConsumptionWatch>,
    /// When consumers were added to this worker process, within the window.
    added: Vec<Instant>,
    /// At the last look, if there was one.
    has_task: Option<bool>,
}

impl ConsumptionCare {
    /// A new worker process: what was seen of another says nothing.
    pub fn begin_anew(&self) {
        *self.memory() = Memory::default();
    }

    /// Whether the worker had a task at the last look, or one that was about to run; `None` where it has not said.
    pub fn has_task(&self) -> Option<bool> {
        self.memory().has_task
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether the worker consumes, and helps it; the error is why it must be restarted.
    pub async fn check(&self, worker: &Celery) -> Result<(), String> {
        let (client, config) = (worker.client(), worker.config());
        let patience = config.liveness.timeout;
        let client = client.with_deadline(patience);
        let Ok(observation) = client.observe(worker.node(), &config.queues, patience).await else {
            return Ok(());
        };
        let verdict = {
            let mut memory = self.memory();
            memory.has_task = observation.worker.as_ref().map(|view| view.active + view.held > 0);
            let fresh = || ConsumptionWatch::new(worker.node().clone(), config.stalled_after);
            memory.watch.get_or_insert_with(fresh).look(&observation)
        };
        let (queue, reason) = match verdict {
            // It has just answered a ping: the next probe will tell.
            Verdict::Consuming | Verdict::Watching | Verdict::Silent => return Ok(()),
            Verdict::NotConsuming { queue, reason } => (queue, reason),
        };
        // Without a queue that waits, it is all of them that it should consume.
        let queues = match queue {
            Some(queue) => vec![queue],
            None => config.queues.clone(),
        };
        let first = {
            let mut memory = self.memory();
            memory.watch = None;
            memory.added.retain(|added| added.elapsed() < config.restart.window);
            memory.added.push(Instant::now());
            memory.added.len() <= LIMIT
        };
        if !first {
            return Err(format!("{reason}, though it was told to {LIMIT} times"));
        }
        let (control, target) = (client.control(), Target::from(worker.node()));
        for queue in queues {
            // What it believes to consume already it would not consume again.
            let added = async {
                control.cancel_consumer(&queue, &target, patience).await?;
                control.add_consumer(&queue, &target, patience).await
            };
            if let Err(error) = added.await {
                tracing::debug!(%error, "add a consumer");
                continue;
            }
            worker.recorder().emit(EventKind::ConsumerAdded {
                service: worker.service_name().clone(),
                queue,
                reason: reason.clone(),
            });
        }
        Ok(())
    }
}
