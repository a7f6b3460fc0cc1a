//! Tasks that a worker lists as running and that run no more: when Redis is away at the moment a task ends, its result is
//! lost and the worker never forgets the task (seen on Celery 5.4 and 5.5).
//!
//! A process of a prefork pool runs one task at a time: one that has begun a later task has ended the earlier.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::celery::{NodeName, RunningTask, TaskId};

/// A suspect that is still listed after this is a ghost.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(900);

/// What is known about processes and what they run.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// When each process began its latest task, unix seconds.
    began: HashMap<(NodeName, u32), f64>,
    suspects: HashMap<TaskId, Instant>,
    known: HashSet<TaskId>,
}

impl Ghosts {
    /// Takes a worker's list of running tasks into account; gives the ghosts that are new. `pool` are the processes of
    /// the worker's pool: threads have none, and run many tasks under one number.
    pub fn see(&mut self, node: &NodeName, running: &[RunningTask], pool: &HashSet<u32>, now: Instant) -> Vec<TaskId> {
        let at_work = || {
            let facts = |task: &RunningTask| Some((task.id.clone(), task.worker_pid?, task.time_start?));
            running
                .iter()
                .filter_map(facts)
                .filter(|(_, process, _)| pool.contains(process))
        };
        for (_, process, begun) in at_work() {
            let latest = self.began.entry((node.clone(), process)).or_insert(begun);
            *latest = latest.max(begun);
        }
        let mut found = Vec::new();
        for (task, process, begun) in at_work() {
            let overtaken = self
                .began
                .get(&(node.clone(), process))
                .is_some_and(|latest| begun < *latest);
            if !overtaken {
                self.suspects.remove(&task);
            } else if now >= *self.suspects.entry(task.clone()).or_insert(now) + SECOND_LOOK_AFTER
                && self.known.insert(task.clone())
            {
                found.push(task);
            }
        }
        found
    }

    pub fn contains(&self, task: &TaskId) -> bool {
        self.known.contains(task)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::celery::DeliveryInfo;

    fn task(id: &str, process: u32, begun: f64) -> RunningTask {
        RunningTask {
            id: id.into(),
            name: None,
            args: Value::Null,
            kwargs: Value::Null,
            time_start: Some(begun),
            acknowledged: true,
            worker_pid: Some(process),
            delivery_info: DeliveryInfo::default(),
        }
    }

    #[test]
    fn what_its_process_has_left_behind_is_a_ghost_at_the_second_look() {
        let node = NodeName::from("w@h");
        let pool = HashSet::from([1, 2]);
        let mut ghosts = Ghosts::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let none: Vec<TaskId> = Vec::new();
        let both = [task("old", 1, 10.0), task("new", 1, 20.0), task("long", 2, 5.0)];
        assert_eq!(ghosts.see(&node, &both, &pool, now), none);
        assert_eq!(
            ghosts.see(&node, &both[..1], &pool, later),
            [TaskId::from("old")],
            "the later one may be done"
        );
        assert_eq!(ghosts.see(&node, &both, &pool, later), none, "told once");
        assert!(ghosts.contains(&"old".into()) && !ghosts.contains(&"new".into()) && !ghosts.contains(&"long".into()));
    }

    #[test]
    fn threads_share_a_process_and_leave_no_ghosts() {
        let mut ghosts = Ghosts::default();
        let node = NodeName::from("w@h");
        let both = [task("old", 7, 10.0), task("new", 7, 20.0)];
        for seconds in 0..5 {
            let now = Instant::now() + Duration::from_secs(seconds);
            assert!(ghosts.see(&node, &both, &HashSet::new(), now).is_empty());
        }
    }
}
