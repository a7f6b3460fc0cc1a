//! Queues that no worker consumes, with messages of jobs in them: such a job never ends.
//!
//! A message may be in any queue of the broker: an app routes its tasks as it likes. So a job of which the known queues and
//! the workers hold nothing is searched for in all queues, and while jobs run all queues are looked at every few seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::desk::{Desk, Left};
use crate::celery::{self, BrokerQueues, Census, Consumed, Consumers, Target, TaskId, Waiting};
use crate::run::{EventKind, Level};

/// How long workers have to say what they consume.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two looks at all queues of the broker, ...
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
const LONGEST_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// ... and at least this many times as long as the look took, for the sake of large databases.
const LOOK_COST_FACTOR: u32 = 20;
/// Time for a worker to start that consumes a queue which no worker has consumed so far.
const FIRST_CONSUMER_GRACE: Duration = Duration::from_secs(15);
/// Time for a worker to come back that has consumed the queue: it may be restarting, or gets its consumer back.
const LOST_CONSUMER_GRACE: Duration = Duration::from_secs(120);
/// Time before a lost consumer is reported.
const LOST_CONSUMER_NOTICE_GRACE: Duration = Duration::from_secs(10);
/// Queues that a text names; further ones are counted.
const NAMED: usize = 3;

/// One look at some queues.
#[derive(Clone, Debug, Default)]
struct QueueLook {
    /// Queues of which the look can say whether messages of jobs wait in them without a consumer.
    decided: BTreeSet<String>,
    /// Messages of jobs in the queues without a consumer.
    waiting: BTreeMap<String, HashMap<TaskId, u64>>,
    consumers: Consumers,
}

/// A queue without a consumer in which messages of jobs wait.
#[derive(Debug)]
struct Unconsumed {
    since: Instant,
    noticed: bool,
    messages: HashMap<TaskId, u64>,
}

/// What the looks have found so far.
#[derive(Debug, Default)]
pub(super) struct QueueWatch {
    unconsumed: BTreeMap<String, Unconsumed>,
    /// Queues that a worker has consumed at some time.
    ever_consumed: BTreeSet<String>,
    consumers: Consumers,
    /// Messages in all queues of the broker at the last look at them.
    depths: BTreeMap<String, u64>,
}

impl QueueWatch {
    /// Takes in the depths of all queues; says whether the workers must be asked what they consume. They need not be while
    /// each queue with messages had a consumer, and becomes shorter.
    fn is_doubtful(&mut self, depths: &BTreeMap<String, u64>) -> bool {
        let before = std::mem::replace(&mut self.depths, depths.clone());
        let is_doubtful = |(queue, depth): (&String, &u64)| {
            *depth > 0
                && (self.consumers.of_queue(queue).next().is_none()
                    || before.get(queue).is_some_and(|before| *before > 0 && before <= depth))
        };
        !self.unconsumed.is_empty() || depths.iter().any(is_doubtful)
    }

    /// Takes in who consumes what.
    pub(super) fn know_consumers(&mut self, consumers: Consumers) {
        self.ever_consumed.extend(consumers.names().map(str::to_owned));
        self.consumers = consumers;
    }

    /// Takes in a look; returns the notices that are due, each once for a queue.
    fn take(&mut self, look: QueueLook, now: Instant) -> Vec<String> {
        self.know_consumers(look.consumers);
        let mut waiting = look.waiting;
        for queue in look.decided {
            match waiting.remove(&queue) {
                Some(messages) => {
                    let entry = self.unconsumed.entry(queue).or_insert_with(|| Unconsumed {
                        since: now,
                        noticed: false,
                        messages: HashMap::new(),
                    });
                    entry.messages = messages;
                }
                None => drop(self.unconsumed.remove(&queue)),
            }
        }
        let mut notices = Vec::new();
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
            let count = entry.messages.values().sum();
            notices.push(notice(queue, count, was_consumed, &self.consumers));
        }
        notices
    }

    /// Says what is left of a job of which everything else has ended; `None`: it has no message in such a queue.
    fn left_of(&self, root: &TaskId, now: Instant) -> Option<Left> {
        let mine: Vec<(&String, u64, Instant)> = self
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
        let last = mine.iter().map(|(_, _, until)| *until).max()?;
        let count: u64 = mine.iter().map(|(_, count, _)| *count).sum();
        let queues = match mine.as_slice() {
            [(queue, _, _)] => format!("the queue `{queue}`"),
            queues => {
                let named: Vec<String> = queues
                    .iter()
                    .take(NAMED)
                    .map(|(queue, ..)| format!("`{queue}`"))
                    .collect();
                let more = match queues.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("the queues {}{more}", named.join(", "))
            }
        };
        let (verb, of_job) = match count {
            1 => ("waits", "1 task of it".to_owned()),
            count => ("wait", format!("{count} tasks of it")),
        };
        let reason = format!(
            "{of_job} {verb} in {queues}, which no worker consumes; {}",
            self.consumers.described()
        );
        Some(match now < last {
            true => Left::Unsure(reason),
            false => Left::Unconsumed(reason),
        })
    }
}

