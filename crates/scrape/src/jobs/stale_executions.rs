//! Executions that a worker lists as running although they have ended: if Redis is away at the moment when a task ends,
//! the worker never removes the task from the list (seen on Celery 5.4 and 5.5). The result of the task may be stored
//! or lost; with late acknowledgement the message stays unacknowledged.
//!
//! A process of a prefork pool runs one task at a time. An execution has ended if the process has begun a later task,
//! waits for the next task, or is not in the pool any more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orch_celery::{NodeName, RunningTask, TaskExecution, TaskId};
use orch_journal::EventKind;

/// Time after which a suspect that is still listed is a stale execution.
const SECOND_LOOK_DELAY: Duration = Duration::from_millis(900);
/// Time after which a suspect is stale if the process is gone: Celery itself waits ten seconds for the last messages of
/// such a process, and then stores how the task ended.
const GONE_TIMEOUT: Duration = Duration::from_secs(12);
/// Number of tasks that an event names.
const MAX_NAMED_TASKS: usize = 10;

/// Executions that workers list although their processes have left them. Cheap to clone; clones share one state.
#[derive(Clone, Debug, Default)]
pub struct StaleExecutions(Arc<Mutex<ExecutionRecords>>);

/// Known facts about pool processes and their executions.
#[derive(Debug, Default)]
struct ExecutionRecords {
    /// Start of each process' latest task, in Unix seconds.
    began: HashMap<(NodeName, u32), f64>,
    suspects: HashMap<TaskExecution, Instant>,
    known: HashSet<TaskExecution>,
}

impl StaleExecutions {
    /// Returns the known stale executions.
    pub fn all(&self) -> HashSet<TaskExecution> {
        self.records().known.clone()
    }

    /// Returns the tasks of the known stale executions and of the suspects.
    pub fn possibly_stale(&self) -> HashSet<TaskId> {
        let records = self.records();
        let executions = records.known.iter().chain(records.suspects.keys());
        executions.map(|execution| execution.task.clone()).collect()
    }

    /// Locks the records. A panic elsewhere leaves no half-written entry.
    fn records(&self) -> MutexGuard<'_, ExecutionRecords> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a worker's list of running tasks; returns the tasks of new stale executions. `pool` are the processes of
    /// the worker's pool, and `idle` those of them that wait for a task, both read after the list. A pool of threads
    /// has no processes: all tasks run under one pid.
    pub(crate) fn update(
        &self,
        node: &NodeName,
        running: &[RunningTask],
        (pool, idle): (&HashSet<u32>, &HashSet<u32>),
        now: Instant,
    ) -> Vec<TaskId> {
        let executions = || {
            let facts = |task: &RunningTask| Some((task.execution()?, task.time_start?));
            running.iter().filter_map(facts).filter(|_| !pool.is_empty())
        };
        let mut records = self.records();
        for (execution, begun) in executions() {
            let process = (node.clone(), execution.process);
            let latest = records.began.entry(process).or_insert(begun);
            *latest = latest.max(begun);
        }
        let mut found = Vec::new();
        for (execution, begun) in executions() {
            let latest = records.began.get(&(node.clone(), execution.process));
            let is_left = latest.is_some_and(|latest| begun < *latest) || idle.contains(&execution.process);
            let is_gone = !pool.contains(&execution.process);
            if !is_left && !is_gone {
                records.suspects.remove(&execution);
                continue;
            }
            let delay = if is_left { SECOND_LOOK_DELAY } else { GONE_TIMEOUT };
            let suspected = *records.suspects.entry(execution.clone()).or_insert(now);
            if now >= suspected + delay && records.known.insert(execution.clone()) {
                found.push(execution.task);
            }
        }
        found
    }
}

