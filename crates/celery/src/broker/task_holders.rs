//! The worker that holds each task, as far as events and answers show: `unacked` does not name the holder of a message.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use crate::wire::ids::{NodeName, TaskId};

/// Number of tasks that are recorded: a hundred workers with two thousand prefetched tasks each hold as many.
const LIMIT: usize = 200_000;

/// The last known holder of each task that has not ended.
#[derive(Default)]
pub struct TaskHolders(Mutex<HolderTable>);

#[derive(Default)]
struct HolderTable {
    tasks: HashMap<TaskId, Arc<NodeName>>,
    /// One shared copy of each name.
    nodes: Vec<Arc<NodeName>>,
}

impl TaskHolders {
    /// Records that a worker has taken a task. The worker holds the task until the task ends, or another worker takes
    /// it.
    pub fn record_taken(&self, node: &str, task: &TaskId) {
        let mut table = self.table();
        let known = table.nodes.iter().find(|known| known.as_str() == node).cloned();
        let node = known.unwrap_or_else(|| {
            let node = Arc::new(NodeName::from(node));
            table.nodes.push(Arc::clone(&node));
            node
        });
        if table.tasks.len() < LIMIT || table.tasks.contains_key(task) {
            table.tasks.insert(task.clone(), node);
        }
    }

    /// Records that the task has ended, or is in the queue again.
    pub fn record_released(&self, task: &TaskId) {
        self.table().tasks.remove(task);
    }

    /// Clears all holders after missed events: any task may have another holder.
    pub fn forget(&self) {
        self.table().tasks.clear();
    }

    /// Removes and returns the tasks of a worker that holds nothing any more.
    pub fn take_tasks_of(&self, node: &NodeName) -> HashSet<TaskId> {
        let mut table = self.table();
        let of_node = table.tasks.extract_if(|_, holder| **holder == *node);
        of_node.map(|(task, _)| task).collect()
    }

    fn table(&self) -> MutexGuard<'_, HolderTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_taker_holds_a_task_until_it_ends() {
        let holders = TaskHolders::default();
        let [a, b, c] = ["a", "b", "c"].map(TaskId::from);
        for (node, task) in [("one@h", &a), ("one@h", &b), ("one@h", &c), ("two@h", &b)] {
            holders.record_taken(node, task);
        }
        holders.record_released(&c);
        assert_eq!(holders.take_tasks_of(&"one@h".into()), HashSet::from([a.clone()]));
        assert!(holders.take_tasks_of(&"one@h".into()).is_empty(), "taken");
        holders.record_taken("two@h", &a);
        holders.forget();
        assert!(holders.take_tasks_of(&"two@h".into()).is_empty(), "events were missed");
    }

    #[test]
    fn the_number_of_recorded_tasks_is_limited() {
        let holders = TaskHolders::default();
        for number in 0..LIMIT + 10 {
            holders.record_taken("one@h", &TaskId::from(number.to_string()));
        }
        holders.record_taken("two@h", &TaskId::from("0"));
        assert_eq!(holders.take_tasks_of(&"two@h".into()).len(), 1);
        assert_eq!(holders.take_tasks_of(&"one@h".into()).len(), LIMIT - 1);
    }
}
