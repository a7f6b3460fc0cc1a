//! Queues with the workers that consume them, and queues without a consumer.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::inspect::ConsumedQueue;
use crate::control::mailbox::ControlReplies;
use crate::wire::ids::NodeName;

/// Number of workers and queues that a text names. Further ones are only counted.
const NAMED: usize = 4;

/// Queues that workers consume at one moment, as the workers report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumers {
    /// Queues by worker. Only workers that replied are included.
    pub queues: BTreeMap<NodeName, BTreeSet<String>>,
    /// Number of replies that are missing or unusable. Each may belong to a worker, for example a busy one.
    pub unknown: u64,
}

/// Answer to the question whether a worker consumes a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerPresence {
    Yes,
    /// All workers replied (at least one), and none of them consumes the queue.
    No,
    /// No worker that replied consumes the queue, but a worker without a reply may consume it, or no worker replied at
    /// all.
    Unknown,
}

impl Consumers {
    /// Reads the replies of all workers to `active_queues`.
    pub fn of(replies: &ControlReplies<Vec<ConsumedQueue>>) -> Self {
        let names = |queues: &Vec<ConsumedQueue>| queues.iter().map(|queue| queue.name.clone()).collect();
        let queues: BTreeMap<NodeName, BTreeSet<String>> = replies
            .good()
            .map(|(node, queues)| (node.clone(), names(queues)))
            .collect();
        let good = u64::try_from(queues.len()).unwrap_or(u64::MAX);
        // Two workers with the same name send two replies, and one reply replaces the other.
        let expected = replies.listeners.max(replies.answers + replies.malformed);
        Self {
            queues,
            unknown: expected.saturating_sub(good),
        }
    }

    /// Decides whether a worker consumes this queue.
    pub fn consumed(&self, queue: &str) -> ConsumerPresence {
        if self.of_queue(queue).next().is_some() {
            ConsumerPresence::Yes
        } else if self.queues.is_empty() || self.unknown > 0 {
            ConsumerPresence::Unknown
        } else {
            ConsumerPresence::No
        }
    }

    /// Returns the workers that consume this queue.
    pub fn of_queue<'c>(&'c self, queue: &'c str) -> impl Iterator<Item = &'c NodeName> {
        let consumes = move |queues: &BTreeSet<String>| queues.iter().any(|name| is_list_of(queue, name));
        self.queues
            .iter()
            .filter(move |(_, queues)| consumes(queues))
            .map(|(node, _)| node)
    }

    /// Returns all queues that a worker consumes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.queues.values().flatten().map(String::as_str)
    }

    /// Describes the workers and their queues: `worker w1@host consumes celery, proxies`.
    pub fn described(&self) -> String {
        if self.queues.is_empty() {
            return "no worker answers".to_owned();
        }
        let one = |(node, queues): (&NodeName, &BTreeSet<String>)| match queues.len() {
            0 => format!("worker {node} consumes no queue"),
            _ => format!("worker {node} consumes {}", listed(queues.iter().map(String::as_str))),
        };
        let workers: Vec<String> = self.queues.iter().take(NAMED).map(one).collect();
        let mut text = workers.join("; ");
        match self.queues.len().saturating_sub(NAMED) {
            0 => {}
            1 => text.push_str("; 1 more worker answers"),
            more => text.push_str(&format!("; {more} more workers answer")),
        }
        match self.unknown {
            0 => text,
            1 => text + "; 1 worker has not answered",
            unknown => text + &format!("; {unknown} workers have not answered"),
        }
    }
}

/// Returns true when the list `list` holds messages of the queue `queue`. An app may use `:` to separate the priority.
fn is_list_of(list: &str, queue: &str) -> bool {
    match list.strip_prefix(queue) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix(':')
            .is_some_and(|step| matches!(step.len(), 1..=3) && step.bytes().all(|byte| byte.is_ascii_digit())),
        None => false,
    }
}

fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumers(workers: &[(&str, &[&str])], unknown: u64) -> Consumers {
        let names = |queues: &[&str]| queues.iter().map(|queue| (*queue).to_owned()).collect();
        Consumers {
            queues: workers
                .iter()
                .map(|(node, queues)| (NodeName::from(*node), names(queues)))
                .collect(),
            unknown,
        }
    }

    #[test]
    fn a_queue_without_a_consumer_is_certain_only_when_all_workers_answered() {
        let one: &[(&str, &[&str])] = &[("w1@h", &["celery", "proxies"])];
        let two: &[(&str, &[&str])] = &[("w1@h", &["celery"]), ("w2@h", &["slow"])];
        let idle: &[(&str, &[&str])] = &[("w1@h", &[])];
        for (workers, unknown, queue, expected) in [
            (one, 0, "celery", ConsumerPresence::Yes),
            (one, 0, "slow", ConsumerPresence::No),
            (two, 0, "slow", ConsumerPresence::Yes),
            // The worker without a reply may be the one that consumes the queue.
            (one, 1, "slow", ConsumerPresence::Unknown),
            (one, 1, "celery", ConsumerPresence::Yes),
            // After `cancel_consumer`.
            (idle, 0, "celery", ConsumerPresence::No),
            (&[], 0, "celery", ConsumerPresence::Unknown),
            (&[], 2, "celery", ConsumerPresence::Unknown),
            // Lists of priorities with a separator that the app has configured, and queues with similar names.
            (one, 0, "celery:3", ConsumerPresence::Yes),
            (one, 0, "celery:30", ConsumerPresence::Yes),
            (one, 0, "celery:", ConsumerPresence::No),
            (one, 0, "celery:slow", ConsumerPresence::No),
            (one, 0, "celery:3000", ConsumerPresence::No),
            (one, 0, "celery-2", ConsumerPresence::No),
            (one, 0, "celery2", ConsumerPresence::No),
            (one, 0, "cel", ConsumerPresence::No),
        ] {
            assert_eq!(
                consumers(workers, unknown).consumed(queue),
                expected,
                "{queue} of {workers:?} {unknown}"
            );
        }
    }

    #[test]
    fn answers_that_are_missing_or_not_usable_are_counted() {
        let queue = |name: &str| ConsumedQueue {
            name: name.to_owned(),
            routing_key: None,
        };
        let good = || (NodeName::from("w1@h"), Ok(vec![queue("celery")]));
        let failed = || (NodeName::from("w2@h"), Err("the command failed".to_owned()));
        for (nodes, listeners, answers, malformed, unknown) in [
            (vec![good()], 1, 1, 0, 0),
            (vec![good()], 2, 1, 0, 1),
            (vec![good(), failed()], 2, 2, 0, 1),
            // Two workers with the same name.
            (vec![good()], 2, 2, 0, 1),
            (vec![good()], 2, 1, 1, 1),
            (vec![], 0, 0, 0, 0),
        ] {
            let replies = ControlReplies {
                nodes: nodes.clone().into_iter().collect(),
                listeners,
                answers,
                malformed,
                shared_names: BTreeMap::new(),
                replaced: Vec::new(),
            };
            assert_eq!(
                Consumers::of(&replies).unknown,
                unknown,
                "{nodes:?} {listeners} {answers}"
            );
        }
    }

    #[test]
    fn workers_and_their_queues_are_described() {
        for (workers, unknown, text) in [
            (consumers(&[], 0), 0, "no worker answers"),
            (
                consumers(&[("b@vm", &["proxies", "celery"])], 0),
                0,
                "worker b@vm consumes celery, proxies",
            ),
            (
                consumers(&[("a@vm", &[]), ("b@vm", &["1", "2", "3", "4", "5", "6"])], 0),
                2,
                "worker a@vm consumes no queue; worker b@vm consumes 1, 2, 3, 4 and 2 more; 2 workers have not answered",
            ),
            (
                consumers(
                    &[
                        ("a@h", &["q"]),
                        ("b@h", &["q"]),
                        ("c@h", &["q"]),
                        ("d@h", &["q"]),
                        ("e@h", &["q"]),
                    ],
                    0,
                ),
                1,
                "worker a@h consumes q; worker b@h consumes q; worker c@h consumes q; worker d@h consumes q; 1 more \
                 worker answers; 1 worker has not answered",
            ),
        ] {
            let workers = Consumers { unknown, ..workers };
            assert_eq!(workers.described(), text);
        }
    }
}
