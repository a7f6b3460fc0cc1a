//! Membership of a header task in a chord, as the message of the task describes it (Celery wire, observed on 5.2 to 5.7).

use serde_json::Value;

use super::envelope::IncomingMessage;
use super::ids::{GroupId, TaskId};
use super::json;

/// Index of `embed` in the body of a task's message, `[args, kwargs, embed]`.
const EMBED: usize = 2;

/// Membership of a header task in a chord, as the message of the task describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChordMember {
    pub group: GroupId,
    /// Score of the task's entry in `.j`; `None` in messages of other clients.
    pub index: Option<i64>,
    /// `None` if the body cannot be read: pickle, msgpack, compressed.
    pub callback: Option<TaskId>,
    /// Queue that the callback is sent to.
    pub callback_queue: Option<String>,
}

impl ChordMember {
    /// Reads a value of the hash `unacked`; `None` for a task outside of chords.
    pub(crate) fn decode_unacked(value: &[u8]) -> Option<Self> {
        let what = "an unacknowledged message";
        let (message, _exchange, routing_key): (IncomingMessage, Value, Value) = json::parse(value, what).ok()?;
        let group = GroupId::from(message.header("group")?);
        let index = message.headers.get("group_index").and_then(Value::as_i64);
        let mut part = Self {
            group,
            index,
            callback: None,
            callback_queue: None,
        };
        // A message with a body of another serializer may belong to a chord.
        let Ok(body) = message.body(what) else {
            return Some(part);
        };
        let options = body
            .get(EMBED)?
            .get("chord")
            .filter(|chord| !chord.is_null())?
            .get("options");
        let option = |name: &str| options.and_then(|options| options.get(name)?.as_str());
        part.callback = option("task_id").map(TaskId::from);
        let queue = option("queue").or_else(|| routing_key.as_str());
        part.callback_queue = queue.filter(|queue| !queue.is_empty()).map(str::to_owned);
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::frames;

    #[test]
    fn a_header_task_of_every_version_names_its_chord() {
        for version in frames::VERSIONS {
            let recorded = frames::load(version, "chord");
            let pushed: Vec<&Value> = recorded
                .as_array()
                .expect(version)
                .iter()
                .filter(|line| line[0] == "LPUSH")
                .collect();
            let envelope = &pushed.get(1).expect(version)[2];
            let wire: Value = serde_json::from_slice(&frames::wire(envelope)).expect("JSON");
            let value = json!([wire, "", "celery"]).to_string();
            let part = ChordMember::decode_unacked(value.as_bytes()).expect(version);
            let callback = &envelope["body"][2]["chord"]["options"]["task_id"];
            assert_eq!(part.group.as_str(), envelope["headers"]["group"], "{version}");
            assert_eq!(part.index, Some(1), "{version}");
            assert_eq!(part.callback.expect(version).as_str(), callback, "{version}");
            assert_eq!(part.callback_queue.as_deref(), Some("celery"), "{version}");
        }
    }

    #[test]
    fn a_message_outside_of_chords_has_no_part_in_one() {
        let message = |headers: Value, embed: Value| {
            let body = frames::base64(json!([[], {}, embed]).to_string().as_bytes());
            let properties = json!({"body_encoding": "base64"});
            json!([{"headers": headers, "properties": properties, "body": body}, "", "celery"]).to_string()
        };
        let group = json!({"group": "g1"});
        for value in [
            message(json!({}), json!({"chord": {"options": {}}})),
            message(json!({"group": null}), json!({"chord": null})),
            message(group.clone(), json!({"chord": null})),
            message(group.clone(), json!({})),
            "[]".to_owned(),
            "poison".to_owned(),
        ] {
            assert_eq!(ChordMember::decode_unacked(value.as_bytes()), None, "{value}");
        }
        let pickled =
            json!([{"headers": group, "content-type": "application/x-python-serialize", "body": "gASV"}, "", "q"]);
        let part = ChordMember::decode_unacked(pickled.to_string().as_bytes()).expect("a group");
        assert_eq!((part.group.as_str(), part.callback), ("g1", None));
    }
}
