//! Message of a task in a queue or in `unacked`: the parts that identify the task.

use serde::Deserialize;

use super::ids::TaskId;
use super::json;
use crate::error::Result;

/// Identity of a queued task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedTask {
    pub id: TaskId,
    pub name: Option<String>,
    pub root_id: Option<TaskId>,
    /// Queue that a redelivery goes to.
    pub routing_key: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    headers: QueuedHeaders,
    #[serde(default)]
    properties: QueuedProperties,
}

#[derive(Default, Deserialize)]
struct QueuedHeaders {
    id: Option<String>,
    task: Option<String>,
    root_id: Option<String>,
}

#[derive(Default, Deserialize)]
struct QueuedProperties {
    correlation_id: Option<String>,
    #[serde(default)]
    delivery_info: QueuedDeliveryInfo,
}

#[derive(Default, Deserialize)]
struct QueuedDeliveryInfo {
    routing_key: Option<String>,
}

impl QueuedTask {
    /// Returns the first task of the job. A dispatch task is its own root, and messages of older clients may not
    /// contain the root.
    pub(crate) fn root(&self) -> &TaskId {
        self.root_id.as_ref().unwrap_or(&self.id)
    }

    /// Reads an item of a queue's list; `None` if the item names no task. The body is not read.
    pub(crate) fn decode(item: &[u8]) -> Result<Option<Self>> {
        Ok(Self::from_message(json::parse(item, "a queued message")?))
    }

    /// Reads a value of the hash `unacked`: `[message, exchange, routing_key]`.
    pub(crate) fn decode_unacked(value: &[u8]) -> Result<Option<Self>> {
        let (message, _exchange, _routing_key): (Message, serde_json::Value, serde_json::Value) =
            json::parse(value, "an unacknowledged message")?;
        Ok(Self::from_message(message))
    }

    fn from_message(message: Message) -> Option<Self> {
        // A message of protocol 1 has the task's id in the body; Python also writes the id as correlation id.
        let id = message.headers.id.or(message.properties.correlation_id)?;
        Some(Self {
            id: TaskId::from(id),
            name: message.headers.task,
            root_id: message.headers.root_id.map(TaskId::from),
            routing_key: message.properties.delivery_info.routing_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::frames;

    #[test]
    fn an_unacknowledged_message_of_every_version_is_known() {
        for version in frames::VERSIONS {
            // In this frame the body is still encoded.
            let value = frames::load(version, "unacked").to_string();
            let task = QueuedTask::decode_unacked(value.as_bytes())
                .expect(version)
                .expect("a task");
            assert_eq!(task.name.as_deref(), Some("wapp.add"), "{version}");
            assert_eq!(task.root_id.as_ref(), Some(&task.id), "{version}");
            assert_eq!(task.routing_key.as_deref(), Some("celery"), "{version}");
        }
    }

    #[test]
    fn a_message_without_identity_is_no_task() {
        assert_eq!(QueuedTask::decode(b"{}").expect("JSON"), None);
        assert!(QueuedTask::decode(b"poison").is_err());
        assert!(QueuedTask::decode_unacked(b"{}").is_err());
        let old = json!({"properties": {"correlation_id": "t1"}}).to_string();
        assert_eq!(
            QueuedTask::decode(old.as_bytes()).expect("JSON").expect("a task").id,
            TaskId::from("t1")
        );
    }
}
