//! The tasks that a task started, and those that they started, by their stored results.
//!
//! Of a large result only the begin and the end are read: Celery writes the status first and `children` near the end (Celery
//! wire, observed on 5.2 to 5.7).

use std::collections::{BTreeMap, BTreeSet};

use super::result_tree::{ChildGroup, Children};
use super::results::{Results, status_of};
use super::{Error, GroupId, Outcome, Result, TaskId, TaskResult, TaskState};

/// Tasks whose results are read at one time.
const BATCH: usize = 200;
/// A result up to this size is read whole at once.
const WHOLE: usize = 4096;
/// The end of a larger result, in which `children` is looked for.
const TAIL: isize = 1024;
/// Tasks of one job that are read; beyond them the answer is that more may exist.
const LIMIT: usize = 100_000;
/// As Celery writes it of a task that succeeded and started none.
const NO_CHILDREN: &[u8] = br#""traceback": null, "children": [], "date_done": ""#;

/// A task as its stored result shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredTask {
    /// `None`: no end is stored.
    pub outcome: Option<Outcome>,
    /// A list of children names it; a chord's callback, and what that starts first, stands in none.
    pub is_listed: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descendants {
    pub tasks: BTreeMap<TaskId, StoredTask>,
    /// Groups that a list of children or a member's result names.
    pub groups: BTreeSet<GroupId>,
    /// `task ID: EXCEPTION`.
    pub first_failure: Option<String>,
    /// Why there may be more tasks.
    pub unread: Option<String>,
}

impl Descendants {
    /// Adds what a task started; gives the ids that are new.
    pub fn add(&mut self, children: &Children, found: &mut Vec<TaskId>) {
        let groups = children.groups.iter().chain(&children.upstream_groups);
        for ChildGroup { id, tasks } in groups {
            self.groups.insert(id.clone());
            self.list(tasks, found);
        }
        self.list(&children.tasks, found);
        self.list(&children.upstream_tasks, found);
    }

    /// Adds tasks that a list of children names; gives the ids that are new.
    fn list(&mut self, tasks: &[TaskId], found: &mut Vec<TaskId>) {
        self.meet(tasks, found);
        for task in tasks {
            self.tasks.entry(task.clone()).or_default().is_listed = true;
        }
    }

    /// Adds a task that belongs to the others, by what its result says.
    pub fn adopt(&mut self, result: &TaskResult) {
        self.take(result, &mut Vec::new());
    }

    /// Marks tasks as listed: of the task whose children they are nothing else is read.
    pub fn mark_listed<'t>(&mut self, tasks: impl IntoIterator<Item = &'t TaskId>) {
        for task in tasks {
            self.tasks.entry(task.clone()).or_default().is_listed = true;
        }
    }

    fn meet(&mut self, tasks: &[TaskId], found: &mut Vec<TaskId>) {
        for task in tasks {
            if !self.tasks.contains_key(task) {
                self.tasks.insert(task.clone(), StoredTask::default());
                found.push(task.clone());
            }
        }
    }

    fn take(&mut self, result: &TaskResult, found: &mut Vec<TaskId>) {
        let (outcome, failure) = match &result.state {
            TaskState::Success(_) => (Some(Outcome::Succeeded), None),
            TaskState::Failure(failure) => (Some(Outcome::Failed), Some(failure)),
            TaskState::Revoked(failure) => (Some(Outcome::Revoked), Some(failure)),
            TaskState::Started { .. } | TaskState::Retry(_) | TaskState::Custom { .. } => (None, None),
        };
        self.tasks.entry(result.id.clone()).or_default().outcome = outcome;
        if let Some(failure) = failure {
            self.first_failure
                .get_or_insert_with(|| format!("task {}: {failure}", result.id));
        }
        if let Some(group) = &result.group_id {
            self.groups.insert(group.clone());
        }
        self.add(&result.children, found);
    }
}

impl Results {
    /// Follows what these tasks started, and what that started.
    ///
    /// # Errors
    /// The result backend does not answer within the deadline. A result that cannot be read is no error: it is in
    /// [`unread`](Descendants::unread).
    pub async fn descendants(&self, of: &[TaskId]) -> Result<Descendants> {
        let mut found = Descendants::default();
        let mut due = Vec::new();
        found.meet(of, &mut due);
        while !due.is_empty() {
            let mut next = Vec::new();
            for batch in due.chunks(BATCH) {
                self.read_batch(batch, &mut found, &mut next).await?;
            }
            if found.tasks.len() > LIMIT {
                found.unread = Some(format!("the job has more than {LIMIT} tasks"));
                break;
            }
            due = next;
        }
        Ok(found)
    }

    async fn read_batch(&self, ids: &[TaskId], found: &mut Descendants, next: &mut Vec<TaskId>) -> Result<()> {
        let values = self.beginnings(ids, WHOLE).await?;
        let mut large = Vec::new();
        for (id, value) in ids.iter().zip(values) {
            match value {
                Err(reason) => found.unread = Some(format!("the result of task {id} cannot be read: {reason}")),
                Ok(value) if value.is_empty() => {}
                Ok(value) if value.len() < WHOLE => match TaskResult::decode(&value, id, std::time::Instant::now()) {
                    Ok(result) => found.take(&result, next),
                    Err(error) => found.unread = Some(error.to_string()),
                },
                Ok(value) => large.push((id.clone(), value)),
            }
        }
        if large.is_empty() {
            return Ok(());
        }
        let ids: Vec<TaskId> = large.iter().map(|(id, _)| id.clone()).collect();
        let tails = self.endings(&ids, TAIL).await?;
        for ((id, head), tail) in large.iter().zip(tails) {
            let started_none = tail.windows(NO_CHILDREN.len()).any(|part| part == NO_CHILDREN);
            if status_of(head) == Some(b"SUCCESS") && started_none {
                found.tasks.entry(id.clone()).or_default().outcome = Some(Outcome::Succeeded);
                continue;
            }
            match self.get(id).await {
                Ok(Some(result)) => found.take(&result, next),
                Ok(None) => {}
                Err(error @ (Error::Malformed { .. } | Error::TooLarge { .. })) => {
                    found.unread = Some(error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
