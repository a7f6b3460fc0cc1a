//! Messages that a worker took and can no longer acknowledge, put back on their queues at once instead of after the
//! visibility timeout (an hour by default).
//!
//! `unacked` does not say whose a message is. It is put back only when every worker that listens has answered and none
//! holds its task, twice, a second apart: that no live worker consumes its queue would not do, since one that was told to
//! stop consuming still holds what it took. And what has a final result is acknowledged instead: running it again would
//! count twice in a chord (Celery before 5.7).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::client::Client;
use super::inspect::Execution;
use super::mailbox::{Replies, Target};
use super::message::QueuedTask;
use super::{Result, TaskId};

/// Between the two looks: longer than a task is between its end and its acknowledgement.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How long workers have to say what they hold.
const WORKER_DEADLINE: Duration = Duration::from_secs(2);
/// Entries per read.
const PAGE: usize = 100;
/// Beyond this many the rest waits for the next call.
const LIMIT: usize = 50_000;

/// Moves one message, if it is still the one that was looked at.
/// KEYS: unacked, unacked_index, queue; ARGV: delivery tag, its value, the message for the queue (empty: none).
const MOVE: &str = "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end \
    if ARGV[3] ~= '' then redis.call('RPUSH', KEYS[3], ARGV[3]) end \
    redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('ZREM', KEYS[2], ARGV[1]) return 1";

/// A task, the delivery tag and the value of its message in `unacked`.
type Suspect = (TaskId, Vec<u8>, Vec<u8>);

/// What was done about the unacknowledged messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Put back on their queues, to be taken next.
    pub requeued: u64,
    /// Acknowledged for a worker that could not: their results are final.
    pub acknowledged: u64,
    /// Left alone: a live worker has their tasks.
    pub held: u64,
    /// Why nothing could be judged; all are left alone then.
    pub uncertain: Option<String>,
}

