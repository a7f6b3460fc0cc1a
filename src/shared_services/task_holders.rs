//! Which worker holds which task, as far as events and answers tell: `unacked` does not say whose a message is.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use crate::celery::{NodeName, TaskId};

/// Tasks that are remembered: workers hold so many when each of a hundred has prefetched two thousand.
const LIMIT: usize = 200_000;

/// Last known holder of each task that has not ended.
#[derive(Default)]
pub struct TaskHolders(Mutex<HolderTable>);

#[derive(Default)]
struct HolderTable {
    tasks: HashMap<TaskId, Arc<NodeName>>,
    /// One copy of each name.
    nodes: Vec<Arc<NodeName>>,
}

impl TaskHolders {
    /// A worker has taken a task. It holds the task until the task ends, or another worker takes it.
    pub fn took(&self, node: &str, task: &TaskId) {
        let mut held = self.held();
        let known = held.nodes.iter().find(|known| known.as_str() == node).cloned();
        let node = known.unwrap_or_else(|| {
            let node = Arc::new(NodeName::from(node));
            held.nodes.push(Arc::clone(&node));
            node
        });
        if held.tasks.len() < LIMIT || held.tasks.contains_key(task) {
            held.tasks.insert(task.clone(), node);
        }
    }

    /// The task has ended, or is on its queue again.
    pub fn let_go(&self, task: &TaskId) {
        self.held().tasks.remove(task);
    }

    /// Events were missed: any task may be in other hands.
    pub fn forget(&self) {
        self.held().tasks.clear();
    }

    /// The tasks of a worker that holds nothing any more.
    pub fn take_of(&self, node: &NodeName) -> HashSet<TaskId> {
        let mut held = self.held();
        let of_node = held.tasks.extract_if(|_, holder| **holder == *node);
        of_node.map(|(task, _)| task).collect()
    }

    fn held(&self) -> MutexGuard<'_, HolderTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_with_who_took_it_last_until_it_ends() {
        let holders = TaskHolders::default();
        let [a, b, c] = ["a", "b", "c"].map(TaskId::from);
        for (node, task) in [("one@h", &a), ("one@h", &b), ("one@h", &c), ("two@h", &b)] {
            holders.took(node, task);
        }
        holders.let_go(&c);
        assert_eq!(holders.take_of(&"one@h".into()), HashSet::from([a.clone()]));
        assert!(holders.take_of(&"one@h".into()).is_empty(), "taken");
        holders.took("two@h", &a);
        holders.forget();
        assert!(holders.take_of(&"two@h".into()).is_empty(), "events were missed");
    }

    #[test]
    fn a_flood_of_tasks_is_not_remembered_without_end() {
        let holders = TaskHolders::default();
        for number in 0..LIMIT + 10 {
            holders.took("one@h", &TaskId::from(number.to_string()));
        }
        holders.took("two@h", &TaskId::from("0"));
        assert_eq!(holders.take_of(&"two@h".into()).len(), 1);
        assert_eq!(holders.take_of(&"one@h".into()).len(), LIMIT - 1);
    }
}
