//! Worker processes that share a node name. A message to one reaches all of them, the answer of one counts as that of
//! the other, and the events of both seem to come from one worker: all data about such a worker is uncertain.
//!
//! A process may answer twice to one request, for example after a new connection: that is one process.

use std::fmt;
use std::time::Duration;

use super::process_watch::is_celery;
use orch_celery::{Client, ControlReplies, ControlTarget, NodeName, WorkerStats};
use orch_journal::{NodeProcess, SharedNodeName};

/// Largest difference in seconds of the uptimes in two answers of one process.
const SAME_UPTIME: u64 = 1;

/// A node name that several worker processes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedName {
    pub node: NodeName,
    /// Their pids, each in the pid namespace of the machine or container.
    pids: Vec<u32>,
}

impl SharedName {
    /// Finds names with answers of different processes.
    pub fn among(replies: &ControlReplies<WorkerStats>) -> Vec<Self> {
        let mut found = Vec::new();
        for (node, stats) in replies.good() {
            let mut processes = vec![stats];
            for other in replies.replaced(node) {
                if !processes.iter().any(|known| is_same_process(known, other)) {
                    processes.push(other);
                }
            }
            if processes.len() > 1 {
                let mut pids: Vec<u32> = processes.iter().map(|stats| stats.pid).collect();
                pids.sort_unstable();
                found.push(Self {
                    node: node.clone(),
                    pids,
                });
            }
        }
        found
    }

    /// Checks whether this name is shared; also returns `None` if the workers cannot be asked.
    pub async fn of(client: &Client, node: &NodeName, within: Duration) -> Option<Self> {
        // A request to a named node ends with the first answer; a pattern collects all of them.
        let target = ControlTarget::Glob(exactly(node.as_str()));
        let replies = client.control().stats(&target, within).await.ok()?;
        Self::among(&replies).into_iter().find(|shared| shared.node == *node)
    }

    /// Returns the name and the processes as events and messages name them.
    pub fn described(&self) -> SharedNodeName {
        let processes = self.pids.iter().map(|pid| NodeProcess {
            pid: *pid,
            on_this_host: is_here(*pid),
        });
        SharedNodeName {
            node: self.node.to_string(),
            processes: processes.collect(),
        }
    }
}

impl fmt::Display for SharedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.described().fmt(formatter)
    }
}

/// Decides whether two answers are from one process; two containers may both have a worker with pid 1.
fn is_same_process(one: &WorkerStats, other: &WorkerStats) -> bool {
    let pools_differ = !one.pool_processes.is_empty()
        && !other.pool_processes.is_empty()
        && !one.pool_processes.iter().any(|pid| other.pool_processes.contains(pid));
    let uptimes_differ = one
        .uptime
        .zip(other.uptime)
        .is_some_and(|(one, other)| one.abs_diff(other) > SAME_UPTIME);
    one.pid == other.pid && !pools_differ && !uptimes_differ
}

/// Returns true if a Celery process of this pid runs on this machine.
fn is_here(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(is_celery)
}

/// Returns the pattern that matches only this text.
fn exactly(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '[' | '*' | '?' => pattern.extend(['[', letter, ']']),
            _ => pattern.push(letter),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn stats(pid: u32, pool_processes: &[u32], uptime: Option<u64>) -> WorkerStats {
        WorkerStats {
            pid,
            pool_processes: pool_processes.to_vec(),
            uptime,
            ..WorkerStats::default()
        }
    }

    #[test]
    fn names_of_several_processes_are_found_and_a_process_that_answers_twice_is_one() {
        let far = u32::MAX;
        for (first, second, pids) in [
            (stats(far, &[], None), stats(far - 1, &[], None), Some([far - 1, far])),
            (
                stats(far, &[8, 9], None),
                stats(far - 1, &[8, 9], None),
                Some([far - 1, far]),
            ),
            // Pids of two containers.
            (stats(1, &[8, 9], None), stats(1, &[7, 10], None), Some([1, 1])),
            (stats(1, &[8], Some(90)), stats(1, &[8], Some(7)), Some([1, 1])),
            // Over two connections, while the pool changes.
            (stats(far, &[8, 9], Some(90)), stats(far, &[9, 10], Some(91)), None),
            (stats(far, &[], None), stats(far, &[], None), None),
            (stats(far, &[far], Some(5)), stats(far, &[far], Some(5)), None),
        ] {
            let node = NodeName::from("w@h");
            let shown = format!("{first:?} {second:?}");
            let replies = ControlReplies {
                nodes: BTreeMap::from([
                    (node.clone(), Ok(second)),
                    (NodeName::from("other"), Ok(stats(5, &[], None))),
                ]),
                replaced: vec![(node.clone(), first)],
                ..ControlReplies::default()
            };
            let expected = pids.map(|pids| SharedName {
                node,
                pids: pids.to_vec(),
            });
            assert_eq!(SharedName::among(&replies), Vec::from_iter(expected), "{shown}");
        }
    }

    #[test]
    fn the_text_names_each_process() {
        let shared = SharedName {
            node: "w@h".into(),
            pids: vec![u32::MAX - 2, u32::MAX - 1, u32::MAX],
        };
        assert_eq!(
            shared.to_string(),
            "3 workers have the same name w@h: pid 4294967293 (not seen on this host), pid 4294967294 (not seen on this host) \
             and pid 4294967295 (not seen on this host)"
        );
    }

    #[test]
    fn a_name_with_signs_of_a_pattern_is_asked_for_as_it_is() {
        assert_eq!(exactly("w[1]*?@h"), "w[[]1][*][?]@h");
    }
}
