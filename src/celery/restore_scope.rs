//! Whose messages are put back, and what must have been answered before (`restore` moves them).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::mailbox::Replies;
use super::message::QueuedTask;
use super::{NodeName, TaskId};

/// Whose messages are put back, and with which right.
pub(super) enum RestoreScope<'a> {
    /// Of any dead worker: every listener says what it holds.
    AllAnswer,
    /// As above but for `dead`, which are dead by the word of a person; `beating` were heard just now.
    Without {
        dead: &'a BTreeSet<NodeName>,
        beating: BTreeSet<NodeName>,
    },
    /// Of a worker whose process was seen to end at `until` (unix seconds), of what it is known to have held.
    Process { tasks: &'a HashSet<TaskId>, until: f64 },
    /// Of jobs that these dispatch tasks have started, what was taken until `until` (unix seconds): a worker that died then may
    /// have held more than it is known to. Every listener says what it holds, and so do those that are known to live: one may
    /// not have come back yet after a restart of Redis.
    Jobs {
        roots: &'a HashSet<TaskId>,
        until: f64,
        living: &'a BTreeSet<NodeName>,
    },
}

/// What workers have answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldTasks {
    pub tasks: HashSet<TaskId>,
    /// Who has answered all questions.
    pub answered: BTreeSet<NodeName>,
    /// Who could not answer one, and why.
    pub refused: BTreeMap<NodeName, String>,
    /// Of the question with the fewest answers.
    pub answers: u64,
    pub listeners: u64,
}

impl RestoreScope<'_> {
    /// Why nothing may be moved.
    pub fn doubt(&self, held: &HeldTasks) -> Option<String> {
        let HeldTasks { answers, listeners, .. } = held;
        let refused = |but: &BTreeSet<NodeName>| {
            let mut refused = held.refused.iter().filter(|(node, _)| !but.contains(*node));
            refused.next().map(|(node, why)| format!("{node} {why}"))
        };
        match self {
            RestoreScope::Process { .. } => None,
            RestoreScope::AllAnswer | RestoreScope::Jobs { .. } if *listeners == 0 => {
                Some("no worker listens".to_owned())
            }
            RestoreScope::AllAnswer | RestoreScope::Jobs { .. } if answers < listeners => {
                Some(format!("{answers} of {listeners} workers have answered"))
            }
            RestoreScope::AllAnswer => refused(&BTreeSet::new()),
            RestoreScope::Jobs { living, .. } => {
                let mut silent = living.difference(&held.answered);
                let is_silent = |node: &NodeName| format!("{node} lives and has not said what it holds");
                refused(&BTreeSet::new()).or_else(|| silent.next().map(is_silent))
            }
            RestoreScope::Without { dead, beating } => {
                let lives = |node: &&NodeName| held.answered.contains(*node) || beating.contains(*node);
                if let Some(node) = dead.iter().find(lives) {
                    return Some(format!("{node} lives: it answers, or sends heartbeats"));
                }
                let mut silent = beating.iter().filter(|node| !held.answered.contains(*node));
                if let Some(node) = silent.next() {
                    return Some(format!("{node} sends heartbeats and has not said what it holds"));
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
            RestoreScope::AllAnswer | RestoreScope::Without { .. } => true,
            RestoreScope::Process { tasks, until } => tasks.contains(&task.id) && was_taken_by(until),
            RestoreScope::Jobs { roots, until, .. } => {
                // A dispatch task is its own root; messages of older clients may not name it.
                roots.contains(task.root_id.as_ref().unwrap_or(&task.id)) && was_taken_by(until)
            }
        }
    }
}

impl HeldTasks {
    /// Takes one question's answers into the account of who has answered.
    pub fn judge<T>(&mut self, replies: &Replies<T>) {
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
    fn a_dead_worker_by_name_need_not_answer_and_everybody_else_must() {
        let without = |dead: &[&str], beating: &[&str], held: HeldTasks| {
            let (dead, beating) = (nodes(dead), nodes(beating));
            RestoreScope::Without { dead: &dead, beating }.doubt(&held)
        };
        // Its connection is still counted, or is gone; also when nobody is left.
        assert_eq!(without(&["d"], &["a"], held(&["a"], 2)), None);
        assert_eq!(without(&["d"], &["a"], held(&["a"], 1)), None);
        assert_eq!(without(&["d"], &[], held(&[], 0)), None);
        for (dead, beating, held, word) in [
            (vec!["d"], vec![], held(&["a", "d"], 2), "d lives"),
            (vec!["d"], vec!["d", "a"], held(&["a"], 2), "d lives"),
            (vec!["d"], vec!["a", "b"], held(&["a"], 2), "b sends heartbeats"),
            (vec!["d"], vec!["a"], held(&["a"], 3), "1 of 3 workers"),
        ] {
            let why = without(&dead, &beating, held).unwrap();
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
    fn without_a_name_every_listener_must_answer_and_of_a_seen_death_none() {
        let all = |held: &HeldTasks| RestoreScope::AllAnswer.doubt(held);
        assert_eq!(all(&held(&["a", "b"], 2)), None);
        assert_eq!(all(&held(&[], 0)).as_deref(), Some("no worker listens"));
        assert_eq!(all(&held(&["a"], 2)).as_deref(), Some("1 of 2 workers have answered"));
        let tasks = HashSet::from([TaskId::from("t")]);
        let seen = RestoreScope::Process {
            tasks: &tasks,
            until: 10.0,
        };
        assert_eq!(seen.doubt(&held(&["a"], 2)), None);
        let [ours, other] = ["t", "u"].map(TaskId::from);
        for (task, taken_at, concerns) in [
            (&ours, Some(9.0), true),
            (&ours, None, true),
            // Taken by another since.
            (&ours, Some(11.0), false),
            (&other, Some(9.0), false),
        ] {
            let message = message(task, None);
            assert_eq!(seen.concerns(&message, taken_at), concerns, "{task} {taken_at:?}");
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
    fn what_a_dead_worker_is_not_known_to_have_held_is_put_back_for_the_run_s_own_jobs_when_every_listener_answers() {
        let [root, other, task] = ["r", "o", "t"].map(TaskId::from);
        let roots = HashSet::from([root.clone()]);
        let living = nodes(&["a"]);
        let jobs = RestoreScope::Jobs {
            roots: &roots,
            until: 10.0,
            living: &living,
        };
        assert_eq!(
            jobs.doubt(&held(&["b"], 1)).as_deref(),
            Some("a lives and has not said what it holds")
        );
        assert_eq!(jobs.doubt(&held(&["a", "b"], 2)), None);
        assert_eq!(
            jobs.doubt(&held(&["a"], 2)).as_deref(),
            Some("1 of 2 workers have answered")
        );
        assert_eq!(jobs.doubt(&held(&[], 0)).as_deref(), Some("no worker listens"));
        for (id, its_root, taken_at, concerns) in [
            (&task, Some(&root), Some(9.0), true),
            (&task, Some(&root), None, true),
            (&root, Some(&root), Some(9.0), true),
            (&root, None, Some(9.0), true),
            // Taken by another since.
            (&task, Some(&root), Some(11.0), false),
            // Of somebody else's job.
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
