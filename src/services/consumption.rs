//! The cure of a worker that answers but does not consume: its consumer is added again, a few times; when that does not
//! help it counts as dead, and is restarted (warm, then cold, as its stop plan has it).
//!
//! A broker that cannot be asked is no reason for anything.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    cures: Cures,
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
        let begun = observation.worker.as_ref().map(|view| view.begun);
        let verdict = {
            let mut memory = self.memory();
            memory.has_task = observation.worker.as_ref().map(|view| view.active + view.held > 0);
            memory.cures.see(begun);
            let fresh = || ConsumptionWatch::new(worker.node().clone(), config.stalled_after);
            memory.watch.get_or_insert_with(fresh).look(&observation)
        };
        let (queue, reason) = match verdict {
            Verdict::Consuming => {
                self.memory().cures.given_up = None;
                return Ok(());
            }
            // It has just answered a ping. One that is given up stays so, until it takes something: a probe that fails now
            // and then is no reason for a restart.
            Verdict::Watching | Verdict::Silent => {
                let given_up = self.memory().cures.given_up.clone();
                return given_up.map_or(Ok(()), |given_up| Err(given_up.reason));
            }
            Verdict::NotConsuming { queue, reason } => (queue, reason),
        };
        // Without a queue that waits, it is all of them that it should consume.
        let queues = match queue {
            Some(queue) => vec![queue],
            None => config.queues.clone(),
        };
        {
            let mut memory = self.memory();
            memory.watch = None;
            let begun = begun.unwrap_or_default();
            memory
                .cures
                .begin(&reason, begun, Instant::now(), config.restart.window)?;
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

/// The cures of one worker process: each time its consumer was added again.
#[derive(Debug, Default)]
struct Cures {
    /// When, and how many tasks the worker had begun by then; those within the window of the restart policy.
    tried: Vec<(Instant, u64)>,
    given_up: Option<GivenUp>,
}

#[derive(Clone, Debug)]
struct GivenUp {
    reason: String,
    /// How many tasks the worker had begun.
    begun: u64,
}

impl Cures {
    /// Takes in how many tasks the worker has begun.
    fn see(&mut self, begun: Option<u64>) {
        let has_taken = |given_up: &GivenUp| begun.is_some_and(|begun| begun > given_up.begun);
        if self.given_up.as_ref().is_some_and(has_taken) {
            self.given_up = None;
        }
    }

    /// Begins one more cure, unless the last one did not help or there were too many: then the error is why the worker must
    /// be restarted.
    fn begin(&mut self, reason: &str, begun: u64, now: Instant, window: Duration) -> Result<(), String> {
        self.tried
            .retain(|(tried, _)| now.saturating_duration_since(*tried) < window);
        let why = match self.tried.last() {
            Some((_, before)) if begun <= *before => "though its consumer was added again".to_owned(),
            _ if self.tried.len() >= LIMIT => format!("though its consumer was added again {LIMIT} times"),
            _ => {
                self.tried.push((now, begun));
                self.given_up = None;
                return Ok(());
            }
        };
        let reason = format!("{reason}, {why}");
        self.given_up = Some(GivenUp {
            reason: reason.clone(),
            begun,
        });
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a_cure_that_does_not_help_is_the_last_one() {
        let mut cures = Cures::default();
        let now = Instant::now();
        assert_eq!(cures.begin("silent", 7, now, WINDOW), Ok(()));
        let again = cures.begin("silent", 7, now, WINDOW);
        assert_eq!(again, Err("silent, though its consumer was added again".to_owned()));
        // It stays given up, until it takes something.
        cures.see(None);
        cures.see(Some(7));
        assert!(cures.given_up.is_some());
        cures.see(Some(8));
        assert!(cures.given_up.is_none());
    }

    #[test]
    fn cures_that_help_are_limited_within_the_window() {
        let mut cures = Cures::default();
        let begun = Instant::now();
        for number in 0..3 {
            assert_eq!(cures.begin("silent", number, begun, WINDOW), Ok(()), "{number}");
        }
        assert!(cures.begin("silent", 3, begun, WINDOW).is_err());
        assert_eq!(cures.begin("silent", 3, begun + WINDOW, WINDOW), Ok(()));
    }
}
