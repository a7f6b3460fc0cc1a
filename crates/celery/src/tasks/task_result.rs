//! Stored result of a task: state, value or failure, and children (Celery wire, observed on 5.2 to 5.7).

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::result_tree::{ChildNodes, SavedGroupNode, TaskChildren};
use crate::error::{Error, Result};
use crate::wire::ids::{GroupId, NodeName, TaskId};
use crate::wire::json;
use crate::wire::task_outcome::TaskOutcome;

/// Stored result of a task, as of [`received_at`](Self::received_at).
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    pub id: TaskId,
    pub state: TaskState,
    /// Tasks and groups that the task started. Of a chord this is the group of the header and not the callback: only
    /// the task itself knows the id of the callback.
    pub children: Arc<TaskChildren>,
    pub parent_id: Option<TaskId>,
    /// Group or chord header that the task belongs to.
    pub group_id: Option<GroupId>,
    /// Time at which this process received the result.
    pub received_at: Instant,
}

/// State of a task with the data of the state.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// `STARTED`: the task is running; only stored with `task_track_started`.
    Started {
        pid: Option<u32>,
        node: Option<NodeName>,
    },
    /// `RETRY`: the task failed and will be tried again. After a cold shutdown this state may be wrong for ever.
    Retry(TaskFailure),
    Success(Value),
    Failure(TaskFailure),
    Revoked(TaskFailure),
    /// Custom state of the app, such as `PROGRESS`, with its data.
    Custom {
        name: String,
        meta: Value,
    },
}

/// Exception that a task ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFailure {
    /// Name of the exception class, such as `ValueError`.
    pub exc_type: String,
    /// Arguments of the exception as one text.
    pub exc_message: String,
    /// Module of the exception class; `builtins` for Python's own exceptions.
    pub exc_module: Option<String>,
    pub traceback: Option<String>,
}

impl TaskState {
    /// Returns whether the state is final: no other state follows.
    pub fn is_final(&self) -> bool {
        self.outcome().is_some()
    }

    /// Returns the outcome; `None` for a state that is not final.
    pub(crate) fn outcome(&self) -> Option<TaskOutcome> {
        match self {
            Self::Success(_) => Some(TaskOutcome::Succeeded),
            Self::Failure(_) => Some(TaskOutcome::Failed),
            Self::Revoked(_) => Some(TaskOutcome::Revoked),
            Self::Started { .. } | Self::Retry(_) | Self::Custom { .. } => None,
        }
    }
}

impl TaskFailure {
    /// Returns whether this is the failure of a chord's callback that never ran, because a task of the header failed.
    pub fn is_chord_error(&self) -> bool {
        self.exc_type == "ChordError"
    }

    /// Returns whether the process that executed the task died.
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
    pub(crate) fn decode(bytes: &[u8], id: &TaskId, received_at: Instant) -> Result<Self> {
        let what = format!("the result of task {id}");
        // Serde would also read the fields of an object from a list.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(Error::malformed(what, "it is a list, not an object"));
        }
        let meta: ResultMeta = json::parse_exact(bytes, &what)?;
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
        Ok(Self {
            id: id.clone(),
            state,
            children: Arc::new(meta.children.0),
            parent_id: meta.parent_id.map(TaskId::from),
            group_id: meta.group_id.map(GroupId::from),
            received_at,
        })
    }

    /// Returns whether state, children and parent of both results are equal; the time of receipt does not matter.
    pub(crate) fn has_same_content(&self, other: &Self) -> bool {
        self.state == other.state && self.children == other.children && self.parent_id == other.parent_id
    }
}

/// Reads the members of a group, in order, from the value of a `celery-taskset-meta-<group>` key, which
/// `GroupResult.save` writes.
pub(crate) fn group_members(bytes: &[u8], group: &GroupId) -> Result<Vec<TaskId>> {
    let what = format!("the members of group {group}");
    let saved: SavedGroup = json::parse(bytes, &what)?;
    match saved.result.0.groups.into_iter().find(|found| found.id == *group) {
        Some(found) => Ok(found.tasks),
        None => Err(Error::malformed(what, "it does not contain this group")),
    }
}

