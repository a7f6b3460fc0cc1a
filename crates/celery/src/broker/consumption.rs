//! Detection of workers that answer pings but do not consume their queues. This happens after a reconnect to the broker
//! or after a remote `cancel_consumer`.
//!
//! [`Client::observe`] collects the observations, and pure functions judge them. The caller decides how to react.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::pool_process::idle_processes;
use crate::client::Client;
use crate::control::inspect::WorkerStats;
use crate::control::mailbox::ControlTarget;
use crate::error::Result;
use crate::wire::ids::NodeName;

/// Observation of a worker and its queues at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerObservation {
    /// Time of the observation.
    pub at: Instant,
    /// Number of waiting messages, by the queues that the worker should consume.
    pub waiting: BTreeMap<String, u64>,
    /// Report of the worker. `None` when the worker did not reply in time.
    pub worker: Option<WorkerReport>,
}

/// Activity of a worker, as the worker reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Queues that the worker consumes.
    pub queues: BTreeSet<String>,
    /// Number of tasks that can run at the same time.
    pub slots: u64,
    /// Number of messages that the worker prefetches. `None` or 0 means no limit.
    pub prefetch: Option<u64>,
    /// Number of tasks that have begun since the worker started.
    pub begun: u64,
    /// Number of running tasks. At most the number of pool processes that run a task, where this number is known.
    pub active: u64,
    /// Number of tasks that the worker lists as running. After a lost connection a worker may list more tasks than its
    /// processes run, forever, and treat its pool as full.
    pub listed: u64,
    /// Number of tasks that were taken and have not begun, including those that wait for their start time.
    pub held: u64,
    /// Part of `held` that waits for a pool slot or a rate limit, not for a start time.
    pub reserved: u64,
}

/// Result of one observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumptionState {
    /// The worker did not reply. A worker with a solo pool does not reply while a task is running.
    Silent,
    /// The worker consumes no queue at all.
    ConsumesNothing,
    /// Messages wait in a queue that the worker does not consume.
    NotConsumed { queue: String, waiting: u64 },
    /// Messages wait, and the worker has free slots and reports that it consumes the queue. If the worker takes nothing
    /// soon, it is not consuming.
    Doubtful { queue: String, waiting: u64 },
    /// The worker has free pool processes, treats them as busy, and holds reserved tasks. If no task begins soon, none
    /// ever will.
    Stuck { reserved: u64 },
    /// The worker has as many tasks as it can take.
    Busy,
    /// No message waits.
    Idle,
}

/// Evaluates one observation.
pub fn classify_observation(observation: &WorkerObservation) -> ConsumptionState {
    let Some(worker) = &observation.worker else {
        return ConsumptionState::Silent;
    };
    let waiting = || observation.waiting.iter().filter(|(_, waiting)| **waiting > 0);
    if let Some((queue, waiting)) = waiting().find(|(queue, _)| !worker.queues.contains(*queue)) {
        return ConsumptionState::NotConsumed {
            queue: queue.clone(),
            waiting: *waiting,
        };
    }
    if worker.queues.is_empty() {
        return ConsumptionState::ConsumesNothing;
    }
    let misjudges_its_pool = worker.active < worker.listed && worker.active < worker.slots;
    let Some((queue, waiting)) = waiting().next() else {
        return match worker.reserved {
            reserved if reserved > 0 && misjudges_its_pool => ConsumptionState::Stuck { reserved },
            _ => ConsumptionState::Idle,
        };
    };
    let prefetched = worker.listed + worker.held;
    let takes_more = worker.prefetch.is_none_or(|most| most == 0 || prefetched < most);
    if worker.active < worker.slots && (takes_more || misjudges_its_pool) {
        ConsumptionState::Doubtful {
            queue: queue.clone(),
            waiting: *waiting,
        }
    } else {
        ConsumptionState::Busy
    }
}

/// Result of several observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumptionVerdict {
    /// The worker consumes, or there is nothing to consume.
    Consuming,
    /// The worker may take a message soon; another observation is needed.
    Watching,
    /// The worker does not consume. Contains the queue, if the problem concerns one queue, and the reason for people.
    NotConsuming { queue: Option<String>, reason: String },
    /// The worker did not reply.
    Silent,
}

/// Detector that distinguishes a worker that is slow to take a message from one that takes none.
#[derive(Clone, Debug)]
pub struct ConsumptionWatch {
    node: NodeName,
    allowed_time: Duration,
    /// Start of a doubtful period in which the worker has taken nothing, with the numbers of begun and held tasks at
    /// that time.
    doubtful: Option<(Instant, u64, u64)>,
}

impl ConsumptionWatch {
    /// Creates a detector that allows a worker this much time to take a message.
    pub fn new(node: NodeName, allowed_time: Duration) -> Self {
        Self {
            node,
            allowed_time,
            doubtful: None,
        }
    }

