//! Descendants of a task, found in the stored results: the tasks that a task started, the tasks that these started, and
//! so on.
//!
//! Of a large result only the beginning and the end are read: Celery writes the status first and `children` near the
//! end (Celery wire, observed on 5.2 to 5.7).

use std::collections::{BTreeMap, BTreeSet};

use super::result_store::{ResultStore, status_of};
use super::result_tree::{ChildGroup, TaskChildren};
use super::task_result::{TaskResult, TaskState};
use crate::error::{Error, Result};
use crate::wire::ids::{GroupId, TaskId};
use crate::wire::task_outcome::TaskOutcome;

/// Number of results that are read with one pipeline.
const BATCH: usize = 200;
/// Number of bytes that are read first; a shorter result is thereby complete.
const FIRST_BYTES: usize = 4096;
/// Number of bytes at the end of a larger result that are searched for `children`.
const LAST_BYTES: isize = 1024;
/// Largest number of tasks of one job; if there are more, the search stops and reports that tasks may be missing.
const MAX_TASKS: usize = 100_000;
/// Text that Celery writes for a task that succeeded and started no task.
const NO_CHILDREN: &[u8] = br#""traceback": null, "children": [], "date_done": ""#;

/// Task as the stored result shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredTask {
    /// End of the task; `None` if no end is stored.
    pub outcome: Option<TaskOutcome>,
    /// True if a list of children names the task. No list names the callback of a chord and the first task that the
    /// callback starts.
    pub is_listed: bool,
}

/// Result of the search for descendants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskDescendants {
    pub tasks: BTreeMap<TaskId, StoredTask>,
    /// Groups that a list of children or the result of a member names.
    pub groups: BTreeSet<GroupId>,
    /// First failure that was found, as `task ID: EXCEPTION`.
    pub first_failure: Option<String>,
    /// Reason why there may be more tasks.
    pub incomplete_reason: Option<String>,
}

impl TaskDescendants {
    /// Adds the tasks and groups that a task started; appends the ids of unknown tasks to `found`.
    pub fn add(&mut self, children: &TaskChildren, found: &mut Vec<TaskId>) {
        let groups = children.groups.iter().chain(&children.upstream_groups);
        for ChildGroup { id, tasks } in groups {
            self.groups.insert(id.clone());
            self.add_listed(tasks, found);
        }
        self.add_listed(&children.tasks, found);
        self.add_listed(&children.upstream_tasks, found);
    }

    /// Adds tasks that a list of children names; appends the ids of unknown tasks to `found`.
    fn add_listed(&mut self, tasks: &[TaskId], found: &mut Vec<TaskId>) {
        self.add_unknown(tasks, found);
        for task in tasks {
            self.tasks.entry(task.clone()).or_default().is_listed = true;
        }
    }

    /// Adds a further task of the job with the information of the task's result.
    pub fn add_result(&mut self, result: &TaskResult) {
        self.record_result(result, &mut Vec::new());
    }

    /// Marks tasks as named by a list of children. Nothing else of the parent's result is recorded.
    pub fn mark_listed<'t>(&mut self, tasks: impl IntoIterator<Item = &'t TaskId>) {
        for task in tasks {
            self.tasks.entry(task.clone()).or_default().is_listed = true;
        }
    }

    fn add_unknown(&mut self, tasks: &[TaskId], found: &mut Vec<TaskId>) {
        for task in tasks {
            if !self.tasks.contains_key(task) {
                self.tasks.insert(task.clone(), StoredTask::default());
                found.push(task.clone());
            }
        }
    }

    fn record_result(&mut self, result: &TaskResult, found: &mut Vec<TaskId>) {
        self.tasks.entry(result.id.clone()).or_default().outcome = result.state.outcome();
        if let TaskState::Failure(failure) | TaskState::Revoked(failure) = &result.state {
            self.first_failure
                .get_or_insert_with(|| format!("task {}: {failure}", result.id));
        }
        if let Some(group) = &result.group_id {
            self.groups.insert(group.clone());
        }
        self.add(&result.children, found);
    }
}

impl ResultStore {
    /// Finds all tasks that these tasks started, directly and indirectly.
    ///
    /// # Errors
    /// The result backend does not answer within the deadline. An unreadable result is not an error: the returned value
    /// contains the reason.
    pub async fn descendants(&self, of: &[TaskId]) -> Result<TaskDescendants> {
        let mut found = TaskDescendants::default();
        let mut due = Vec::new();
        found.add_unknown(of, &mut due);
        while !due.is_empty() {
            let mut next = Vec::new();
            for batch in due.chunks(BATCH) {
                self.read_batch(batch, &mut found, &mut next).await?;
            }
            if found.tasks.len() > MAX_TASKS {
                found.incomplete_reason = Some(format!("the job has more than {MAX_TASKS} tasks"));
                break;
            }
            due = next;
        }
        Ok(found)
    }

    async fn read_batch(&self, ids: &[TaskId], found: &mut TaskDescendants, next: &mut Vec<TaskId>) -> Result<()> {
        let values = self.read_first_bytes(ids, FIRST_BYTES).await?;
        let mut large = Vec::new();
        for (id, value) in ids.iter().zip(values) {
            match value {
                Err(reason) => {
                    found.incomplete_reason = Some(format!("the result of task {id} cannot be read: {reason}"))
                }
                Ok(value) if value.is_empty() => {}
                Ok(value) if value.len() < FIRST_BYTES => {
                    match TaskResult::decode(&value, id, std::time::Instant::now()) {
                        Ok(result) => found.record_result(&result, next),
                        Err(error) => found.incomplete_reason = Some(error.to_string()),
                    }
                }
                Ok(value) => large.push((id.clone(), value)),
            }
        }
        if large.is_empty() {
            return Ok(());
        }
        let ids: Vec<TaskId> = large.iter().map(|(id, _)| id.clone()).collect();
        let tails = self.read_last_bytes(&ids, LAST_BYTES).await?;
        for ((id, head), tail) in large.iter().zip(tails) {
            let started_none = tail.windows(NO_CHILDREN.len()).any(|part| part == NO_CHILDREN);
            if status_of(head) == Some(b"SUCCESS") && started_none {
                found.tasks.entry(id.clone()).or_default().outcome = Some(TaskOutcome::Succeeded);
                continue;
            }
            match self.get(id).await {
                Ok(Some(result)) => found.record_result(&result, next),
                Ok(None) => {}
                Err(error @ (Error::Malformed { .. } | Error::TooLarge { .. })) => {
                    found.incomplete_reason = Some(error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