#[derive(Deserialize)]
struct ResultMeta {
    status: String,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    traceback: Value,
    #[serde(default)]
    children: ChildNodes,
    parent_id: Option<String>,
    group_id: Option<String>,
}

#[derive(Deserialize)]
struct SavedGroup {
    #[serde(default)]
    result: SavedGroupNode,
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

/// Formats the arguments of an exception as Python prints them: a single argument alone, several separated by commas.
fn message(arguments: &Value) -> String {
    match arguments {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(several) => several.iter().map(message).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wire::frames;

    fn decode(meta: &Value) -> TaskResult {
        let id = TaskId::from(meta["task_id"].as_str().unwrap_or("an id"));
        TaskResult::decode(meta.to_string().as_bytes(), &id, Instant::now()).expect("a readable result")
    }

    #[test]
    fn every_state_of_every_version_is_read() {
        for version in frames::VERSIONS {
            let frames = frames::load(version, "results");
            for (name, meta) in frames.as_object().expect("frames by name") {
                let result = decode(meta);
                let (state, detail) = name.split_once('.').unwrap_or((name, ""));
                match (state, &result.state) {
                    ("STARTED", TaskState::Started { pid, node }) => assert!(pid.is_some() && node.is_some()),
                    ("SUCCESS", TaskState::Success(value)) => assert_eq!(value, &meta["result"]),
                    ("FAILURE", TaskState::Failure(failure)) => {
                        assert_eq!(failure.exc_type, detail, "{version}");
                        assert!(failure.traceback.is_some() || detail == "Reject", "{version} {name}");
                        assert_eq!(failure.is_chord_error(), detail == "ChordError");
                    }
                    ("RETRY", TaskState::Retry(failure)) => assert_eq!(failure.to_string(), "KeyError: first"),
                    ("REVOKED", TaskState::Revoked(failure)) => {
                        assert_eq!(failure.exc_type, "TaskRevokedError");
                        assert!(
                            ["terminated", "revoked"].contains(&failure.exc_message.as_str()),
                            "{version}"
                        );
                    }
                    ("PROGRESS", TaskState::Custom { name, meta }) => {
                        assert_eq!((name.as_str(), meta), ("PROGRESS", &json!({"done": 0, "total": 2})));
                    }
                    (_, state) => panic!("{version} {name} was read as {state:?}"),
                }
                assert_eq!(
                    result.state.is_final(),
                    ["SUCCESS", "FAILURE", "REVOKED"].contains(&state),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn an_exception_reads_as_python_prints_it() {
        for (result, text) in [
            (
                json!({"exc_type": "OddError", "exc_message": ["a", {"n": 1}]}),
                r#"OddError: a, {"n":1}"#,
            ),
            (json!({"exc_type": "KeyError", "exc_message": "old"}), "KeyError: old"),
            (json!({"exc_type": "Timeout", "exc_message": []}), "Timeout"),
            (json!("not an exception"), "not an exception"),
            (json!(null), ""),
        ] {
            assert_eq!(failure(result, Value::Null).to_string(), text);
        }
    }

    #[test]
    fn a_result_that_is_not_json_is_an_error_that_names_the_task() {
        let pickled = b"\x80\x04\x95\x1e\x00";
        let error = TaskResult::decode(pickled, &TaskId::from("t7"), Instant::now())
            .expect_err("a pickle")
            .to_string();
        assert!(error.starts_with("cannot read the result of task t7:"), "{error}");
    }

    proptest! {
        #[test]
        fn a_changed_frame_is_read_or_refused(
            version in 0..6usize,
            at in 0..6000usize,
            byte in any::<u8>(),
        ) {
            let frames = frames::load(frames::VERSIONS[version], "results");
            for meta in frames.as_object().expect("frames by name").values() {
                let mut bytes = meta.to_string().into_bytes();
                let at = at % bytes.len();
                bytes[at] = byte;
                let _outcome = TaskResult::decode(&bytes, &TaskId::from("t"), Instant::now());
            }
        }
    }
}
