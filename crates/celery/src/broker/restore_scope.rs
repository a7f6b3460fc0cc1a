//! Scope of a restore: the messages that may be requeued, and the workers that must reply before
//! ([`restore_unacked`](super::restore_unacked) moves the messages).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::worker_tasks::WorkerTasks;
use crate::control::mailbox::ControlReplies;
use crate::wire::ids::{NodeName, TaskId};
use crate::wire::message::QueuedTask;

/// Messages that are requeued, with the condition for it.
pub(crate) enum RestoreScope<'a> {
    /// Messages of any dead worker. Every listener must report its tasks.
    AllReplied,
    /// Messages of any dead worker. Every listener except `dead` must report its tasks. A person has declared the
    /// `dead` workers as dead; `with_heartbeats` contains the workers that have just sent a heartbeat.
    ExceptDead {
        dead: &'a BTreeSet<NodeName>,
        with_heartbeats: BTreeSet<NodeName>,
    },
    /// Messages of a worker whose process ended at `until` (Unix seconds), as observed. `tasks` are the tasks that the
    /// worker is known to have held.
    Process { tasks: &'a HashSet<TaskId>, until: f64 },
    /// Messages of the jobs of these dispatch tasks that were taken up to `until` (Unix seconds). A worker that died
    /// at that time may have held more tasks than known. Every listener must report its tasks, and every worker in
    /// `living` too, because such a worker may not have reconnected yet after a restart of Redis.
    Jobs {
        roots: &'a HashSet<TaskId>,
        until: f64,
        living: &'a BTreeSet<NodeName>,
    },
}

/// Replies of workers about the tasks that they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldTasks {
    pub tasks: HashSet<TaskId>,
    /// Workers that have replied to all commands.
    pub answered: BTreeSet<NodeName>,
    /// Workers that replied to a command with an error, with that error.
    pub refused: BTreeMap<NodeName, String>,
    /// Number of replies to the command with the fewest replies.
    pub answers: u64,
    pub listeners: u64,
}

impl RestoreScope<'_> {
    /// Returns the reason why no message may be moved, if there is one.
    pub fn objection(&self, held: &HeldTasks) -> Option<String> {
        let HeldTasks { answers, listeners, .. } = held;
        let refused = |but: &BTreeSet<NodeName>| {
            let mut refused = held.refused.iter().filter(|(node, _)| !but.contains(*node));
            refused.next().map(|(node, why)| format!("{node} {why}"))
        };
        match self {
            RestoreScope::Process { .. } => None,
            RestoreScope::AllReplied | RestoreScope::Jobs { .. } if *listeners == 0 => {
                Some("no worker listens".to_owned())
            }
            RestoreScope::AllReplied | RestoreScope::Jobs { .. } if answers < listeners => {
                Some(format!("{answers} of {listeners} workers have answered"))
            }
            RestoreScope::AllReplied => refused(&BTreeSet::new()),
            RestoreScope::Jobs { living, .. } => {
                let mut silent = living.difference(&held.answered);
                let is_silent = |node: &NodeName| format!("{node} is alive and has not reported its tasks");
                refused(&BTreeSet::new()).or_else(|| silent.next().map(is_silent))
            }
            RestoreScope::ExceptDead { dead, with_heartbeats } => {
                let is_alive = |node: &&NodeName| held.answered.contains(*node) || with_heartbeats.contains(*node);
                if let Some(node) = dead.iter().find(is_alive) {
                    return Some(format!("{node} is alive: it answers or sends heartbeats"));
                }
                let mut silent = with_heartbeats.iter().filter(|node| !held.answered.contains(*node));
                if let Some(node) = silent.next() {
                    return Some(format!("{node} sends heartbeats and has not reported its tasks"));
                }
                let missing = listeners.saturating_sub(*answers);
                let named = u64::try_from(dead.len()).unwrap_or(u64::MAX);
                if missing > named {
                    return Some(format!(
                        "{answers} of {listeners} workers have answered, and {named} of the others are named as dead"
                    ));
                }
                refused(dead)
            }
        }
    }

    pub fn concerns(&self, task: &QueuedTask, taken_at: Option<f64>) -> bool {
        let was_taken_by = |until: &f64| taken_at.is_none_or(|taken_at| taken_at <= *until);
        match self {
            RestoreScope::AllReplied | RestoreScope::ExceptDead { .. } => true,
            RestoreScope::Process { tasks, until } => tasks.contains(&task.id) && was_taken_by(until),
            RestoreScope::Jobs { roots, until, .. } => roots.contains(task.root()) && was_taken_by(until),
        }
    }
}

impl HeldTasks {
    /// Returns the tasks of all workers, and the workers that replied.
    pub fn of(workers: &WorkerTasks) -> Self {
        let WorkerTasks {
            scheduled,
            reserved,
            active,
        } = workers;
        let mut held = Self {
            answered: active.good().map(|(node, _)| node.clone()).collect(),
            answers: u64::MAX,
            ..Self::default()
        };
        for list in scheduled.good().map(|(_, list)| list) {
            held.tasks.extend(list.iter().map(|task| task.request.id.clone()));
        }
        for list in reserved.good().chain(active.good()).map(|(_, list)| list) {
            held.tasks.extend(list.iter().map(|task| task.id.clone()));
        }
        held.add_replies(scheduled);
        held.add_replies(reserved);
        held.add_replies(active);
        held
    }

