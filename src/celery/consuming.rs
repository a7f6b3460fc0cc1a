//! Does a worker that answers also consume? Some do not, after a reconnect to the broker or a remote `cancel_consumer`: they
//! answer every ping while their queues grow.
//!
//! What was seen is judged by pure functions; the looking is [`Client::observe`]. What to do about it is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::client::Client;
use super::inspect::Stats;
use super::mailbox::Target;
use super::pool_process::idle_processes;
use super::{NodeName, Result};

/// One look at a worker and at its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When the look was taken.
    pub at: Instant,
    /// Messages that wait in the queues that it should consume.
    pub waiting: BTreeMap<String, u64>,
    /// What the worker says; `None` when it did not answer in time.
    pub worker: Option<WorkerView>,
}

/// A worker's own account of what it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerView {
    /// Queues that it consumes.
    pub queues: BTreeSet<String>,
    /// Tasks that can run at the same time.
    pub slots: u64,
    /// How many messages it takes ahead; `None` or 0: as many as there are.
    pub prefetch: Option<u64>,
    /// Tasks begun since its start.
    pub begun: u64,
    /// Tasks being run: no more than the processes that run one, where that is known.
    pub active: u64,
    /// Tasks that it lists as running. After a lost connection a worker may list more than its processes run, for ever, and
    /// believe its pool full.
    pub listed: u64,
    /// Tasks taken and not begun, those that wait for their time included.
    pub held: u64,
    /// The part of `held` that waits for a slot or a rate limit, not for its time.
    pub reserved: u64,
}

/// What one look tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// It did not answer. A solo pool does so while it runs a task.
    Silent,
    /// It consumes no queue at all.
    Nothing,
    /// Work waits in a queue that it does not consume.
    NotConsumed { queue: String, waiting: u64 },
    /// Work waits, it has room and says that it consumes: unless it takes something soon, it does not.
    Doubtful { queue: String, waiting: u64 },
    /// It has free processes, believes them busy, and has taken tasks: unless it begins something soon, it never will.
    Stuck { reserved: u64 },
    /// It has as much as it can take.
    Busy,
    /// Nothing waits.
    Idle,
}

/// Judges one look.
pub fn judge(observation: &Observation) -> Consumption {
    let Some(worker) = &observation.worker else {
        return Consumption::Silent;
    };
    let waiting = || observation.waiting.iter().filter(|(_, waiting)| **waiting > 0);
    if let Some((queue, waiting)) = waiting().find(|(queue, _)| !worker.queues.contains(*queue)) {
        return Consumption::NotConsumed {
            queue: queue.clone(),
            waiting: *waiting,
        };
    }
    if worker.queues.is_empty() {
        return Consumption::Nothing;
    }
    let is_mistaken = worker.active < worker.listed && worker.active < worker.slots;
    let Some((queue, waiting)) = waiting().next() else {
        return match worker.reserved {
            reserved if reserved > 0 && is_mistaken => Consumption::Stuck { reserved },
            _ => Consumption::Idle,
        };
    };
    let prefetched = worker.listed + worker.held;
    let takes_more = worker.prefetch.is_none_or(|most| most == 0 || prefetched < most);
    if worker.active < worker.slots && (takes_more || is_mistaken) {
        Consumption::Doubtful {
            queue: queue.clone(),
            waiting: *waiting,
        }
    } else {
        Consumption::Busy
    }
}

/// What several looks tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It consumes, or there is nothing to consume.
    Consuming,
    /// It may be about to: look again.
    Watching,
    /// It does not; the queue if it is about one, and why, for people.
    NotConsuming { queue: Option<String>, reason: String },
    /// It did not answer.
    Silent,
}

/// Tells a worker that is slow to take a message from one that takes none.
#[derive(Clone, Debug)]
pub struct ConsumptionWatch {
    node: NodeName,
    patience: Duration,
    /// Since when it was doubtful without having taken anything, and what it had begun and held then.
    doubtful: Option<(Instant, u64, u64)>,
}

