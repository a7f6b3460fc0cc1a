//! Executions that a worker lists as running and that run no more: when Redis is away at the moment a task ends, the worker
//! never forgets the task (seen on Celery 5.4 and 5.5). Its result may be stored or lost; with late acknowledgement its
//! message stays unacknowledged.
//!
//! A process of a prefork pool runs one task at a time: one that has begun a later task, or waits for its next one, has ended
//! the earlier; and so has one that is not of the pool any more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::celery::{Execution, NodeName, RunningTask, TaskId};

/// A suspect that is still listed after this is a ghost.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(900);
/// The same where the process is gone: Celery itself waits ten seconds for what it may have sent last, then says how the
/// task ended.
const GONE_TIMEOUT: Duration = Duration::from_secs(12);

/// Which executions workers list though their processes have left them behind. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Ghosts(Arc<Mutex<Sightings>>);

/// What is known about processes and what they run.
#[derive(Debug, Default)]
struct Sightings {
    /// When each process began its latest task, unix seconds.
    began: HashMap<(NodeName, u32), f64>,
    suspects: HashMap<Execution, Instant>,
    known: HashSet<Execution>,
}

impl Ghosts {
    /// Those that are known.
    pub fn all(&self) -> HashSet<Execution> {
        self.sightings().known.clone()
    }

    /// The tasks of those that are known, and of those that look like it.
    pub fn left_behind(&self) -> HashSet<TaskId> {
        let sightings = self.sightings();
        let executions = sightings.known.iter().chain(sightings.suspects.keys());
        executions.map(|execution| execution.task.clone()).collect()
    }

    /// A panic elsewhere leaves whole entries.
    fn sightings(&self) -> MutexGuard<'_, Sightings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a worker's list of running tasks into account; gives the ghosts that are new. `pool` are the processes of
    /// the worker's pool, `idle` those of them that wait for a task, both as of after the list: threads have none, and run
    /// many tasks under one number.
    pub(super) fn see(
        &self,
        node: &NodeName,
        running: &[RunningTask],
        (pool, idle): (&HashSet<u32>, &HashSet<u32>),
        now: Instant,
    ) -> Vec<TaskId> {
        let at_work = || {
            let facts = |task: &RunningTask| Some((task.execution()?, task.time_start?));
            running.iter().filter_map(facts).filter(|_| !pool.is_empty())
        };
        let mut sightings = self.sightings();
        for (execution, begun) in at_work() {
            let process = (node.clone(), execution.process);
            let latest = sightings.began.entry(process).or_insert(begun);
            *latest = latest.max(begun);
        }
        let mut found = Vec::new();
        for (execution, begun) in at_work() {
            let latest = sightings.began.get(&(node.clone(), execution.process));
            let is_left = latest.is_some_and(|latest| begun < *latest) || idle.contains(&execution.process);
            let is_gone = !pool.contains(&execution.process);
            if !is_left && !is_gone {
                sightings.suspects.remove(&execution);
                continue;
            }
            let patience = if is_left { SECOND_LOOK_AFTER } else { GONE_TIMEOUT };
            let suspected = *sightings.suspects.entry(execution.clone()).or_insert(now);
            if now >= suspected + patience && sightings.known.insert(execution.clone()) {
                found.push(execution.task);
            }
        }
        found
    }
}

/// Names the tasks that a worker lists as running though their processes have gone on; `None` if there are none. One line
/// for all of them: after one broken connection there can be as many as the pool has slots.
pub fn notice(node: &NodeName, stale: &[TaskId]) -> Option<String> {
    let (first, others) = stale.split_first()?;
    Some(match others {
        [] => format!(
            "worker {node} lists task {first} as running, but its process has left it: the worker does not learn how it ended"
        ),
        [..] => format!(
            "worker {node} lists {} tasks as running that their processes have left: the worker does not learn how they \
             ended; the first is {first}",
            stale.len()
        ),
    })
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
        let (pool, idle) = (HashSet::from([1, 2]), HashSet::new());
        let pool = (&pool, &idle);
        let ghosts = Ghosts::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let none: Vec<TaskId> = Vec::new();
        let both = [task("old", 1, 10.0), task("new", 1, 20.0), task("long", 2, 5.0)];
        assert_eq!(ghosts.see(&node, &both, pool, now), none);
        assert_eq!(
            ghosts.see(&node, &both[..1], pool, later),
            [TaskId::from("old")],
            "the later one may be done"
        );
        assert_eq!(ghosts.see(&node, &both, pool, later), none, "told once");
        assert_eq!(ghosts.all(), both[0].execution().into_iter().collect());
        let redelivered = task("old", 2, 30.0);
        assert!(
            !ghosts.all().contains(&redelivered.execution().unwrap()),
            "another execution"
        );
    }

    #[test]
    fn what_an_idle_process_ran_last_is_a_ghost_and_so_is_what_a_gone_one_ran() {
        let node = NodeName::from("w@h");
        let (pool, none) = (HashSet::from([1, 2]), HashSet::new());
        let idle = HashSet::from([1]);
        let now = Instant::now();
        let both = [task("last", 1, 10.0), task("runs", 2, 10.0)];
        let ghosts = Ghosts::default();
        assert!(ghosts.see(&node, &both, (&pool, &idle), now).is_empty());
        // It has begun something between two looks: what is listed may be that.
        assert!(
            ghosts
                .see(&node, &both, (&pool, &none), now + SECOND_LOOK_AFTER)
                .is_empty()
        );
        let again = now + SECOND_LOOK_AFTER * 2;
        assert!(ghosts.see(&node, &both, (&pool, &idle), again).is_empty());
        let found = ghosts.see(&node, &both, (&pool, &idle), again + SECOND_LOOK_AFTER);
        assert_eq!(found, [TaskId::from("last")]);

        let ghosts = Ghosts::default();
        let replaced = HashSet::from([2, 3]);
        assert!(ghosts.see(&node, &both, (&replaced, &none), now).is_empty());
        let early = now + GONE_TIMEOUT - Duration::from_millis(1);
        assert!(ghosts.see(&node, &both, (&replaced, &none), early).is_empty());
        let found = ghosts.see(&node, &both, (&replaced, &none), now + GONE_TIMEOUT);
        assert_eq!(found, [TaskId::from("last")]);
    }

    #[test]
    fn threads_share_a_process_and_leave_no_ghosts() {
        let ghosts = Ghosts::default();
        let node = NodeName::from("w@h");
        let both = [task("old", 7, 10.0), task("new", 7, 20.0)];
        for seconds in 0..5 {
            let now = Instant::now() + Duration::from_secs(seconds);
            assert!(
                ghosts
                    .see(&node, &both, (&HashSet::new(), &HashSet::new()), now)
                    .is_empty()
            );
        }
    }

    #[test]
    fn one_line_names_all_stale_tasks_of_a_worker() {
        let node = NodeName::from("orch@vm");
        let tasks = |count: usize| {
            (0..count)
                .map(|number| TaskId::from(format!("task-{number}").as_str()))
                .collect::<Vec<_>>()
        };
        assert_eq!(notice(&node, &tasks(0)), None);
        let one = notice(&node, &tasks(1)).unwrap();
        assert!(one.contains("lists task task-0 as running"), "{one}");
        let many = notice(&node, &tasks(20)).unwrap();
        assert!(
            many.contains("lists 20 tasks") && many.contains("the first is task-0"),
            "{many}"
        );
        assert!(!many.contains("task-1"), "{many}");
    }
}