    /// Adds the replies to one command.
    fn add_replies<T>(&mut self, replies: &ControlReplies<T>) {
        self.answers = self.answers.min(replies.answers);
        self.listeners = self.listeners.max(replies.listeners);
        self.answered.retain(|node| replies.of(node).is_some());
        for (node, answer) in &replies.nodes {
            if let Err(why) = answer {
                self.refused.insert(node.clone(), why.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|name| NodeName::from(*name)).collect()
    }

    fn held(answered: &[&str], listeners: u64) -> HeldTasks {
        HeldTasks {
            answered: nodes(answered),
            answers: answered.len() as u64,
            listeners,
            ..HeldTasks::default()
        }
    }

    #[test]
    fn all_workers_except_the_named_dead_ones_must_reply() {
        let without = |dead: &[&str], with_heartbeats: &[&str], held: HeldTasks| {
            let (dead, with_heartbeats) = (nodes(dead), nodes(with_heartbeats));
            RestoreScope::ExceptDead {
                dead: &dead,
                with_heartbeats,
            }
            .objection(&held)
        };
        // The broker still counts the dead worker's connection, or no longer does. Also valid when no worker remains.
        assert_eq!(without(&["d"], &["a"], held(&["a"], 2)), None);
        assert_eq!(without(&["d"], &["a"], held(&["a"], 1)), None);
        assert_eq!(without(&["d"], &[], held(&[], 0)), None);
        for (dead, with_heartbeats, held, word) in [
            (vec!["d"], vec![], held(&["a", "d"], 2), "d is alive"),
            (vec!["d"], vec!["d", "a"], held(&["a"], 2), "d is alive"),
            (vec!["d"], vec!["a", "b"], held(&["a"], 2), "b sends heartbeats"),
            (vec!["d"], vec!["a"], held(&["a"], 3), "1 of 3 workers"),
        ] {
            let why = without(&dead, &with_heartbeats, held).unwrap();
            assert!(why.contains(word), "{why}");
        }
        let mut refuses = held(&["a"], 2);
        refuses.refused.insert(NodeName::from("b"), "is confused".to_owned());
        assert_eq!(
            without(&["d"], &["a"], refuses.clone()).as_deref(),
            Some("b is confused")
        );
        assert_eq!(without(&["b"], &["a"], refuses), None);
    }

    #[test]
    fn every_listener_must_reply_unless_the_end_of_the_process_was_observed() {
        let all = |held: &HeldTasks| RestoreScope::AllReplied.objection(held);
        assert_eq!(all(&held(&["a", "b"], 2)), None);
        assert_eq!(all(&held(&[], 0)).as_deref(), Some("no worker listens"));
        assert_eq!(all(&held(&["a"], 2)).as_deref(), Some("1 of 2 workers have answered"));
        let tasks = HashSet::from([TaskId::from("t")]);
        let scope = RestoreScope::Process {
            tasks: &tasks,
            until: 10.0,
        };
        assert_eq!(scope.objection(&held(&["a"], 2)), None);
        let [held_task, other] = ["t", "u"].map(TaskId::from);
        for (task, taken_at, concerns) in [
            (&held_task, Some(9.0), true),
            (&held_task, None, true),
            // Another worker has taken the message since.
            (&held_task, Some(11.0), false),
            (&other, Some(9.0), false),
        ] {
            let message = message(task, None);
            assert_eq!(scope.concerns(&message, taken_at), concerns, "{task} {taken_at:?}");
        }
    }

    fn message(id: &TaskId, root: Option<&TaskId>) -> QueuedTask {
        QueuedTask {
            id: id.clone(),
            name: None,
            root_id: root.cloned(),
            routing_key: None,
        }
    }

    #[test]
    fn messages_of_the_jobs_of_the_run_are_requeued_when_every_listener_replies() {
        let [root, other, task] = ["r", "o", "t"].map(TaskId::from);
        let roots = HashSet::from([root.clone()]);
        let living = nodes(&["a"]);
        let jobs = RestoreScope::Jobs {
            roots: &roots,
            until: 10.0,
            living: &living,
        };
        assert_eq!(
            jobs.objection(&held(&["b"], 1)).as_deref(),
            Some("a is alive and has not reported its tasks")
        );
        assert_eq!(jobs.objection(&held(&["a", "b"], 2)), None);
        assert_eq!(
            jobs.objection(&held(&["a"], 2)).as_deref(),
            Some("1 of 2 workers have answered")
        );
        assert_eq!(jobs.objection(&held(&[], 0)).as_deref(), Some("no worker listens"));
        for (id, its_root, taken_at, concerns) in [
            (&task, Some(&root), Some(9.0), true),
            (&task, Some(&root), None, true),
            (&root, Some(&root), Some(9.0), true),
            (&root, None, Some(9.0), true),
            // Another worker has taken the message since.
            (&task, Some(&root), Some(11.0), false),
            // The message belongs to another job.
            (&task, Some(&other), Some(9.0), false),
            (&task, None, Some(9.0), false),
        ] {
            let message = message(id, its_root);
            assert_eq!(
                jobs.concerns(&message, taken_at),
                concerns,
                "{id} {its_root:?} {taken_at:?}"
            );
        }
    }
}