    /// Evaluates another observation.
    pub fn add_observation(&mut self, observation: &WorkerObservation) -> ConsumptionVerdict {
        let consumption = classify_observation(observation);
        let Some(worker) = observation.worker.as_ref().filter(|_| {
            matches!(
                consumption,
                ConsumptionState::Doubtful { .. } | ConsumptionState::Stuck { .. }
            )
        }) else {
            self.doubtful = None;
            return self.verdict(consumption);
        };
        let taken = (worker.begun, worker.active + worker.held);
        let since = match self.doubtful {
            Some((since, begun, held)) if (begun, held) == taken => since,
            _ => {
                self.doubtful = Some((observation.at, taken.0, taken.1));
                observation.at
            }
        };
        let lasted = observation.at.duration_since(since);
        if lasted < self.allowed_time {
            return ConsumptionVerdict::Watching;
        }
        let (free, slots) = (worker.slots.saturating_sub(worker.active), worker.slots);
        let (queue, problem) = match consumption {
            ConsumptionState::Doubtful { queue, waiting } => {
                let problem = format!("does not consume `{queue}`: {} there", messages(waiting));
                (Some(queue), problem)
            }
            ConsumptionState::Stuck { reserved } => {
                let tasks = if reserved == 1 { "task waits" } else { "tasks wait" };
                (None, format!("does not begin what it has taken: {reserved} {tasks}"))
            }
            _ => return ConsumptionVerdict::Watching,
        };
        ConsumptionVerdict::NotConsuming {
            reason: format!(
                "{} answers but {problem}, {free} of {slots} slots are free, and it has taken nothing for {lasted:.0?}",
                self.node
            ),
            queue,
        }
    }

    fn verdict(&self, consumption: ConsumptionState) -> ConsumptionVerdict {
        match consumption {
            ConsumptionState::Silent => ConsumptionVerdict::Silent,
            ConsumptionState::Busy | ConsumptionState::Idle => ConsumptionVerdict::Consuming,
            ConsumptionState::Doubtful { .. } | ConsumptionState::Stuck { .. } => ConsumptionVerdict::Watching,
            ConsumptionState::ConsumesNothing => ConsumptionVerdict::NotConsuming {
                queue: None,
                reason: format!("{} answers but consumes no queue", self.node),
            },
            ConsumptionState::NotConsumed { queue, waiting } => ConsumptionVerdict::NotConsuming {
                reason: format!(
                    "{} answers but is no consumer of `{queue}`, where {}",
                    self.node,
                    messages(waiting)
                ),
                queue: Some(queue),
            },
        }
    }
}

fn messages(count: u64) -> String {
    match count {
        1 => "1 message waits".to_owned(),
        count => format!("{count} messages wait"),
    }
}

impl Client {
    /// Observes a worker and these queues once. Asks the worker only for data that Redis does not contain.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline. This error contains no information about the worker.
    pub async fn observe(&self, node: &NodeName, queues: &[String], within: Duration) -> Result<WorkerObservation> {
        let mut waiting = BTreeMap::new();
        for queue in queues {
            waiting.insert(queue.clone(), self.queue_depth(queue).await?.values().sum());
        }
        let (control, target) = (self.control(), ControlTarget::from(node));
        let (consumed, stats, active, reserved, scheduled) = tokio::join!(
            control.active_queues(&target, within),
            control.stats(&target, within),
            control.active(&target, within),
            control.reserved(&target, within),
            control.scheduled(&target, within),
        );
        let (consumed, stats, active) = (consumed?, stats?, active?);
        let (reserved, scheduled) = (reserved?, scheduled?);
        // An incomplete report would show free slots that do not exist.
        let worker = match (
            consumed.of(node),
            stats.of(node),
            active.of(node),
            reserved.of(node),
            scheduled.of(node),
        ) {
            (Some(consumed), Some(stats), Some(active), Some(reserved), Some(scheduled)) => Some(WorkerReport {
                queues: consumed.iter().map(|queue| queue.name.clone()).collect(),
                slots: stats.pool_slots,
                prefetch: stats.prefetch_count,
                begun: stats.totals.values().sum(),
                active: running(node, stats, active.len() as u64),
                listed: active.len() as u64,
                held: (reserved.len() + scheduled.len()) as u64,
                reserved: reserved.len() as u64,
            }),
            _ => None,
        };
        Ok(WorkerObservation {
            at: Instant::now(),
            waiting,
            worker,
        })
    }
}

