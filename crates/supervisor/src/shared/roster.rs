//! The shared workers of a run and their states, as a pure state: answers, ends of processes and time are the inputs,
//! changes are the outputs.
//!
//! A busy worker is not dead: a worker with a living process is alive. Only a pool with a main process that answers at
//! all times can be silent for too long. Not here: the questions to workers
//! ([`worker_watch`](crate::shared::worker_watch)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use orch_celery::NodeName;

/// Longest silence of a worker with a prefork or threads pool, which answers within a second even when busy.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence of a solo or gevent worker, which answers only between two tasks or two waits.
const BUSY_SILENCE_TIMEOUT: Duration = Duration::from_secs(300);

/// The answer of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerAnswer {
    pub pid: u32,
    /// The main process only answers and distributes tasks.
    pub answers_always: bool,
    /// The worker consumes a queue of the run.
    pub is_consumer: bool,
}

/// A change in the set of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RosterChange {
    /// The worker is new: the process may be watched.
    Came { node: NodeName, pid: u32 },
    Died {
        node: NodeName,
        pid: u32,
        /// The end of the process was observed.
        is_seen: bool,
    },
}

#[derive(Clone, Debug)]
struct RosterMember {
    answer: WorkerAnswer,
    /// The process is watched: the worker is alive until the process ends.
    is_watched: bool,
    answered_at: Instant,
}

impl RosterMember {
    fn is_silent(&self, now: Instant) -> bool {
        let timeout = match self.answer.answers_always {
            true => SILENCE_TIMEOUT,
            false => BUSY_SILENCE_TIMEOUT,
        };
        now.saturating_duration_since(self.answered_at) >= timeout
    }
}

/// The shared workers of a run.
#[derive(Clone, Debug)]
pub(crate) struct WorkerRoster {
    members: BTreeMap<NodeName, RosterMember>,
    /// Time at which a consuming worker last answered, or was last known to be alive.
    consumed_at: Instant,
    /// A consuming worker exists that is neither gone nor silent.
    is_consumed: bool,
    last_consumer: Option<(NodeName, u32)>,
}

impl WorkerRoster {
    pub fn new(now: Instant) -> Self {
        Self {
            members: BTreeMap::new(),
            consumed_at: now,
            is_consumed: false,
            last_consumer: None,
        }
    }