impl ConsumptionWatch {
    /// A watch that believes a worker for so long that it will take something.
    pub fn new(node: NodeName, patience: Duration) -> Self {
        Self {
            node,
            patience,
            doubtful: None,
        }
    }

    /// Takes in one more look.
    pub fn look(&mut self, observation: &Observation) -> Verdict {
        let consumption = judge(observation);
        let Some(worker) = observation
            .worker
            .as_ref()
            .filter(|_| matches!(consumption, Consumption::Doubtful { .. } | Consumption::Stuck { .. }))
        else {
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
        if lasted < self.patience {
            return Verdict::Watching;
        }
        let (free, slots) = (worker.slots.saturating_sub(worker.active), worker.slots);
        let (queue, what) = match consumption {
            Consumption::Doubtful { queue, waiting } => {
                let what = format!("does not consume `{queue}`: {} there", messages(waiting));
                (Some(queue), what)
            }
            Consumption::Stuck { reserved } => {
                let tasks = if reserved == 1 { "task waits" } else { "tasks wait" };
                (None, format!("does not begin what it has taken: {reserved} {tasks}"))
            }
            _ => return Verdict::Watching,
        };
        Verdict::NotConsuming {
            reason: format!(
                "{} answers but {what}, {free} of {slots} slots are free, and it has taken nothing for {lasted:.0?}",
                self.node
            ),
            queue,
        }
    }

    fn verdict(&self, consumption: Consumption) -> Verdict {
        match consumption {
            Consumption::Silent => Verdict::Silent,
            Consumption::Busy | Consumption::Idle => Verdict::Consuming,
            Consumption::Doubtful { .. } | Consumption::Stuck { .. } => Verdict::Watching,
            Consumption::Nothing => Verdict::NotConsuming {
                queue: None,
                reason: format!("{} answers but consumes no queue", self.node),
            },
            Consumption::NotConsumed { queue, waiting } => Verdict::NotConsuming {
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
    /// Takes one look at a worker and at these queues. The worker is asked only about what the queues leave open.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline: that says nothing about the worker.
    pub async fn observe(&self, node: &NodeName, queues: &[String], within: Duration) -> Result<Observation> {
        let mut waiting = BTreeMap::new();
        for queue in queues {
            waiting.insert(queue.clone(), self.queue_depth(queue).await?.values().sum());
        }
        let (control, target) = (self.control(), Target::from(node));
        let (consumed, stats, active, reserved, scheduled) = tokio::join!(
            control.active_queues(&target, within),
            control.stats(&target, within),
            control.active(&target, within),
            control.reserved(&target, within),
            control.scheduled(&target, within),
        );
        let (consumed, stats, active) = (consumed?, stats?, active?);
        let (reserved, scheduled) = (reserved?, scheduled?);
        // An account with a part missing would show free slots that are not.
        let worker = match (
            consumed.of(node),
            stats.of(node),
            active.of(node),
            reserved.of(node),
            scheduled.of(node),
        ) {
            (Some(consumed), Some(stats), Some(active), Some(reserved), Some(scheduled)) => Some(WorkerView {
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
        Ok(Observation {
            at: Instant::now(),
            waiting,
            worker,
        })
    }
}

/// Counts the tasks that run, of those that the worker lists: none in a process that waits for a task.
fn running(node: &NodeName, stats: &Stats, listed: u64) -> u64 {
    // Nothing is to be found out about an idle worker: most probes end here.
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

    fn worker() -> WorkerView {
        WorkerView {
            queues: BTreeSet::from(["celery".to_owned()]),
            slots: 2,
            prefetch: Some(8),
            ..WorkerView::default()
        }
    }

    fn seen(waiting: u64, worker: Option<WorkerView>) -> Observation {
        Observation {
            at: Instant::now(),
            waiting: BTreeMap::from([("celery".to_owned(), waiting)]),
            worker,
        }
    }

    #[test]
    fn one_look() {
        let doubtful = Consumption::Doubtful {
            queue: "celery".to_owned(),
            waiting: 5,
        };
        let not_consumed = Consumption::NotConsumed {
            queue: "celery".to_owned(),
            waiting: 5,
        };
        let running = |active: u64, listed: u64| WorkerView {
            active,
            listed,
            ..worker()
        };
        let of = |queues: &[&str]| WorkerView {
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            ..worker()
        };
        for (waiting, view, expected) in [
            (5, None, Consumption::Silent),
            (0, Some(worker()), Consumption::Idle),
            (5, Some(worker()), doubtful.clone()),
            (5, Some(running(2, 2)), Consumption::Busy),
            (5, Some(running(1, 1)), doubtful.clone()),
            // Its processes have left the tasks that it lists: it wrongly believes its pool full.
            (5, Some(running(0, 2)), doubtful.clone()),
            (
                5,
                Some(WorkerView {
                    held: 6,
                    ..running(0, 2)
                }),
                doubtful.clone(),
            ),
            (5, Some(running(2, 9)), Consumption::Busy),
            (0, Some(running(0, 2)), Consumption::Idle),
            (
                0,
                Some(WorkerView {
                    reserved: 1,
                    held: 1,
                    ..running(0, 2)
                }),
                Consumption::Stuck { reserved: 1 },
            ),
            // A rate limit may keep what is reserved.
            (
                0,
                Some(WorkerView {
                    reserved: 1,
                    held: 1,
                    ..running(1, 1)
                }),
                Consumption::Idle,
            ),
            // Full of tasks that wait for their time, or for a rate limit.
            (5, Some(WorkerView { held: 8, ..worker() }), Consumption::Busy),
            (
                5,
                Some(WorkerView {
                    held: 8,
                    prefetch: Some(0),
                    ..worker()
                }),
                doubtful.clone(),
            ),
            (
                5,
                Some(WorkerView {
                    held: 8,
                    prefetch: None,
                    ..worker()
                }),
                doubtful,
            ),
            (5, Some(of(&[])), not_consumed.clone()),
            (5, Some(of(&["other"])), not_consumed),
            (0, Some(of(&["other"])), Consumption::Idle),
            (0, Some(of(&[])), Consumption::Nothing),
        ] {
            let observation = seen(waiting, view);
            assert_eq!(judge(&observation), expected, "{observation:?}");
        }
    }

    #[test]
    fn doubt_becomes_certainty_only_when_nothing_is_taken_for_the_whole_time() {
        let mut watch = ConsumptionWatch::new(NodeName::from("w1@h"), Duration::from_secs(10));
        let start = Instant::now();
        let mut look = |second: u64, waiting: u64, view: WorkerView| {
            let mut observation = seen(waiting, Some(view));
            observation.at = start + Duration::from_secs(second);
            watch.look(&observation)
        };
        assert_eq!(look(0, 3, worker()), Verdict::Watching);
        assert_eq!(look(9, 3, worker()), Verdict::Watching);
        // It has taken one: the time begins anew.
        let taken = WorkerView { begun: 1, ..worker() };
        assert_eq!(look(10, 2, taken.clone()), Verdict::Watching);
        assert_eq!(look(19, 2, taken.clone()), Verdict::Watching);
        assert_eq!(
            look(20, 2, taken.clone()),
            Verdict::NotConsuming {
                queue: Some("celery".to_owned()),
                reason:
                    "w1@h answers but does not consume `celery`: 2 messages wait there, 2 of 2 slots are free, and it \
                         has taken nothing for 10s"
                        .to_owned(),
            }
        );
        assert_eq!(look(21, 0, taken.clone()), Verdict::Consuming);
        assert_eq!(look(40, 1, taken), Verdict::Watching);
        let stuck = WorkerView {
            begun: 1,
            listed: 2,
            held: 1,
            reserved: 1,
            ..worker()
        };
        assert_eq!(look(50, 0, stuck.clone()), Verdict::Watching);
        assert_eq!(
            look(60, 0, stuck),
            Verdict::NotConsuming {
                queue: None,
                reason: "w1@h answers but does not begin what it has taken: 1 task waits, 2 of 2 slots are free, and it has \
                         taken nothing for 10s"
                    .to_owned(),
            }
        );
    }
}
