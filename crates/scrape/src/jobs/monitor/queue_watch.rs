//! Queues that no worker consumes, with messages of jobs in them: such a job never ends.
//!
//! A message may be in any queue of the broker, because an app may route tasks to any queue. If the known queues and
//! the workers hold nothing of a job, all queues are searched for the job. While jobs run, all queues are also
//! inspected every few seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::remaining_work::RemainingWork;
use orch_celery::{Consumers, TaskId};

use orch_journal::EventKind;

/// Time for a worker to start that consumes a queue which no worker has consumed so far.
const FIRST_CONSUMER_GRACE: Duration = Duration::from_secs(15);
/// Time for the worker of a queue to come back: the worker may be restarting, or get the consumer back.
const LOST_CONSUMER_GRACE: Duration = Duration::from_secs(120);
/// Time before a lost consumer is reported.
const LOST_CONSUMER_NOTICE_GRACE: Duration = Duration::from_secs(10);
/// Number of queues that a text names; further ones are counted.
const MAX_NAMED_QUEUES: usize = 3;

/// Result of one look at some queues.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueLook {
    /// Queues for which the look shows whether messages of jobs wait in them without a consumer.
    pub decided: BTreeSet<String>,
    /// Messages of jobs in the queues without a consumer.
    pub waiting: BTreeMap<String, HashMap<TaskId, u64>>,
    pub consumers: Consumers,
}

/// Queue without a consumer in which messages of jobs wait.
#[derive(Debug)]
struct UnconsumedQueue {
    since: Instant,
    noticed: bool,
    messages: HashMap<TaskId, u64>,
}

/// Results of all looks so far.
#[derive(Debug, Default)]
pub(super) struct QueueWatch {
    unconsumed: BTreeMap<String, UnconsumedQueue>,
    /// Queues that a worker has consumed at some time.
    ever_consumed: BTreeSet<String>,
    consumers: Consumers,
    /// Messages in all queues of the broker at the last look.
    depths: BTreeMap<String, u64>,
}

impl QueueWatch {
    /// Stores the depths of all queues. Returns whether workers must be asked which queues they consume. That is not
    /// necessary while each queue with messages had a consumer and becomes shorter.
    pub fn is_doubtful(&mut self, depths: &BTreeMap<String, u64>) -> bool {
        let before = std::mem::replace(&mut self.depths, depths.clone());
        let is_doubtful = |(queue, depth): (&String, &u64)| {
            *depth > 0
                && (self.consumers.of_queue(queue).next().is_none()
                    || before.get(queue).is_some_and(|before| *before > 0 && before <= depth))
        };
        !self.unconsumed.is_empty() || depths.iter().any(is_doubtful)
    }

    /// Stores which worker consumes which queue.
    pub fn set_consumers(&mut self, consumers: Consumers) {
        self.ever_consumed.extend(consumers.names().map(str::to_owned));
        self.consumers = consumers;
    }

    /// Stores the result of a look; returns the events that are due, one for each queue.
    pub fn take(&mut self, look: QueueLook, now: Instant) -> Vec<EventKind> {
        self.set_consumers(look.consumers);
        let mut waiting = look.waiting;
        for queue in look.decided {
            match waiting.remove(&queue) {
                Some(messages) => {
                    let entry = self.unconsumed.entry(queue).or_insert_with(|| UnconsumedQueue {
                        since: now,
                        noticed: false,
                        messages: HashMap::new(),
                    });
                    entry.messages = messages;
                }
                None => drop(self.unconsumed.remove(&queue)),
            }
        }
        let mut events = Vec::new();
        for (queue, entry) in &mut self.unconsumed {
            let was_consumed = self.ever_consumed.contains(queue);
            let grace = match was_consumed {
                true => LOST_CONSUMER_NOTICE_GRACE,
                false => Duration::ZERO,
            };
            if entry.noticed || now < entry.since + grace {
                continue;
            }
            entry.noticed = true;
            events.push(EventKind::QueueUnconsumed {
                queue: queue.clone(),
                waiting: entry.messages.values().sum(),
                was_consumed,
                workers: self.consumers.described(),
            });
        }
        events
    }