    /// Applies one poll: all workers were asked, and these have answered.
    pub fn answered(&mut self, answers: BTreeMap<NodeName, WorkerAnswer>, now: Instant) -> Vec<RosterChange> {
        let mut changes = Vec::new();
        for (node, answer) in answers {
            let pid = answer.pid;
            match self.members.get_mut(&node) {
                Some(member) if member.answer.pid == pid => {
                    member.answer = answer;
                    member.answered_at = now;
                    continue;
                }
                // The end of a watched process is reported by the watch, which may come a little later.
                Some(member) if member.is_watched => continue,
                Some(member) => changes.push(RosterChange::Died {
                    node: node.clone(),
                    pid: member.answer.pid,
                    is_seen: false,
                }),
                None => {}
            }
            let member = RosterMember {
                answer,
                is_watched: false,
                answered_at: now,
            };
            self.members.insert(node.clone(), member);
            changes.push(RosterChange::Came { node, pid });
        }
        let gone: Vec<NodeName> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_watched && member.is_silent(now))
            .map(|(node, _)| node.clone())
            .collect();
        for node in gone {
            if let Some(member) = self.members.remove(&node) {
                let pid = member.answer.pid;
                let is_seen = false;
                changes.push(RosterChange::Died { node, pid, is_seen });
            }
        }
        self.update_consumers(now);
        changes
    }

    /// Records that the process of a worker is watched, or that the watch cannot be trusted.
    pub fn set_watched(&mut self, node: &NodeName, pid: u32, is_watched: bool) {
        if let Some(member) = self.members.get_mut(node).filter(|member| member.answer.pid == pid) {
            member.is_watched = is_watched;
        }
    }

    /// Records the end of a worker's watched process.
    pub fn ended(&mut self, node: &NodeName, pid: u32, now: Instant) -> Option<RosterChange> {
        self.members.get(node).filter(|member| member.answer.pid == pid)?;
        self.update_consumers(now);
        let member = self.members.remove(node)?;
        let was_consuming = self.is_consumed && member.answer.is_consumer;
        self.update_consumers(now);
        if was_consuming && !self.is_consumed {
            // The process lived until now.
            self.consumed_at = now;
        }
        Some(RosterChange::Died {
            node: node.clone(),
            pid,
            is_seen: true,
        })
    }

    /// Resets all silences: the broker was down, or orch was suspended, so a missing answer proves nothing.
    pub fn reset_silences(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            member.answered_at = now;
        }
        self.consumed_at = now;
    }

    fn update_consumers(&mut self, now: Instant) {
        let is_busy = |member: &RosterMember| member.is_watched && !member.answer.answers_always;
        let seen_at = |member: &RosterMember| if is_busy(member) { now } else { member.answered_at };
        let consumes = |member: &RosterMember| member.answer.is_consumer && (is_busy(member) || !member.is_silent(now));
        let there = self.members.iter().filter(|(_, member)| consumes(member));
        let last = there.max_by_key(|(_, member)| seen_at(member));
        self.is_consumed = last.is_some();
        if let Some((node, member)) = last {
            self.consumed_at = seen_at(member);
            self.last_consumer = Some((node.clone(), member.answer.pid));
        }
    }

    /// Returns the time without a consuming worker, and the last one. The time counts from the worker's end, or from
    /// the last answer if the process is not watched.
    pub fn absence(&self, now: Instant) -> (Duration, Option<&(NodeName, u32)>) {
        let absent = match self.is_consumed {
            true => Duration::ZERO,
            false => now.saturating_duration_since(self.consumed_at),
        };
        (absent, self.last_consumer.as_ref())
    }

    pub fn pid_of(&self, node: &NodeName) -> Option<u32> {
        Some(self.members.get(node)?.answer.pid)
    }

    pub fn is_consumer(&self, node: &NodeName) -> bool {
        self.members.get(node).is_some_and(|member| member.answer.is_consumer)
    }

    /// Lists the living workers, whether they answer or not.
    pub fn living(&self) -> BTreeSet<NodeName> {
        self.members.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::from(name)
    }

    fn answers<const COUNT: usize>(answers: [(&str, u32, bool); COUNT]) -> BTreeMap<NodeName, WorkerAnswer> {
        answers
            .into_iter()
            .map(|(name, pid, answers_always)| {
                let answer = WorkerAnswer {
                    pid,
                    answers_always,
                    is_consumer: true,
                };
                (node(name), answer)
            })
            .collect()
    }

    fn died(name: &str, pid: u32, is_seen: bool) -> RosterChange {
        let node = node(name);
        RosterChange::Died { node, pid, is_seen }
    }

    fn came(name: &str, pid: u32) -> RosterChange {
        let node = node(name);
        RosterChange::Came { node, pid }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_watched_worker_dies_with_its_process_and_a_successor_of_its_name_is_another() {
        let begun = Instant::now();
        let mut roster = WorkerRoster::new(begun);
        assert_eq!(roster.answered(answers([("a", 1, true)]), begun), [came("a", 1)]);
        roster.set_watched(&node("a"), 1, true);
        // The worker does not answer for an hour, but the process lives.
        assert_eq!(roster.answered(answers([]), begun + seconds(3600)), []);
        assert_eq!(roster.living(), BTreeSet::from([node("a")]));
        // The successor answers before the end of the first process is observed.
        assert_eq!(roster.answered(answers([("a", 2, true)]), begun + seconds(3601)), []);
        assert_eq!(roster.ended(&node("a"), 2, begun + seconds(3601)), None);
        let ended = roster.ended(&node("a"), 1, begun + seconds(3601));
        assert_eq!(ended, Some(died("a", 1, true)));
        assert_eq!(
            roster.ended(&node("a"), 1, begun + seconds(3601)),
            None,
            "reported once"
        );
        assert_eq!(
            roster.answered(answers([("a", 2, true)]), begun + seconds(3602)),
            [came("a", 2)]
        );
    }

    #[test]
    fn an_unwatched_worker_dies_by_silence_or_by_a_successor_and_a_busy_one_later() {
        let begun = Instant::now();
        let mut roster = WorkerRoster::new(begun);
        let all = answers([("always", 1, true), ("solo", 2, false), ("restarted", 3, true)]);
        assert_eq!(roster.answered(all, begun).len(), 3);
        let restarted = || answers([("restarted", 4, true)]);
        assert_eq!(
            roster.answered(restarted(), begun + seconds(19)),
            [died("restarted", 3, false), came("restarted", 4)]
        );
        assert_eq!(
            roster.answered(restarted(), begun + seconds(20)),
            [died("always", 1, false)]
        );
        assert_eq!(roster.answered(restarted(), begun + seconds(299)), []);
        assert_eq!(
            roster.answered(restarted(), begun + seconds(300)),
            [died("solo", 2, false)]
        );
    }

    #[test]
    fn absence_begins_when_the_last_consumer_is_gone_or_silent() {
        let begun = Instant::now();
        let mut roster = WorkerRoster::new(begun);
        assert_eq!(
            roster.absence(begun + seconds(7)),
            (seconds(7), None),
            "none from the start"
        );
        roster.answered(answers([("a", 1, true)]), begun + seconds(10));
        roster.set_watched(&node("a"), 1, true);
        assert_eq!(roster.absence(begun + seconds(10)).0, seconds(0));
        roster.ended(&node("a"), 1, begun + seconds(12));
        let (absent, last) = roster.absence(begun + seconds(15));
        assert_eq!((absent, last), (seconds(3), Some(&(node("a"), 1))));
        // The worker lives and is stopped: such a worker consumes nothing, and keeps the tasks.
        roster.answered(answers([("b", 2, true)]), begun + seconds(20));
        roster.set_watched(&node("b"), 2, true);
        roster.answered(answers([]), begun + seconds(39));
        assert_eq!(roster.absence(begun + seconds(39)).0, seconds(0));
        roster.answered(answers([]), begun + seconds(50));
        assert_eq!(
            roster.absence(begun + seconds(50)).0,
            seconds(30),
            "since its last answer"
        );
        // A living solo worker may execute one task all the time.
        let mut busy = roster.clone();
        busy.answered(answers([("solo", 9, false)]), begun + seconds(50));
        busy.set_watched(&node("solo"), 9, true);
        busy.answered(answers([]), begun + seconds(7200));
        assert_eq!(busy.absence(begun + seconds(7200)).0, seconds(0));
        // A worker of another app does not count.
        let mut others = answers([("c", 3, true)]);
        others.values_mut().for_each(|answer| answer.is_consumer = false);
        roster.answered(others, begun + seconds(60));
        assert_eq!(roster.absence(begun + seconds(60)).0, seconds(40));
    }

    #[test]
    fn no_worker_is_silent_while_the_broker_is_down() {
        let begun = Instant::now();
        let mut roster = WorkerRoster::new(begun);
        roster.answered(answers([("a", 1, true)]), begun);
        roster.reset_silences(begun + seconds(100));
        assert_eq!(roster.answered(answers([]), begun + seconds(119)), []);
        assert_eq!(
            roster.answered(answers([]), begun + seconds(120)),
            [died("a", 1, false)]
        );
    }
}