fn notice(queue: &str, count: u64, was_consumed: bool, consumers: &Consumers) -> String {
    let tasks = match count {
        1 => "1 task of this run waits".to_owned(),
        count => format!("{count} tasks of this run wait"),
    };
    let (any_more, cure) = match was_consumed {
        false => (
            "",
            format!("add `{queue}` to `[celery] queues`, or route the task to a queue that a worker consumes"),
        ),
        true => (
            " any more",
            format!("start its worker again, or give it its consumer back: `orch celery control add-consumer {queue}`"),
        ),
    };
    format!(
        "{tasks} in the queue `{queue}`, which no worker consumes{any_more}; {}\n  hint:  {cure}",
        consumers.described()
    )
}

impl Desk {
    /// Counts what is under way of all jobs that are followed: in the known queues, among the unacknowledged messages and in
    /// the workers; if `everywhere`, in all queues of the broker. Messages in queues without a consumer are left out, see
    /// [`Desk::left_in_unconsumed_queues`]. The look began after the call; several jobs that call at the same time share it.
    pub(super) async fn survey(&self, everywhere: bool) -> celery::Result<Arc<Census>> {
        let called = Instant::now();
        let mut last = self.census.lock().await;
        if let Some((begun, was_everywhere, census)) = last.as_ref()
            && *begun >= called
            && (*was_everywhere || !everywhere)
        {
            return Ok(Arc::clone(census));
        }
        let begun = Instant::now();
        let celery = &self.context.celery;
        let roots = self.roots();
        let all = match everywhere {
            true => celery.broker_queues().await?,
            false => BrokerQueues::default(),
        };
        let (queues, unseen) = self.look_at_queues(&roots, all).await?;
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let mut census = celery.census(&roots, &queues, self.context.ghosts.all()).await?;
        census.unseen = census.unseen.or(unseen);
        let census = Arc::new(census);
        *last = Some((begun, everywhere, Arc::clone(&census)));
        Ok(census)
    }

    /// Says what is left of a job that has nothing in the last survey.
    pub(super) fn left_in_unconsumed_queues(&self, root: &TaskId) -> Option<Left> {
        self.queue_watch().left_of(root, Instant::now())
    }

    /// Whether tasks of a job wait in a queue that no worker consumes.
    pub fn has_unconsumed(&self, root: &TaskId) -> bool {
        self.left_in_unconsumed_queues(root).is_some()
    }

    /// Looks at all queues of the broker every few seconds while jobs are followed, and reports queues without a consumer.
    pub(super) async fn watch_for_unconsumed(&self) -> Infallible {
        let mut pause = LOOK_INTERVAL;
        loop {
            sleep(pause).await;
            let begun = Instant::now();
            if self.roots().is_empty() || !self.context.workers_settled.now() {
                pause = LOOK_INTERVAL;
                continue;
            }
            if let Err(error) = self.look_for_unconsumed().await {
                tracing::debug!(%error, "could not look for queues without a consumer");
            }
            pause = (begun.elapsed() * LOOK_COST_FACTOR).clamp(LOOK_INTERVAL, LONGEST_LOOK_INTERVAL);
        }
    }

    async fn look_for_unconsumed(&self) -> celery::Result<()> {
        let all = self.context.celery.broker_queues().await?;
        let is_doubtful = self.queue_watch().is_doubtful(&all.messages);
        if is_doubtful {
            self.look_at_queues(&self.roots(), all).await?;
        }
        Ok(())
    }

