//! A task's stored result: state, value or failure, and what the task started (Celery wire, observed on 5.2 to 5.7).

use std::fmt;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{GroupId, NodeName, Result, TaskId, json};

/// What Celery wrote about a task, as of [`received_at`](Self::received_at).
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    pub id: TaskId,
    pub state: TaskState,
    /// What the task started. Of a chord: the header's group, not the callback, whose id only the task itself knows.
    pub children: Children,
    pub parent_id: Option<TaskId>,
    /// The group or chord header that the task belongs to.
    pub group_id: Option<GroupId>,
    /// When this process had it in hand.
    pub received_at: Instant,
}

/// A task's state with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// `STARTED`; written with `task_track_started` only.
    Started {
        pid: Option<u32>,
        node: Option<NodeName>,
    },
    /// `RETRY`: failed, will be tried again. After a cold shutdown it may be a lie that stays for ever.
    Retry(TaskFailure),
    Success(Value),
    Failure(TaskFailure),
    Revoked(TaskFailure),
    /// A state of the app's own, such as `PROGRESS`, with its data.
    Custom {
        name: String,
        meta: Value,
    },
}

/// The exception a task ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFailure {
    /// Class name, such as `ValueError`.
    pub exc_type: String,
    /// The exception's arguments as one text.
    pub exc_message: String,
    /// `builtins` for Python's own.
    pub exc_module: Option<String>,
    pub traceback: Option<String>,
}

/// What a task started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    pub tasks: Vec<TaskId>,
    pub groups: Vec<ChildGroup>,
}

/// A group or a chord's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildGroup {
    pub id: GroupId,
    pub tasks: Vec<TaskId>,
}

impl TaskState {
    /// Whether nothing will follow.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Success(_) | Self::Failure(_) | Self::Revoked(_) => true,
            Self::Started { .. } | Self::Retry(_) | Self::Custom { .. } => false,
        }
    }
}

impl TaskFailure {
    /// Whether a chord's callback was never run because a task of its header failed.
    pub fn is_chord_error(&self) -> bool {
        self.exc_type == "ChordError"
    }

    /// Whether the process that ran the task died.
    pub fn is_worker_lost(&self) -> bool {
        self.exc_type == "WorkerLostError"
    }
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exc_type.as_str(), self.exc_message.as_str()) {
            ("", message) => formatter.write_str(message),
            (kind, "") => formatter.write_str(kind),
            (kind, message) => write!(formatter, "{kind}: {message}"),
        }
    }
}

impl TaskResult {
    /// Reads the value of a `celery-task-meta-<id>` key.
    pub(super) fn decode(bytes: &[u8], id: &TaskId, received_at: Instant) -> Result<Self> {
        let meta: Meta = json::parse(bytes, &format!("the result of task {id}"))?;
        let state = match meta.status.as_str() {
            "STARTED" => TaskState::Started {
                pid: meta
                    .result
                    .get("pid")
                    .and_then(Value::as_u64)
                    .and_then(|pid| u32::try_from(pid).ok()),
                node: meta.result.get("hostname").and_then(Value::as_str).map(NodeName::from),
            },
            "SUCCESS" => TaskState::Success(meta.result),
            "FAILURE" => TaskState::Failure(failure(meta.result, meta.traceback)),
            "RETRY" => TaskState::Retry(failure(meta.result, meta.traceback)),
            "REVOKED" => TaskState::Revoked(failure(meta.result, meta.traceback)),
            _ => TaskState::Custom {
                name: meta.status,
                meta: meta.result,
            },
        };
        let mut children = Children::default();
        for child in meta.children.as_array().into_iter().flatten() {
            collect(child, &mut children);
        }
        Ok(Self {
            id: id.clone(),
            state,
            children,
            parent_id: meta.parent_id.map(TaskId::from),
            group_id: meta.group_id.map(GroupId::from),
            received_at,
        })
    }

    /// Whether both say the same, whenever they were received.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        self.state == other.state && self.children == other.children && self.parent_id == other.parent_id
    }
}

#[derive(Deserialize)]
struct Meta {
    status: String,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    traceback: Value,
    #[serde(default)]
    children: Value,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    group_id: Option<String>,
}

fn failure(result: Value, traceback: Value) -> TaskFailure {
    let traceback = traceback.as_str().map(str::to_owned);
    let text = |fields: &Map<String, Value>, name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    match &result {
        Value::Object(fields) => TaskFailure {
            exc_type: text(fields, "exc_type").unwrap_or_default(),
            exc_message: fields.get("exc_message").map(message).unwrap_or_default(),
            exc_module: text(fields, "exc_module"),
            traceback,
        },
        other => TaskFailure {
            exc_message: message(other),
            traceback,
            ..TaskFailure::default()
        },
    }
}

/// An exception's arguments as Python would print one: alone as it is, several with commas.
fn message(arguments: &Value) -> String {
    match arguments {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(several) => several.iter().map(message).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Adds one node of a result tree, `[[id, parent], subresults | null]`; only a group has subresults.
fn collect(node: &Value, children: &mut Children) {
    let Some([head, members]) = node.as_array().map(Vec::as_slice) else {
        return;
    };
    let Some(id) = head.get(0).and_then(Value::as_str) else {
        return;
    };
    match members.as_array() {
        Some(members) => {
            let mut inside = Children::default();
            for member in members {
                collect(member, &mut inside);
            }
            children.groups.push(ChildGroup {
                id: GroupId::from(id),
                tasks: inside.tasks,
            });
            children.groups.append(&mut inside.groups);
        }
        None => children.tasks.push(TaskId::from(id)),
    }
}