/// Counts the listed tasks that really run: a pool process that waits for a task runs none.
fn running(node: &NodeName, stats: &WorkerStats, listed: u64) -> u64 {
    // An idle worker needs no further check. Most observations end here.
    if listed == 0 {
        return 0;
    }
    let idle = idle_processes(node, stats).len();
    match stats.pool_processes.len() {
        processes if idle > 0 => listed.min(processes.saturating_sub(idle) as u64),
        _ => listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> WorkerReport {
        WorkerReport {
            queues: BTreeSet::from(["celery".to_owned()]),
            slots: 2,
            prefetch: Some(8),
            ..WorkerReport::default()
        }
    }

    fn observation(waiting: u64, worker: Option<WorkerReport>) -> WorkerObservation {
        WorkerObservation {
            at: Instant::now(),
            waiting: BTreeMap::from([("celery".to_owned(), waiting)]),
            worker,
        }
    }

    #[test]
    fn one_observation_is_judged() {
        let doubtful = ConsumptionState::Doubtful {
            queue: "celery".to_owned(),
            waiting: 5,
        };
        let not_consumed = ConsumptionState::NotConsumed {
            queue: "celery".to_owned(),
            waiting: 5,
        };
        let running = |active: u64, listed: u64| WorkerReport {
            active,
            listed,
            ..worker()
        };
        let of = |queues: &[&str]| WorkerReport {
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            ..worker()
        };
        for (waiting, view, expected) in [
            (5, None, ConsumptionState::Silent),
            (0, Some(worker()), ConsumptionState::Idle),
            (5, Some(worker()), doubtful.clone()),
            (5, Some(running(2, 2)), ConsumptionState::Busy),
            (5, Some(running(1, 1)), doubtful.clone()),
            // The pool processes have finished the listed tasks, and the worker wrongly treats its pool as full.
            (5, Some(running(0, 2)), doubtful.clone()),
            (
                5,
                Some(WorkerReport {
                    held: 6,
                    ..running(0, 2)
                }),
                doubtful.clone(),
            ),
            (5, Some(running(2, 9)), ConsumptionState::Busy),
            (0, Some(running(0, 2)), ConsumptionState::Idle),
            (
                0,
                Some(WorkerReport {
                    reserved: 1,
                    held: 1,
                    ..running(0, 2)
                }),
                ConsumptionState::Stuck { reserved: 1 },
            ),
            // A rate limit may delay reserved tasks.
            (
                0,
                Some(WorkerReport {
                    reserved: 1,
                    held: 1,
                    ..running(1, 1)
                }),
                ConsumptionState::Idle,
            ),
            // The worker is full of tasks that wait for their start time, or for a rate limit.
            (5, Some(WorkerReport { held: 8, ..worker() }), ConsumptionState::Busy),
            (
                5,
                Some(WorkerReport {
                    held: 8,
                    prefetch: Some(0),
                    ..worker()
                }),
                doubtful.clone(),
            ),
            (
                5,
                Some(WorkerReport {
                    held: 8,
                    prefetch: None,
                    ..worker()
                }),
                doubtful,
            ),
            (5, Some(of(&[])), not_consumed.clone()),
            (5, Some(of(&["other"])), not_consumed),
            (0, Some(of(&["other"])), ConsumptionState::Idle),
            (0, Some(of(&[])), ConsumptionState::ConsumesNothing),
        ] {
            let observation = observation(waiting, view);
            assert_eq!(classify_observation(&observation), expected, "{observation:?}");
        }
    }

    #[test]
    fn a_doubtful_worker_is_not_consuming_only_after_the_whole_time_without_a_message() {
        let mut watch = ConsumptionWatch::new(NodeName::from("w1@h"), Duration::from_secs(10));
        let start = Instant::now();
        let mut look = |second: u64, waiting: u64, view: WorkerReport| {
            let mut observation = observation(waiting, Some(view));
            observation.at = start + Duration::from_secs(second);
            watch.add_observation(&observation)
        };
        assert_eq!(look(0, 3, worker()), ConsumptionVerdict::Watching);
        assert_eq!(look(9, 3, worker()), ConsumptionVerdict::Watching);
        // The worker has taken one message, so the time starts again.
        let taken = WorkerReport { begun: 1, ..worker() };
        assert_eq!(look(10, 2, taken.clone()), ConsumptionVerdict::Watching);
        assert_eq!(look(19, 2, taken.clone()), ConsumptionVerdict::Watching);
        assert_eq!(
            look(20, 2, taken.clone()),
            ConsumptionVerdict::NotConsuming {
                queue: Some("celery".to_owned()),
                reason:
                    "w1@h answers but does not consume `celery`: 2 messages wait there, 2 of 2 slots are free, and it \
                         has taken nothing for 10s"
                        .to_owned(),
            }
        );
        assert_eq!(look(21, 0, taken.clone()), ConsumptionVerdict::Consuming);
        assert_eq!(look(40, 1, taken), ConsumptionVerdict::Watching);
        let stuck = WorkerReport {
            begun: 1,
            listed: 2,
            held: 1,
            reserved: 1,
            ..worker()
        };
        assert_eq!(look(50, 0, stuck.clone()), ConsumptionVerdict::Watching);
        assert_eq!(
            look(60, 0, stuck),
            ConsumptionVerdict::NotConsuming {
                queue: None,
                reason: "w1@h answers but does not begin what it has taken: 1 task waits, 2 of 2 slots are free, and it has \
                         taken nothing for 10s"
                    .to_owned(),
            }
        );
    }
}