    /// Looks for messages of these jobs in those of the known queues and of `all` that no worker consumes. Returns the other
    /// queues, and what could not be looked at.
    async fn look_at_queues(
        &self,
        roots: &HashSet<TaskId>,
        all: BrokerQueues,
    ) -> celery::Result<(BTreeSet<String>, Option<String>)> {
        let celery = &self.context.celery;
        let control = celery.control();
        let consumers = Consumers::of(&control.active_queues(&Target::All, ANSWER_TIMEOUT).await?);
        let filled = all.messages.into_iter().filter(|(_, messages)| *messages > 0);
        let mut queues: BTreeSet<String> = filled.map(|(queue, _)| queue).collect();
        queues.extend(self.queues_to_look_at());
        queues.extend(consumers.names().map(str::to_owned));
        let (unconsumed, others): (BTreeSet<String>, BTreeSet<String>) = queues
            .into_iter()
            .partition(|queue| consumers.consumed(queue) == Consumed::No);
        let names: Vec<&str> = unconsumed.iter().map(String::as_str).collect();
        let Waiting { by_queue, unseen } = celery.waiting_in(roots, &names).await?;
        // From now on they are looked at each time, and what waits there is removed when its job is ended.
        self.watch_queues(by_queue.keys().cloned());
        let look = QueueLook {
            // Where a worker has not answered, a queue without a consumer stays what it was.
            decided: {
                let consumed = others.iter().filter(|queue| consumers.consumed(queue) == Consumed::Yes);
                unconsumed.iter().chain(consumed).cloned().collect()
            },
            waiting: by_queue,
            consumers,
        };
        let notices = self.queue_watch().take(look, Instant::now());
        for message in notices {
            let level = Level::Warning;
            self.context.recorder.emit(EventKind::Noticed { level, message });
        }
        Ok((others, unseen.or(all.unseen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::NodeName;

    fn consumers(queues: &[&str], unknown: u64) -> Consumers {
        let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
        Consumers {
            queues: BTreeMap::from([(NodeName::from("w1@h"), queues)]),
            unknown,
        }
    }

    /// A look at `slow` and `celery`, with so many messages of the job `root` in `slow`.
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
        let notices = watch.take(look(&["celery"], 5), start);
        assert_eq!(
            notices,
            [
                "5 tasks of this run wait in the queue `slow`, which no worker consumes; worker w1@h consumes celery\n  hint:  \
              add `slow` to `[celery] queues`, or route the task to a queue that a worker consumes"
            ]
        );
        let reason = "4 tasks of it wait in the queue `slow`, which no worker consumes; worker w1@h consumes celery";
        let almost = start + FIRST_CONSUMER_GRACE - Duration::from_millis(1);
        assert!(watch.take(look(&["celery"], 4), almost).is_empty());
        assert_eq!(watch.left_of(&root, almost), Some(Left::Unsure(reason.to_owned())));
        let late = start + FIRST_CONSUMER_GRACE;
        assert_eq!(watch.left_of(&root, late), Some(Left::Unconsumed(reason.to_owned())));
        assert_eq!(watch.left_of(&TaskId::from("another"), late), None);

        // A worker has come: the queue is like any other, and has its longer grace when that worker goes.
        assert!(watch.take(look(&["celery", "slow"], 0), late).is_empty());
        assert_eq!(watch.left_of(&root, late), None);
        assert!(watch.take(look(&["celery"], 4), late).is_empty());
        let notices = watch.take(look(&["celery"], 4), late + LOST_CONSUMER_NOTICE_GRACE);
        assert!(
            notices[0].contains("consumes any more; worker w1@h consumes celery"),
            "{notices:?}"
        );
        let after = late + FIRST_CONSUMER_GRACE;
        assert_eq!(watch.left_of(&root, after), Some(Left::Unsure(reason.to_owned())));
        let after = late + LOST_CONSUMER_GRACE;
        assert_eq!(watch.left_of(&root, after), Some(Left::Unconsumed(reason.to_owned())));
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
        // The messages have been taken, by a worker that is gone again.
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
        let Some(Left::Unsure(reason)) = watch.left_of(&TaskId::from("root"), start) else {
            panic!("something waits");
        };
        assert!(
            reason.starts_with("8 tasks of it wait in the queues `a`, `b`, `c` and 1 more, which"),
            "{reason}"
        );
    }

    #[test]
    fn workers_are_asked_only_when_a_queue_has_no_consumer_or_does_not_become_shorter() {
        let mut watch = QueueWatch::default();
        watch.know_consumers(consumers(&["celery"], 0));
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
