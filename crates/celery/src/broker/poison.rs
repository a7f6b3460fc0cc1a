//! Search for messages that harm the workers that take them (poison messages), and their quarantine. The messages are
//! inspected in the queue without being taken, and moved to a quarantine list.
//!
//! A worker that takes such a message ends. In most cases the message is then back in the queue, so that every restart
//! ends in the same way (Celery wire, observed on 5.2 to 5.7). [`diagnosis`](super::diagnosis) decides which messages
//! are harmful.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json as object};

use super::diagnosis::{MessageDiagnosis, diagnose, diagnose_unacked};
use super::scan::{ListEnd, SCAN_LIMIT};
use crate::client::Client;
use crate::error::Result;
use crate::wire::ids::TaskId;
use crate::wire::message::QueuedTask;

/// Script that moves one item of a list to the quarantine if the item still exists. KEYS: list, quarantine; ARGV: item,
/// record for the quarantine.
const FROM_LIST: &str = "if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end \
    redis.call('RPUSH', KEYS[2], ARGV[2]) return 1";
/// Script that moves one unacknowledged message to the quarantine if the message still exists. KEYS: unacked, its
/// index, quarantine; ARGV: tag, value, record for the quarantine.
const FROM_UNACKED: &str = "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end \
    redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('ZREM', KEYS[2], ARGV[1]) \
    redis.call('RPUSH', KEYS[3], ARGV[3]) return 1";

/// Location of a harmful message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessagePlace {
    /// In the queue's list of this priority step.
    Queued { queue: String, step: u8 },
    /// Taken and not acknowledged. The message returns to its queue after the visibility timeout.
    Unacked { tag: Vec<u8> },
}

/// Message that harms workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HarmfulMessage {
    pub place: MessagePlace,
    pub diagnosis: MessageDiagnosis,
    /// Id of the task, if the message contains one.
    pub id: Option<TaskId>,
    pub task: Option<String>,
    /// Content of the item.
    pub item: Vec<u8>,
}

/// Result of an inspection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageInspection {
    /// Number of inspected messages.
    pub inspected: u64,
    pub harmful: Vec<HarmfulMessage>,
    /// Lists that are longer than the inspected part.
    pub truncated_lists: Vec<String>,
}

impl MessageInspection {
    /// Counts a message and records the message if it is harmful. A message that was read twice is recorded once.
    fn record(
        &mut self,
        place: MessagePlace,
        diagnosis: Option<MessageDiagnosis>,
        item: Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<Option<QueuedTask>>,
    ) {
        self.inspected += 1;
        let Some(diagnosis) = diagnosis else { return };
        let task = decode(&item).ok().flatten();
        let found = HarmfulMessage {
            place,
            diagnosis,
            id: task.as_ref().map(|task| task.id.clone()),
            task: task.and_then(|task| task.name),
            item,
        };
        if !self.harmful.contains(&found) {
            self.harmful.push(found);
        }
    }
}

impl Client {
    /// Inspects every message of these queues and every unacknowledged message, without taking any.
    pub async fn inspect_messages(&self, queues: &[String]) -> Result<MessageInspection> {
        let mut inspection = MessageInspection::default();
        for queue in queues {
            for (step, list) in self.broker_keys().lists(queue) {
                self.inspect_list(queue, step, list, &mut inspection).await?;
            }
        }
        self.inspect_unacked(&mut inspection).await?;
        Ok(inspection)
    }

    async fn inspect_list(
        &self,
        queue: &str,
        step: u8,
        list: String,
        inspection: &mut MessageInspection,
    ) -> Result<()> {
        let mut walk = self.walk_list(&list, ListEnd::Oldest);
        while let Some(items) = walk.next_page().await? {
            for item in items {
                let place = MessagePlace::Queued {
                    queue: queue.to_owned(),
                    step,
                };
                inspection.record(place, diagnose(&item), item, QueuedTask::decode);
            }
        }
        if walk.is_truncated() {
            inspection.truncated_lists.push(list);
        }
        Ok(())
    }

    async fn inspect_unacked(&self, inspection: &mut MessageInspection) -> Result<()> {
        let mut walk = self.walk_unacked(SCAN_LIMIT);
        while let Some(entries) = walk.next_page().await? {
            for (tag, value) in entries {
                let place = MessagePlace::Unacked { tag };
                inspection.record(place, diagnose_unacked(&value), value, QueuedTask::decode_unacked);
            }
        }
        if walk.is_truncated() {
            inspection.truncated_lists.push(self.broker_keys().unacked());
        }
        Ok(())
    }

    /// Moves a message to the list `orch:quarantine:<queue>`, or `orch:quarantine:unacked` for an unacknowledged
    /// message. The entry is `{"at", "reason", "list", "message"}`, with `message_base64` for a message that is not
    /// valid UTF-8. Returns false when the message is no longer there.
    pub async fn quarantine(&self, found: &HarmfulMessage) -> Result<bool> {
        let keys = self.broker_keys();
        let (name, list) = match &found.place {
            MessagePlace::Queued { queue, step } => (queue.as_str(), keys.list(queue, *step)),
            MessagePlace::Unacked { .. } => ("unacked", keys.unacked()),
        };
        let mut kept = object!({ "at": Timestamp::now().to_string(), "reason": found.diagnosis.reason, "list": list });
        match std::str::from_utf8(&found.item) {
            Ok(text) => kept["message"] = Value::from(text),
            Err(_) => kept["message_base64"] = Value::from(BASE64.encode(&found.item)),
        }
        let (kept, quarantine) = (kept.to_string(), keys.quarantine(name));
        let mut script = redis::pipe();
        script.cmd("EVAL");
        match &found.place {
            MessagePlace::Queued { .. } => script.arg(FROM_LIST).arg(2).arg(list).arg(quarantine).arg(&found.item),
            MessagePlace::Unacked { tag } => script
                .arg(FROM_UNACKED)
                .arg(3)
                .arg(list)
                .arg(keys.unacked_index())
                .arg(quarantine)
                .arg(tag)
                .arg(&found.item),
        };
        script.arg(kept);
        let (moved,): (u64,) = self.broker_query("move a message to the quarantine", &script).await?;
        Ok(moved > 0)
    }
}
