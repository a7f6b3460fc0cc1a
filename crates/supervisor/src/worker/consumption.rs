//! The repair of a worker that answers but does not consume: orch adds the consumer again, a few times. If that does
//! not help, the worker counts as dead and is restarted (warm, then cold, by the stop plan).
//!
//! If the broker cannot be asked, nothing is done.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use orch_celery::{
    Client, ConsumerPresence, Consumers, ConsumptionVerdict, ConsumptionWatch, ControlTarget, NodeName, RemoteControl,
};
use orch_config::CeleryConfig;
use orch_journal::{EventKind, Recorder, ServiceName};

/// Number of times, within the window of the restart policy, that a worker's consumer is added again before a restart.
const LIMIT: usize = 3;
/// Longest time for the cancellation of a consumer to take effect, and the interval at which the worker is asked.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The state that is kept between liveness probes.
#[derive(Default)]
pub struct ConsumptionRepair(Mutex<ConsumptionState>);

#[derive(Default)]
struct ConsumptionState {
    watch: Option<ConsumptionWatch>,
    cures: ConsumerRepairs,
    /// Value of the last look, if there was one.
    has_task: Option<bool>,
}

impl ConsumptionRepair {
    /// Forgets the state of the previous worker process.
    pub fn reset(&self) {
        *self.memory() = ConsumptionState::default();
    }

    /// Returns true if, at the last look, the worker had a task or one that was about to run; `None` without an answer.
    pub fn has_task(&self) -> Option<bool> {
        self.memory().has_task
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, ConsumptionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks whether the worker consumes, and repairs the worker; the error is the reason for a restart.
    pub async fn check(
        &self,
        client: &Client,
        config: &CeleryConfig,
        node: &NodeName,
        service: &ServiceName,
        recorder: &Recorder,
    ) -> Result<(), String> {
        let timeout = config.liveness.timeout;
        let client = client.with_deadline(timeout);
        let Ok(observation) = client.observe(node, &config.queues, timeout).await else {
            return Ok(());
        };
        let begun = observation.worker.as_ref().map(|view| view.begun);
        let verdict = {
            let mut memory = self.memory();
            memory.has_task = observation.worker.as_ref().map(|view| view.active + view.held > 0);
            memory.cures.note_begun(begun);
            let fresh = || ConsumptionWatch::new(node.clone(), config.stalled_after);
            memory.watch.get_or_insert_with(fresh).add_observation(&observation)
        };
        let (queue, reason) = match verdict {
            ConsumptionVerdict::Consuming => {
                self.memory().cures.given_up = None;
                return Ok(());
            }
            // The worker has just answered a ping. A worker that was given up stays so until the worker takes a task:
            // an occasional failed probe is no reason for a restart.
            ConsumptionVerdict::Watching | ConsumptionVerdict::Silent => {
                let given_up = self.memory().cures.given_up.clone();
                return given_up.map_or(Ok(()), |given_up| Err(given_up.reason));
            }
            ConsumptionVerdict::NotConsuming { queue, reason } => (queue, reason),
        };
        // Without a waiting queue the problem concerns all queues that the worker should consume.
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
        let (control, target) = (client.control(), ControlTarget::from(node));
        for queue in queues {
            if let Err(error) = add_consumer_again(&control, &queue, &target, timeout).await {
                tracing::debug!(%error, "could not add a consumer");
                continue;
            }
            recorder.emit(EventKind::ConsumerAdded {
                service: service.clone(),
                queue,
                reason: reason.clone(),
            });
        }
        Ok(())
    }
}

/// Adds the consumer of a queue again.
///
/// A worker ignores the command for a queue that the worker consumes already in its own view, so such a consumer is cancelled
/// first. The cancellation must have taken effect before the consumer is added: a worker executes commands that come
/// together in any order, because kombu keeps them in a set (`kombu/asynchronous/hub.py`, `Hub._ready`).
async fn add_consumer_again(
    control: &RemoteControl,
    queue: &str,
    target: &ControlTarget,
    timeout: Duration,
) -> orch_celery::Result<()> {
    let is_consumed = async || -> orch_celery::Result<bool> {
        let consumers = Consumers::of(&control.active_queues(target, timeout).await?);
        Ok(consumers.consumed(queue) == ConsumerPresence::Yes)
    };
    if is_consumed().await? {
        control.cancel_consumer(queue, target, timeout).await?;
        let deadline = Instant::now() + CANCEL_TIMEOUT;
        while Instant::now() < deadline && is_consumed().await? {
            sleep(CANCEL_POLL_INTERVAL).await;
        }
    }
    control.add_consumer(queue, target, timeout).await.map(drop)
}

/// The repairs of one worker process: each time the consumer was added again.
#[derive(Debug, Default)]
struct ConsumerRepairs {
    /// Time of each repair, with the number of tasks that the worker had begun; those within the window of the restart
    /// policy.
    tried: Vec<(Instant, u64)>,
    given_up: Option<GivenUpWorker>,
}

#[derive(Clone, Debug)]
struct GivenUpWorker {
    reason: String,
    /// Number of tasks that the worker had begun.
    begun: u64,
}

impl ConsumerRepairs {
    /// Updates the number of tasks that the worker has begun.
    fn note_begun(&mut self, begun: Option<u64>) {
        let has_taken = |given_up: &GivenUpWorker| begun.is_some_and(|begun| begun > given_up.begun);
        if self.given_up.as_ref().is_some_and(has_taken) {
            self.given_up = None;
        }
    }

    /// Begins another repair. If the last one did not help or there were too many, returns the reason for a restart of
    /// the worker.
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
        self.given_up = Some(GivenUpWorker {
            reason: reason.clone(),
            begun,
        });
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_INTERVAL: Duration = Duration::from_secs(60);

    #[test]
    fn a_repair_that_does_not_help_is_the_last_one() {
        let mut cures = ConsumerRepairs::default();
        let now = Instant::now();
        assert_eq!(cures.begin("silent", 7, now, WINDOW_INTERVAL), Ok(()));
        let again = cures.begin("silent", 7, now, WINDOW_INTERVAL);
        assert_eq!(again, Err("silent, though its consumer was added again".to_owned()));
        // The worker stays given up until the next task.
        cures.note_begun(None);
        cures.note_begun(Some(7));
        assert!(cures.given_up.is_some());
        cures.note_begun(Some(8));
        assert!(cures.given_up.is_none());
    }

    #[test]
    fn successful_repairs_are_limited_within_the_window() {
        let mut cures = ConsumerRepairs::default();
        let begun = Instant::now();
        for number in 0..3 {
            assert_eq!(
                cures.begin("silent", number, begun, WINDOW_INTERVAL),
                Ok(()),
                "{number}"
            );
        }
        assert!(cures.begin("silent", 3, begun, WINDOW_INTERVAL).is_err());
        assert_eq!(
            cures.begin("silent", 3, begun + WINDOW_INTERVAL, WINDOW_INTERVAL),
            Ok(())
        );
    }
}
