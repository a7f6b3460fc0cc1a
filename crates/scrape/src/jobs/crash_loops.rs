//! Counts how often each task has lost the pool process.
//!
//! With late acknowledgement and `reject_on_worker_lost` a worker puts such a task back on the queue, every time: a
//! task that is too big for the machine is redelivered forever. The worker sends `task-rejected` with `requeue` and
//! nothing more (`celery/worker/request.py`, `on_failure`). A task that raises `Reject(requeue=True)` causes the same
//! event; the difference is that a process of the pool is gone.
//!
//! Not here: how the processes are compared, and the revocation of such a task ([`super::monitor`]).

use std::collections::HashSet;

use orch_celery::{NodeName, TaskId};

/// Number of lost processes after which a task is revoked.
const CRASH_LIMIT: u32 = 3;

#[derive(Debug, Default)]
struct CrashCount {
    crashes: u32,
    /// Task name; known from the second delivery on.
    name: Option<String>,
}

/// Task that has lost the pool process too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashingTask {
    pub task: TaskId,
    pub name: Option<String>,
    pub crashes: u32,
}

/// Crash counts of tasks; a task that ends is forgotten.
#[derive(Debug, Default)]
pub struct CrashCounts {
    /// Counts by task, looked up with each event.
    counts: foldhash::HashMap<TaskId, CrashCount>,
    /// Tasks that these workers have put back, and that are not judged yet.
    suspects: Vec<(NodeName, TaskId)>,
}

impl CrashCounts {
    /// Notes `task-rejected` with `requeue`.
    pub fn put_back(&mut self, node: NodeName, task: TaskId) {
        self.counts.entry(task.clone()).or_default();
        self.suspects.push((node, task));
    }

    /// Notes `task-received`.
    pub fn note_received(&mut self, task: &TaskId, name: Option<&str>) {
        if self.counts.is_empty() {
            return;
        }
        if let (Some(count), Some(name)) = (self.counts.get_mut(task), name) {
            count.name.get_or_insert_with(|| name.to_owned());
        }
    }

    /// Forgets a task that has ended in any way.
    pub fn forget(&mut self, task: &TaskId) {
        // The map is nearly always empty, and this function runs for each chunk.
        if !self.counts.is_empty() {
            self.counts.remove(task);
        }
    }

    pub fn is_suspicious(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Judges the suspects of a worker by the processes of the worker's pool before and now. Returns the tasks that
    /// must be revoked; a task is returned again with each further lost process.
    pub fn judge(&mut self, node: &NodeName, before: &HashSet<u32>, now: &HashSet<u32>) -> Vec<CrashingTask> {
        let of_node = self.suspects.extract_if(.., |(suspect, _)| suspect == node);
        let tasks: HashSet<TaskId> = of_node.map(|(_, task)| task).collect();
        if before.is_subset(now) {
            return Vec::new();
        }
        let mut crashing = Vec::new();
        for task in tasks {
            let Some(count) = self.counts.get_mut(&task) else {
                continue;
            };
            count.crashes += 1;
            if count.crashes >= CRASH_LIMIT {
                crashing.push(CrashingTask {
                    task,
                    name: count.name.clone(),
                    crashes: count.crashes,
                });
            }
        }
        crashing
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
    fn the_third_crash_of_one_task_is_reported_and_every_further_one() {
        let mut crashes = CrashCounts::default();
        let mut reported = Vec::new();
        for first in 1..=4 {
            crashes.put_back(node(), id("a"));
            assert!(crashes.is_suspicious());
            reported.push(crashes.judge(&node(), &pool(&[first, 100]), &pool(&[first + 1, 100])));
            assert!(!crashes.is_suspicious());
            crashes.note_received(&id("a"), Some("shop.chunk"));
        }
        let crashing = |crashes| {
            vec![CrashingTask {
                task: id("a"),
                name: Some("shop.chunk".to_owned()),
                crashes,
            }]
        };
        assert_eq!(reported, [vec![], vec![], crashing(3), crashing(4)]);
    }

    #[test]
    fn a_task_that_the_app_puts_back_itself_has_not_crashed() {
        let mut crashes = CrashCounts::default();
        for _ in 0..10 {
            crashes.put_back(node(), id("a"));
            assert_eq!(crashes.judge(&node(), &pool(&[1, 2]), &pool(&[1, 2, 3])), []);
        }
    }

    #[test]
    fn an_end_clears_the_count_and_the_suspects_of_another_worker_wait() {
        let mut crashes = CrashCounts::default();
        for _ in 0..5 {
            crashes.put_back(node(), id("a"));
            assert_eq!(crashes.judge(&"other@h".into(), &pool(&[1]), &pool(&[2])), []);
            assert!(crashes.is_suspicious());
            assert_eq!(crashes.judge(&node(), &pool(&[1]), &pool(&[2])), []);
            crashes.forget(&id("a"));
        }
        assert!(crashes.counts.is_empty());
    }
}
