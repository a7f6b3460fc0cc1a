//! Signature of a task within the message of another task: next link of a chain, callback of a chord, task to run after
//! a success or a failure (Celery wire, observed on 5.2 to 5.7).

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::task::TaskLink;
use crate::wire::ids::{GroupId, TaskId};

#[derive(Serialize)]
pub(crate) struct Signature<'a> {
    task: &'a str,
    args: &'a [Value],
    kwargs: &'a Map<String, Value>,
    options: SignatureOptions<'a>,
    subtask_type: Option<()>,
    immutable: bool,
}

#[derive(Serialize)]
struct SignatureOptions<'a> {
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

impl<'a> Signature<'a> {
    /// Returns the signature for a message; for the callback of a chord `group` is the header.
    pub(crate) fn of(link: &'a TaskLink, group: Option<&'a GroupId>) -> Self {
        let task = &link.task;
        let signatures = |links: &'a [TaskLink]| -> Option<Vec<Self>> {
            (!links.is_empty()).then(|| links.iter().map(|link| Self::of(link, None)).collect())
        };
        Self {
            task: &task.name,
            args: &task.args,
            kwargs: &task.kwargs,
            options: SignatureOptions {
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
            immutable: link.immutable,
        }
    }
}

/// Formats an instant for all versions: Python supports no fraction finer than a microsecond.
pub(crate) fn iso8601(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}
