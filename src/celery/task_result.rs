//! A task's stored result: state, value or failure, and what the task started (Celery wire, observed on 5.2 to 5.7).

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::result_tree::{Children, Nodes, Root};
use super::{Error, GroupId, NodeName, Result, TaskId, json};

/// What Celery wrote about a task, as of [`received_at`](Self::received_at).
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    pub id: TaskId,
    pub state: TaskState,
    /// What the task started. Of a chord: the header's group, not the callback, whose id only the task itself knows.
    pub children: Arc<Children>,
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
        let what = format!("the result of task {id}");
        // Serde would read the fields of an object from a list, too.
        if bytes.trim_ascii_start().starts_with(b"[") {
            let reason = "it is a list, not an object".to_owned();
            return Err(Error::Malformed { what, reason });
        }
        let meta: Meta = json::parse_exact(bytes, &what)?;
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

    /// Whether both say the same, whenever they were received.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        self.state == other.state && self.children == other.children && self.parent_id == other.parent_id
    }
}

/// Reads the value of a `celery-taskset-meta-<group>` key, which `GroupResult.save` writes: the members in order.
pub(super) fn group_members(bytes: &[u8], group: &GroupId) -> Result<Vec<TaskId>> {
    let what = format!("the members of group {group}");
    let saved: Saved = json::parse(bytes, &what)?;
    match saved.result.0.groups.into_iter().find(|found| found.id == *group) {
        Some(found) => Ok(found.tasks),
        None => Err(Error::Malformed {
            what,
            reason: "it holds no such group".to_owned(),
        }),
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
    children: Nodes,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    group_id: Option<String>,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(default)]
    result: Root,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::frames;
    use super::*;

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
