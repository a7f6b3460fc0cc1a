//! A task as a part of another's message: next link of a chain, a chord's body, what runs after a success or a failure
//! (Celery wire, observed on 5.2 to 5.7).

use serde::Serialize;
use serde_json::{Map, Value};

use super::task::iso8601;
use super::{GroupId, Result, Task, TaskId};

/// A task that a worker publishes when another one has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub task: Task,
    /// `false`: the other's result becomes its first argument.
    pub immutable: bool,
}

impl Link {
    /// A link that takes the other's result as its first argument.
    pub fn new(task: Task) -> Self {
        Self { task, immutable: false }
    }

    /// A link that does not want the other's result.
    pub fn immutable(task: Task) -> Self {
        Self { task, immutable: true }
    }

    /// What a worker could not publish is refused here.
    pub(super) fn check(&self) -> Result<()> {
        self.task.check()?;
        if self.task.eta.is_some() {
            return Err(self
                .task
                .refused("a task that a worker publishes later cannot have a time of its own"));
        }
        self.task
            .on_success
            .iter()
            .chain(&self.task.on_failure)
            .try_for_each(Self::check)
    }

    /// As it stands in a message; of a chord's body `group` is the header.
    pub(super) fn signature<'a>(&'a self, group: Option<&'a GroupId>) -> Signature<'a> {
        let task = &self.task;
        let signatures = |links: &'a [Self]| -> Option<Vec<Signature<'a>>> {
            (!links.is_empty()).then(|| links.iter().map(|link| link.signature(None)).collect())
        };
        Signature {
            task: &task.name,
            args: &task.args,
            kwargs: &task.kwargs,
            options: Options {
                task_id: &task.id,
                group_id: group,
                queue: task.queue.as_deref(),
                priority: (task.priority > 0).then_some(task.priority),
                expires: task.expires.map(iso8601),
                time_limit: task.time_limit.map(|limit| limit.as_secs_f64()),
                soft_time_limit: task.soft_time_limit.map(|limit| limit.as_secs_f64()),
                ignore_result: task.ignore_result,
                headers: (!task.headers.is_empty()).then_some(&task.headers),
                link: signatures(&task.on_success),
                link_error: signatures(&task.on_failure),
            },
            subtask_type: None,
            immutable: self.immutable,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Signature<'a> {
    task: &'a str,
    args: &'a [Value],
    kwargs: &'a Map<String, Value>,
    options: Options<'a>,
    subtask_type: Option<()>,
    immutable: bool,
}

#[derive(Serialize)]
struct Options<'a> {
    task_id: &'a TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<&'a GroupId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_time_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_result: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<Vec<Signature<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_error: Option<Vec<Signature<'a>>>,
}