impl Client {
    /// Puts back what no live worker holds. Takes a second and more when there is anything.
    ///
    /// Workers without remote control cannot be asked: do not use this where such share the broker. `ended` are
    /// executions that workers list though they have ended: those hold nothing.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_unacked(&self, ended: &HashSet<Execution>) -> Result<Restored> {
        let first = self.unacked().await?;
        if first.is_empty() {
            return Ok(Restored::default());
        }
        let held = match self.held(ended).await? {
            Ok(held) => held,
            Err(why) => {
                return Ok(Restored {
                    uncertain: Some(why),
                    ..Restored::default()
                });
            }
        };
        let mut restored = Restored::default();
        let mut suspects = Vec::new();
        for (tag, value) in first {
            match task_of(&value) {
                Some(id) if held.contains(&id) => restored.held += 1,
                Some(id) => suspects.push((id, tag, value)),
                // No task: nobody can be asked about it.
                None => {}
            }
        }
        if suspects.is_empty() {
            return Ok(restored);
        }
        sleep(BETWEEN_LOOKS).await;
        let held = match self.held(ended).await? {
            Ok(held) => held,
            Err(why) => {
                return Ok(Restored {
                    uncertain: Some(why),
                    ..Restored::default()
                });
            }
        };
        let again = self.unacked().await?;
        for (id, tag, value) in self.last_taken_first(suspects).await? {
            if again.get(&tag) != Some(&value) {
                continue;
            }
            if held.contains(&id) {
                restored.held += 1;
                continue;
            }
            let finished = !self
                .results()
                .finished_among(std::slice::from_ref(&id))
                .await?
                .is_empty();
            if finished {
                restored.acknowledged += self.move_message(&tag, &value, "", "").await?;
            } else if let Some((queue, message)) = self.redelivery(&value).await? {
                restored.requeued += self.move_message(&tag, &value, &queue, &message).await?;
            }
        }
        Ok(restored)
    }

    /// All unacknowledged messages by delivery tag.
    async fn unacked(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut all = BTreeMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut page = redis::pipe();
            page.cmd("HSCAN")
                .arg(self.broker_keys().unacked())
                .arg(cursor)
                .arg("COUNT")
                .arg(PAGE);
            type Page = (u64, Vec<(Vec<u8>, Vec<u8>)>);
            let ((next, entries),): (Page,) = self
                .broker()
                .query("read unacknowledged messages", &page, self.deadline())
                .await?;
            all.extend(entries);
            cursor = next;
            if cursor == 0 || all.len() >= LIMIT {
                return Ok(all);
            }
        }
    }

    /// In the order in which they must be put back, so that what was taken first is next to be served: each goes before
    /// those that are there.
    async fn last_taken_first(&self, mut messages: Vec<Suspect>) -> Result<Vec<Suspect>> {
        let mut scores = redis::pipe();
        scores.cmd("ZRANGE").arg(self.broker_keys().unacked_index());
        scores.arg(0).arg(-1);
        let (tags,): (Vec<Vec<u8>>,) = self
            .broker()
            .query("read when messages were taken", &scores, self.deadline())
            .await?;
        let places: HashMap<&[u8], usize> = tags.iter().map(Vec::as_slice).zip(0..).collect();
        // A message that the index does not know is older than all.
        messages.sort_by_key(|(_, tag, _)| std::cmp::Reverse(places.get(tag.as_slice()).map_or(0, |place| place + 1)));
        Ok(messages)
    }

    /// Every task that a worker has, but for executions that have ended; `Err` says who has not answered.
    async fn held(&self, ended: &HashSet<Execution>) -> Result<std::result::Result<HashSet<TaskId>, String>> {
        let control = self.control();
        let (scheduled, reserved, active) = tokio::join!(
            control.scheduled(&Target::All, WORKER_DEADLINE),
            control.reserved(&Target::All, WORKER_DEADLINE),
            control.active(&Target::All, WORKER_DEADLINE),
        );
        let (scheduled, reserved, mut active) = (scheduled?, reserved?, active?);
        active.forget_ended(ended);
        let mut held = HashSet::new();
        for list in scheduled.good().map(|(_, list)| list) {
            held.extend(list.iter().map(|task| task.request.id.clone()));
        }
        for list in reserved.good().chain(active.good()).map(|(_, list)| list) {
            held.extend(list.iter().map(|task| task.id.clone()));
        }
        let judged = complete(&scheduled)
            .and_then(|()| complete(&reserved))
            .and_then(|()| complete(&active));
        Ok(judged.map(|()| held))
    }

    /// The list and the message as a redelivery has them; `None` where the queue cannot be told.
    async fn redelivery(&self, value: &[u8]) -> Result<Option<(String, String)>> {
        let Ok(Value::Array(parts)) = serde_json::from_slice::<Value>(value) else {
            return Ok(None);
        };
        let [mut message, exchange, routing_key] = match <[Value; 3]>::try_from(parts) {
            Ok(parts) => parts,
            Err(_) => return Ok(None),
        };
        let (exchange, routing_key) = (exchange.as_str().unwrap_or(""), routing_key.as_str().unwrap_or(""));
        let queue = match exchange {
            "" => routing_key.to_owned(),
            exchange => match self.bound_queue(exchange, routing_key).await? {
                Some(queue) => queue,
                None => return Ok(None),
            },
        };
        if queue.is_empty() {
            return Ok(None);
        }
        // As kombu marks a redelivery.
        if let Some(headers) = message.get_mut("headers").and_then(Value::as_object_mut) {
            headers.insert("redelivered".to_owned(), Value::Bool(true));
        }
        let properties = message.get_mut("properties").and_then(Value::as_object_mut);
        let mut priority = 0;
        if let Some(properties) = properties {
            priority = properties
                .get("priority")
                .and_then(Value::as_u64)
                .map_or(0, |step| u8::try_from(step).unwrap_or(9));
            if let Some(info) = properties.get_mut("delivery_info").and_then(Value::as_object_mut) {
                info.insert("redelivered".to_owned(), Value::Bool(true));
            }
        }
        Ok(Some((self.broker_keys().queue(&queue, priority), message.to_string())))
    }

    /// The queue that an exchange's binding names for this routing key.
    async fn bound_queue(&self, exchange: &str, routing_key: &str) -> Result<Option<String>> {
        let mut members = redis::pipe();
        members.cmd("SMEMBERS").arg(self.broker_keys().bindings(exchange));
        let (members,): (Vec<String>,) = self
            .broker()
            .query("read an exchange's bindings", &members, self.deadline())
            .await?;
        Ok(members.iter().find_map(|member| {
            let mut parts = member.split(super::keys::SEPARATOR);
            let (key, _pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
            (key == routing_key).then(|| queue.to_owned())
        }))
    }

    /// 1 if the message was still there and was moved.
    async fn move_message(&self, tag: &[u8], value: &[u8], queue: &str, message: &str) -> Result<u64> {
        let keys = self.broker_keys();
        let mut script = redis::pipe();
        script
            .cmd("EVAL")
            .arg(MOVE)
            .arg(3)
            .arg(keys.unacked())
            .arg(keys.unacked_index())
            .arg(queue);
        script.arg(tag).arg(value).arg(message);
        let (moved,): (u64,) = self
            .broker()
            .query("put a message back", &script, self.deadline())
            .await?;
        Ok(moved)
    }
}

fn task_of(value: &[u8]) -> Option<TaskId> {
    QueuedTask::decode_unacked(value).ok().flatten().map(|task| task.id)
}

fn complete<T>(replies: &Replies<T>) -> std::result::Result<(), String> {
    if replies.listeners == 0 {
        return Err("no worker listens".to_owned());
    }
    if replies.is_incomplete() {
        return Err(format!(
            "{} of {} workers have answered",
            replies.answers, replies.listeners
        ));
    }
    match replies
        .nodes
        .iter()
        .find_map(|(node, answer)| Some((node, answer.as_ref().err()?)))
    {
        Some((node, why)) => Err(format!("{node} {why}")),
        None => Ok(()),
    }
}