/// Returns one event for all new stale executions of a worker; `None` if there are none. One broken connection can leave
/// as many stale executions as the pool has slots.
pub fn event(node: &NodeName, stale: &[TaskId]) -> Option<EventKind> {
    let event = || EventKind::StaleExecutionsFound {
        worker: node.to_string(),
        count: stale.len() as u64,
        tasks: stale.iter().take(MAX_NAMED_TASKS).map(TaskId::to_string).collect(),
    };
    (!stale.is_empty()).then(event)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use orch_celery::TaskDeliveryInfo;

    fn task(id: &str, process: u32, begun: f64) -> RunningTask {
        RunningTask {
            id: id.into(),
            name: None,
            args: Value::Null,
            kwargs: Value::Null,
            time_start: Some(begun),
            acknowledged: true,
            worker_pid: Some(process),
            delivery_info: TaskDeliveryInfo::default(),
        }
    }

    #[test]
    fn an_execution_that_its_process_has_left_is_stale_at_the_second_look() {
        let node = NodeName::from("w@h");
        let (pool, idle) = (HashSet::from([1, 2]), HashSet::new());
        let pool = (&pool, &idle);
        let stale = StaleExecutions::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let none: Vec<TaskId> = Vec::new();
        let both = [task("old", 1, 10.0), task("new", 1, 20.0), task("long", 2, 5.0)];
        assert_eq!(stale.update(&node, &both, pool, now), none);
        assert_eq!(
            stale.update(&node, &both[..1], pool, later),
            [TaskId::from("old")],
            "the later task may have ended"
        );
        assert_eq!(stale.update(&node, &both, pool, later), none, "it is reported once");
        assert_eq!(stale.all(), both[0].execution().into_iter().collect());
        let redelivered = task("old", 2, 30.0);
        assert!(
            !stale.all().contains(&redelivered.execution().unwrap()),
            "another execution"
        );
    }

    #[test]
    fn the_last_execution_of_an_idle_or_gone_process_is_stale() {
        let node = NodeName::from("w@h");
        let (pool, none) = (HashSet::from([1, 2]), HashSet::new());
        let idle = HashSet::from([1]);
        let now = Instant::now();
        let both = [task("last", 1, 10.0), task("runs", 2, 10.0)];
        let stale = StaleExecutions::default();
        assert!(stale.update(&node, &both, (&pool, &idle), now).is_empty());
        // The process has begun a task between two looks: the listed task may be that one.
        assert!(
            stale
                .update(&node, &both, (&pool, &none), now + SECOND_LOOK_DELAY)
                .is_empty()
        );
        let again = now + SECOND_LOOK_DELAY * 2;
        assert!(stale.update(&node, &both, (&pool, &idle), again).is_empty());
        let found = stale.update(&node, &both, (&pool, &idle), again + SECOND_LOOK_DELAY);
        assert_eq!(found, [TaskId::from("last")]);

        let stale = StaleExecutions::default();
        let replaced = HashSet::from([2, 3]);
        assert!(stale.update(&node, &both, (&replaced, &none), now).is_empty());
        let early = (now + GONE_TIMEOUT).checked_sub(Duration::from_millis(1)).unwrap();
        assert!(stale.update(&node, &both, (&replaced, &none), early).is_empty());
        let found = stale.update(&node, &both, (&replaced, &none), now + GONE_TIMEOUT);
        assert_eq!(found, [TaskId::from("last")]);
    }

    #[test]
    fn threads_share_a_process_and_leave_no_stale_executions() {
        let stale = StaleExecutions::default();
        let node = NodeName::from("w@h");
        let both = [task("old", 7, 10.0), task("new", 7, 20.0)];
        for seconds in 0..5 {
            let now = Instant::now() + Duration::from_secs(seconds);
            assert!(
                stale
                    .update(&node, &both, (&HashSet::new(), &HashSet::new()), now)
                    .is_empty()
            );
        }
    }

    #[test]
    fn one_event_reports_all_stale_tasks_of_a_worker_and_names_the_first_ones() {
        let node = NodeName::from("orch@vm");
        let tasks = |count: usize| {
            (0..count)
                .map(|number| TaskId::from(format!("task-{number}").as_str()))
                .collect::<Vec<_>>()
        };
        assert_eq!(event(&node, &tasks(0)), None);
        for (found, named) in [(1, 1), (20, MAX_NAMED_TASKS)] {
            let expected = EventKind::StaleExecutionsFound {
                worker: "orch@vm".to_owned(),
                count: found as u64,
                tasks: tasks(named).iter().map(TaskId::to_string).collect(),
            };
            assert_eq!(event(&node, &tasks(found)), Some(expected));
        }
    }
}
