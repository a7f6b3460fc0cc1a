//! Worker processes that share a node name. What is sent to one reaches all of them, one's answer passes for the other's, and
//! the events of both are one worker's: nothing that is known of such a worker is certain.
//!
//! A process may answer twice to one request, as after a connection that it has opened anew: that is one process.

use std::fmt;
use std::time::Duration;

use super::process_watch::is_celery;
use crate::celery::{Client, NodeName, Replies, Stats, Target};

/// Two answers of one process are no further apart by its own count, in seconds.
const SAME_UPTIME: u64 = 1;

/// A name that several worker processes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedName {
    pub node: NodeName,
    /// Their pids, each as its own machine counts.
    pids: Vec<u32>,
}

impl SharedName {
    /// Finds the names that answers of different processes have.
    pub fn among(replies: &Replies<Stats>) -> Vec<Self> {
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

    /// Asks whether this name is shared; `None` also where nobody can be asked.
    pub async fn of(client: &Client, node: &NodeName, within: Duration) -> Option<Self> {
        // To a node that is named one answer would be enough.
        let target = Target::Glob(exactly(node.as_str()));
        let replies = client.control().stats(&target, within).await.ok()?;
        Self::among(&replies).into_iter().find(|shared| shared.node == *node)
    }

    /// What the person who starts the workers has to do.
    pub const CURE: &'static str = "stop all but one of them, or give each its own name: `celery worker -n worker2@%h`";
}

impl fmt::Display for SharedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, pids } = self;
        write!(formatter, "{} workers have the same name {node}: ", pids.len())?;
        for (at, pid) in pids.iter().enumerate() {
            let separator = match at {
                0 => "",
                _ if at + 1 == pids.len() => " and ",
                _ => ", ",
            };
            let place = match is_here(*pid) {
                true => "on this host",
                false => "not seen on this host",
            };
            write!(formatter, "{separator}pid {pid} ({place})")?;
        }
        Ok(())
    }
}

/// Two containers may both have a worker with pid 1.
fn is_same_process(one: &Stats, other: &Stats) -> bool {
    let pools_differ = !one.pool_processes.is_empty()
        && !other.pool_processes.is_empty()
        && !one.pool_processes.iter().any(|pid| other.pool_processes.contains(pid));
    let uptimes_differ = one
        .uptime
        .zip(other.uptime)
        .is_some_and(|(one, other)| one.abs_diff(other) > SAME_UPTIME);
    one.pid == other.pid && !pools_differ && !uptimes_differ
}

/// Whether a Celery process of this pid runs on this machine.
fn is_here(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(is_celery)
}

/// The pattern that fits this text alone.
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

    fn stats(pid: u32, pool_processes: &[u32], uptime: Option<u64>) -> Stats {
        Stats {
            pid,
            pool_processes: pool_processes.to_vec(),
            uptime,
            ..Stats::default()
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
            // As containers count.
            (stats(1, &[8, 9], None), stats(1, &[7, 10], None), Some([1, 1])),
            (stats(1, &[8], Some(90)), stats(1, &[8], Some(7)), Some([1, 1])),
            // Over two connections, while its pool changes.
            (stats(far, &[8, 9], Some(90)), stats(far, &[9, 10], Some(91)), None),
            (stats(far, &[], None), stats(far, &[], None), None),
            (stats(far, &[far], Some(5)), stats(far, &[far], Some(5)), None),
        ] {
            let node = NodeName::from("w@h");
            let shown = format!("{first:?} {second:?}");
            let replies = Replies {
                nodes: BTreeMap::from([
                    (node.clone(), Ok(second)),
                    (NodeName::from("other"), Ok(stats(5, &[], None))),
                ]),
                replaced: vec![(node.clone(), first)],
                ..Replies::default()
            };
            let expected = pids.map(|pids| SharedName {
                node,
                pids: pids.to_vec(),
            });
            assert_eq!(SharedName::among(&replies), Vec::from_iter(expected), "{shown}");
        }
    }

    #[test]
    fn a_person_reads_who_they_are() {
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
