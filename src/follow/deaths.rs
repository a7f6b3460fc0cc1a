//! How often each task has taken its pool process with it into death.
//!
//! With late acknowledgement and `reject_on_worker_lost` a worker puts such a task back on its queue, every time: one
//! that is too big for the machine is redelivered for ever. The worker says `task-rejected` with `requeue` and nothing
//! more (`celery/worker/request.py`, `on_failure`), as it does for a task that raises `Reject(requeue=True)`; what tells
//! the two apart is that a process of its pool is gone. Not here: how that is found out, and what is done about it
//! (`desk`).

use std::collections::HashSet;

use crate::celery::{NodeName, TaskId};

/// After so many deaths a task is revoked.
const LIMIT: u32 = 3;

#[derive(Debug, Default)]
struct Case {
    deaths: u32,
    /// Known from its second delivery on.
    name: Option<String>,
}

/// A task that has died often enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadly {
    pub task: TaskId,
    pub name: Option<String>,
    pub deaths: u32,
}

/// The memory of deaths; tasks that end are forgotten.
#[derive(Debug, Default)]
pub struct Deaths {
    /// Looked up with each event.
    cases: foldhash::HashMap<TaskId, Case>,
    /// Put back by these workers, and not judged yet.
    suspects: Vec<(NodeName, TaskId)>,
}

impl Deaths {
    /// `task-rejected` with `requeue`.
    pub fn put_back(&mut self, node: NodeName, task: TaskId) {
        self.cases.entry(task.clone()).or_default();
        self.suspects.push((node, task));
    }

    /// `task-received`.
    pub fn received(&mut self, task: &TaskId, name: Option<&str>) {
        if self.cases.is_empty() {
            return;
        }
        if let (Some(case), Some(name)) = (self.cases.get_mut(task), name) {
            case.name.get_or_insert_with(|| name.to_owned());
        }
    }

    /// Any end.
    pub fn ended(&mut self, task: &TaskId) {
        // Nearly always; and this comes with each chunk.
        if !self.cases.is_empty() {
            self.cases.remove(task);
        }
    }

    pub fn is_suspicious(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Judges the suspects of a worker by the processes of its pool before and now; gives those that must be revoked,
    /// at each further death again.
    pub fn judge(&mut self, node: &NodeName, before: &HashSet<u32>, now: &HashSet<u32>) -> Vec<Deadly> {
        let of_node = self.suspects.extract_if(.., |(suspect, _)| suspect == node);
        let tasks: HashSet<TaskId> = of_node.map(|(_, task)| task).collect();
        if before.is_subset(now) {
            return Vec::new();
        }
        let mut deadly = Vec::new();
        for task in tasks {
            let Some(case) = self.cases.get_mut(&task) else {
                continue;
            };
            case.deaths += 1;
            if case.deaths >= LIMIT {
                deadly.push(Deadly {
                    task,
                    name: case.name.clone(),
                    deaths: case.deaths,
                });
            }
        }
        deadly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::from(text)
    }

    fn node() -> NodeName {
        NodeName::from("w@h")
    }

    fn pool(processes: &[u32]) -> HashSet<u32> {
        processes.iter().copied().collect()
    }

    #[test]
    fn the_third_death_of_one_task_is_told_and_every_further_one() {
        let mut deaths = Deaths::default();
        let mut told = Vec::new();
        for first in 1..=4 {
            deaths.put_back(node(), id("a"));
            assert!(deaths.is_suspicious());
            told.push(deaths.judge(&node(), &pool(&[first, 100]), &pool(&[first + 1, 100])));
            assert!(!deaths.is_suspicious());
            deaths.received(&id("a"), Some("shop.chunk"));
        }
        let deadly = |deaths| {
            vec![Deadly {
                task: id("a"),
                name: Some("shop.chunk".to_owned()),
                deaths,
            }]
        };
        assert_eq!(told, [vec![], vec![], deadly(3), deadly(4)]);
    }

    #[test]
    fn what_the_app_puts_back_itself_is_no_death() {
        let mut deaths = Deaths::default();
        for _ in 0..10 {
            deaths.put_back(node(), id("a"));
            assert_eq!(deaths.judge(&node(), &pool(&[1, 2]), &pool(&[1, 2, 3])), []);
        }
    }

    #[test]
    fn an_end_clears_the_record_and_another_worker_s_suspects_wait() {
        let mut deaths = Deaths::default();
        for _ in 0..5 {
            deaths.put_back(node(), id("a"));
            assert_eq!(deaths.judge(&"other@h".into(), &pool(&[1]), &pool(&[2])), []);
            assert!(deaths.is_suspicious());
            assert_eq!(deaths.judge(&node(), &pool(&[1]), &pool(&[2])), []);
            deaths.ended(&id("a"));
        }
        assert!(deaths.cases.is_empty());
    }
}