    /// Describes the remaining work of a job after all other tasks of the job have ended; `None` if the job has no
    /// message in such a queue.
    pub fn left_of(&self, root: &TaskId, now: Instant) -> Option<RemainingWork> {
        let waiting: Vec<(&String, u64, Instant)> = self
            .unconsumed
            .iter()
            .filter_map(|(queue, entry)| {
                let grace = match self.ever_consumed.contains(queue) {
                    true => LOST_CONSUMER_GRACE,
                    false => FIRST_CONSUMER_GRACE,
                };
                Some((queue, *entry.messages.get(root)?, entry.since + grace))
            })
            .collect();
        let last = waiting.iter().map(|(_, _, until)| *until).max()?;
        let count: u64 = waiting.iter().map(|(_, count, _)| *count).sum();
        let queues = match waiting.as_slice() {
            [(queue, _, _)] => format!("the queue `{queue}`"),
            queues => {
                let named: Vec<String> = queues
                    .iter()
                    .take(MAX_NAMED_QUEUES)
                    .map(|(queue, ..)| format!("`{queue}`"))
                    .collect();
                let more = match queues.len().saturating_sub(MAX_NAMED_QUEUES) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("the queues {}{more}", named.join(", "))
            }
        };
        let (verb, of_job) = match count {
            1 => ("waits", "1 of its tasks".to_owned()),
            count => ("wait", format!("{count} of its tasks")),
        };
        let reason = format!(
            "{of_job} {verb} in {queues}, which no worker consumes; {}",
            self.consumers.described()
        );
        Some(match now < last {
            true => RemainingWork::Unsure(reason),
            false => RemainingWork::Unconsumed(reason),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_celery::NodeName;

    fn consumers(queues: &[&str], unknown: u64) -> Consumers {
        let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
        Consumers {
            queues: BTreeMap::from([(NodeName::from("w1@h"), queues)]),
            unknown,
        }
    }

    /// Returns a look at `slow` and `celery`, with this number of messages of the job `root` in `slow`.
    fn look(consumed: &[&str], slow: u64) -> QueueLook {
        let messages = HashMap::from([(TaskId::from("root"), slow)]);
        QueueLook {
            decided: ["slow", "celery"].map(str::to_owned).into(),
            waiting: (slow > 0).then(|| ("slow".to_owned(), messages)).into_iter().collect(),
            consumers: consumers(consumed, 0),
        }
    }

    #[test]
    fn a_queue_that_never_had_a_consumer_is_reported_once_and_believed_after_a_grace() {
        let (mut watch, start) = (QueueWatch::default(), Instant::now());
        let root = TaskId::from("root");
        let reported = |waiting, was_consumed| {
            [EventKind::QueueUnconsumed {
                queue: "slow".to_owned(),
                waiting,
                was_consumed,
                workers: "worker w1@h consumes celery".to_owned(),
            }]
        };
        assert_eq!(watch.take(look(&["celery"], 5), start), reported(5, false));
        let reason = "4 of its tasks wait in the queue `slow`, which no worker consumes; worker w1@h consumes celery";
        let almost = (start + FIRST_CONSUMER_GRACE)
            .checked_sub(Duration::from_millis(1))
            .unwrap();
        assert!(watch.take(look(&["celery"], 4), almost).is_empty());
        assert_eq!(
            watch.left_of(&root, almost),
            Some(RemainingWork::Unsure(reason.to_owned()))
        );
        let late = start + FIRST_CONSUMER_GRACE;
        assert_eq!(
            watch.left_of(&root, late),
            Some(RemainingWork::Unconsumed(reason.to_owned()))
        );
        assert_eq!(watch.left_of(&TaskId::from("another"), late), None);

        // A worker has come: the queue is like any other, and has its longer grace period when that worker goes.
        assert!(watch.take(look(&["celery", "slow"], 0), late).is_empty());
        assert_eq!(watch.left_of(&root, late), None);
        assert!(watch.take(look(&["celery"], 4), late).is_empty());
        let notice_due = late + LOST_CONSUMER_NOTICE_GRACE;
        assert_eq!(watch.take(look(&["celery"], 4), notice_due), reported(4, true));
        let after = late + FIRST_CONSUMER_GRACE;
        assert_eq!(
            watch.left_of(&root, after),
            Some(RemainingWork::Unsure(reason.to_owned()))
        );
        let after = late + LOST_CONSUMER_GRACE;
        assert_eq!(
            watch.left_of(&root, after),
            Some(RemainingWork::Unconsumed(reason.to_owned()))
        );
    }

    #[test]
    fn a_look_that_could_not_decide_changes_nothing() {
        let (mut watch, start) = (QueueWatch::default(), Instant::now());
        let root = TaskId::from("root");
        watch.take(look(&["celery"], 2), start);
        let unknown = QueueLook {
            decided: BTreeSet::from(["celery".to_owned()]),
            waiting: BTreeMap::new(),
            consumers: consumers(&["celery"], 1),
        };
        let late = start + FIRST_CONSUMER_GRACE;
        assert!(watch.take(unknown, late).is_empty());
        assert!(watch.left_of(&root, late).is_some());
        // A worker that is gone again has taken the messages.
        watch.take(look(&["celery"], 0), late);
        assert_eq!(watch.left_of(&root, late), None);
    }

    #[test]
    fn several_queues_are_named_together() {
        let (mut watch, start) = (QueueWatch::default(), Instant::now());
        let messages = || HashMap::from([(TaskId::from("root"), 2)]);
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let look = QueueLook {
            decided: names.clone().into(),
            waiting: names.map(|name| (name, messages())).into(),
            consumers: consumers(&["celery"], 0),
        };
        assert_eq!(watch.take(look, start).len(), 4);
        let Some(RemainingWork::Unsure(reason)) = watch.left_of(&TaskId::from("root"), start) else {
            panic!("messages must wait");
        };
        assert!(
            reason.starts_with("8 of its tasks wait in the queues `a`, `b`, `c` and 1 more, which"),
            "{reason}"
        );
    }

    #[test]
    fn workers_are_asked_only_when_a_queue_has_no_consumer_or_does_not_become_shorter() {
        let mut watch = QueueWatch::default();
        watch.set_consumers(consumers(&["celery"], 0));
        for (celery, slow, doubtful) in [
            (0, 0, false),
            (9, 0, false),
            (5, 0, false),
            (5, 0, true),
            (7, 0, true),
            (2, 0, false),
            (0, 0, false),
            (0, 1, true),
        ] {
            let depths = BTreeMap::from([("celery".to_owned(), celery), ("slow".to_owned(), slow)]);
            assert_eq!(watch.is_doubtful(&depths), doubtful, "{celery} {slow}");
        }
    }
}
