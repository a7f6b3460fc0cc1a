//! Which worker consumes which queues, and which queues have no consumer.

use std::collections::{BTreeMap, BTreeSet};

use super::NodeName;
use super::inspect::ConsumedQueue;
use super::mailbox::Replies;

/// Workers and queues that a text names; further ones are counted.
const NAMED: usize = 4;

/// The queues that workers consume at one moment, as they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumers {
    /// By worker; only workers that answered.
    pub queues: BTreeMap<NodeName, BTreeSet<String>>,
    /// Answers that are missing or not usable. Each may hide a worker, for example one that is busy.
    pub unknown: u64,
}

/// The answer to "does a worker consume this queue?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumed {
    Yes,
    /// All workers answered, at least one, and none of them consumes it.
    No,
    /// No worker that answered consumes it, and one that did not answer may; or no worker answered at all.
    Unknown,
}

impl Consumers {
    /// Reads the answers of all workers to `active_queues`.
    pub fn of(replies: &Replies<Vec<ConsumedQueue>>) -> Self {
        let names = |queues: &Vec<ConsumedQueue>| queues.iter().map(|queue| queue.name.clone()).collect();
        let queues: BTreeMap<NodeName, BTreeSet<String>> = replies
            .good()
            .map(|(node, queues)| (node.clone(), names(queues)))
            .collect();
        let good = u64::try_from(queues.len()).unwrap_or(u64::MAX);
        // Two workers of one name answer twice, and one answer replaces the other.
        let expected = replies.listeners.max(replies.answers + replies.malformed);
        Self {
            queues,
            unknown: expected.saturating_sub(good),
        }
    }

    /// Says whether a worker consumes this queue.
    pub fn consumed(&self, queue: &str) -> Consumed {
        if self.of_queue(queue).next().is_some() {
            Consumed::Yes
        } else if self.queues.is_empty() || self.unknown > 0 {
            Consumed::Unknown
        } else {
            Consumed::No
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

    /// Describes who consumes what: `worker w1@host consumes celery, proxies`.
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

/// Whether the list `list` holds messages of the queue `queue`: an app may set `:` as the separator of its priorities.
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
            (one, 0, "celery", Consumed::Yes),
            (one, 0, "slow", Consumed::No),
            (two, 0, "slow", Consumed::Yes),
            // The worker that does not answer may be the one that consumes it.
            (one, 1, "slow", Consumed::Unknown),
            (one, 1, "celery", Consumed::Yes),
            // After `cancel_consumer`.
            (idle, 0, "celery", Consumed::No),
            (&[], 0, "celery", Consumed::Unknown),
            (&[], 2, "celery", Consumed::Unknown),
            // Lists of priorities with a separator of the app's own, and queues whose names begin alike.
            (one, 0, "celery:3", Consumed::Yes),
            (one, 0, "celery:30", Consumed::Yes),
            (one, 0, "celery:", Consumed::No),
            (one, 0, "celery:slow", Consumed::No),
            (one, 0, "celery:3000", Consumed::No),
            (one, 0, "celery-2", Consumed::No),
            (one, 0, "celery2", Consumed::No),
            (one, 0, "cel", Consumed::No),
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
        let failed = || (NodeName::from("w2@h"), Err("it failed".to_owned()));
        for (nodes, listeners, answers, malformed, unknown) in [
            (vec![good()], 1, 1, 0, 0),
            (vec![good()], 2, 1, 0, 1),
            (vec![good(), failed()], 2, 2, 0, 1),
            // Two workers of one name.
            (vec![good()], 2, 2, 0, 1),
            (vec![good()], 2, 1, 1, 1),
            (vec![], 0, 0, 0, 0),
        ] {
            let replies = Replies {
                nodes: nodes.clone().into_iter().collect(),
                listeners,
                answers,
                malformed,
                shared: BTreeMap::new(),
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
    fn who_consumes_what_is_described() {
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
