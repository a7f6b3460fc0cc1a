//! Requeueing of messages that a worker took and can no longer acknowledge. They return to their queues at once, not
//! after the visibility timeout (an hour by default).
//!
//! The hash `unacked` does not contain the worker of a message. A message is requeued only in these cases:
//!
//! - Every listening worker has replied (except workers that a person has declared dead) and none holds the task, in
//!   two checks one second apart.
//! - The message was held by a worker whose process has ended, as observed. For the jobs of a run this includes
//!   messages that the worker took without reporting them.
//!
//! The condition that no live worker consumes the queue would not be sufficient, because a worker that has stopped
//! consuming still holds the messages that it took. A task that has nothing left to do (a final result exists, and the
//! chord has counted the task: [`chord_state`](super::chord_state)) is acknowledged instead, because another
//! execution would count twice in a chord (Celery before 5.7).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::chord_state::{UnackedAction, unacked_action};
use super::restore_scope::{HeldTasks, RestoreScope};
use crate::client::Client;
use crate::control::inspect::TaskExecution;
use crate::error::Result;
use crate::events::event::{EventKind, WorkerEvent};
use crate::events::stream::StreamItem;
use crate::wire::chord_member::ChordMember;
use crate::wire::ids::{NodeName, TaskId};
use crate::wire::message::QueuedTask;

/// Delay between the two checks. The delay is longer than the time between the end of a task and its acknowledgement.
const RECHECK_DELAY: Duration = Duration::from_secs(1);
/// Time to listen for heartbeats: longer than two heartbeat intervals of a worker.
const HEARTBEATS_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of messages per call. Further messages wait for the next call.
const LIMIT: usize = 50_000;

/// Script that moves one message if the message is unchanged.
/// KEYS: unacked, unacked_index, queue; ARGV: delivery tag, value, message for the queue (empty: none).
const MOVE: &str = "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end \
    if ARGV[3] ~= '' then redis.call('RPUSH', KEYS[3], ARGV[3]) end \
    redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('ZREM', KEYS[2], ARGV[1]) return 1";

/// Task, with the delivery tag and the value of its message in `unacked`.
type UnackedEntry = (QueuedTask, Vec<u8>, Vec<u8>);

/// Numbers of unacknowledged messages by the action taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Messages that were requeued, to be taken next.
    pub requeued: u64,
    /// Messages that were acknowledged in place of a dead worker, because the results are final.
    pub acknowledged: u64,
    /// Messages that stay, because a live worker has their tasks.
    pub held: u64,
    /// Messages that stay for some seconds, because a worker may be about to send the callback of their chord.
    pub postponed: u64,
    /// Reason why no decision was possible. In this case all messages stay.
    pub uncertain: Option<String>,
}

impl RestoreReport {
    fn uncertain(why: String) -> Self {
        Self {
            uncertain: Some(why),
            ..Self::default()
        }
    }
}

impl Client {
    /// Requeues the messages that no live worker holds. Takes more than a second when there are such messages.
    ///
    /// Workers without remote control cannot report their tasks: do not call this function when such workers share the
    /// broker. `ended` contains stale executions, which workers list although they have ended; they hold no message.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_unacked(&self, ended: &HashSet<TaskExecution>) -> Result<RestoreReport> {
        self.restore_in(&RestoreScope::AllReplied, ended).await
    }

    /// Requeues like [`Client::restore_unacked`], except that these `dead` workers need not reply, even though the
    /// broker may still count their connections. Moves nothing when one of them replies or sends heartbeats, or when
    /// another worker sends heartbeats and does not reply.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_except_dead(&self, dead: &BTreeSet<NodeName>) -> Result<RestoreReport> {
        let with_heartbeats = self.nodes_with_heartbeats().await?;
        self.restore_in(&RestoreScope::ExceptDead { dead, with_heartbeats }, &HashSet::new())
            .await
    }

    /// Requeues the messages of a worker whose process ended at `until` (Unix seconds), as observed. Of `tasks`, this
    /// covers those that no other worker lists and that were not taken later. Takes a second when there are such
    /// messages.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_held(
        &self,
        tasks: &HashSet<TaskId>,
        until: f64,
        ended: &HashSet<TaskExecution>,
    ) -> Result<RestoreReport> {
        if tasks.is_empty() {
            return Ok(RestoreReport::default());
        }
        self.restore_in(&RestoreScope::Process { tasks, until }, ended).await
    }

    /// Requeues messages of the jobs of the dispatch tasks `roots` that were taken up to `until` (Unix seconds).
    /// Requires that every listening worker and every worker in `living` has replied and that none holds the message. A
    /// worker that died at that time may have taken more messages than its events show, since it sends events a moment
    /// later. A worker with a broken connection never acknowledges the messages that it took before.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_of_jobs(
        &self,
        roots: &HashSet<TaskId>,
        until: f64,
        living: &BTreeSet<NodeName>,
        ended: &HashSet<TaskExecution>,
    ) -> Result<RestoreReport> {
        let scope = RestoreScope::Jobs { roots, until, living };
        self.restore_in(&scope, ended).await
    }

    async fn restore_in(&self, scope: &RestoreScope<'_>, ended: &HashSet<TaskExecution>) -> Result<RestoreReport> {
        let mut first = self.unacked().await?;
        if first.is_empty() {
            return Ok(RestoreReport::default());
        }
        let taken_at = self.taken_at().await?;
        // Entries that are not tasks stay in the map, because no worker can be asked about them.
        first.retain(|tag, value| task_of(value).is_none_or(|task| scope.concerns(&task, taken_at.get(tag).copied())));
        if first.is_empty() {
            return Ok(RestoreReport::default());
        }
        let held = HeldTasks::of(&self.worker_tasks(ended).await?);
        if let Some(why) = scope.objection(&held) {
            return Ok(RestoreReport::uncertain(why));
        }
        let mut restored = RestoreReport::default();
        let mut suspects = Vec::new();
        for (tag, value) in first {
            match task_of(&value) {
                Some(task) if held.tasks.contains(&task.id) => restored.held += 1,
                Some(task) => suspects.push((task, tag, value)),
                None => {}
            }
        }
        if suspects.is_empty() {
            return Ok(restored);
        }
        sleep(RECHECK_DELAY).await;
        let held = HeldTasks::of(&self.worker_tasks(ended).await?);
        if let Some(why) = scope.objection(&held) {
            return Ok(RestoreReport::uncertain(why));
        }
        let again = self.unacked().await?;
        let taken_at = self.taken_at().await?;
        for (task, tag, value) in sort_last_taken_first(suspects, &taken_at) {
            if again.get(&tag) != Some(&value) || !scope.concerns(&task, taken_at.get(&tag).copied()) {
                continue;
            }
            if held.tasks.contains(&task.id) {
                restored.held += 1;
                continue;
            }
            self.restore((&task.id, &tag, &value), &held.tasks, &mut restored)
                .await?;
        }
        Ok(restored)
    }

    /// Returns the workers that send heartbeats.
    async fn nodes_with_heartbeats(&self) -> Result<BTreeSet<NodeName>> {
        let mut with_heartbeats = BTreeSet::new();
        let mut events = self.events().await?;
        let listen = async {
            loop {
                let notice = match events.next().await {
                    Ok(notice) => notice,
                    Err(error) => return error,
                };
                if let StreamItem::Event(event) = notice
                    && let EventKind::Worker(WorkerEvent::Heartbeat(_) | WorkerEvent::Online(_)) = event.kind
                {
                    with_heartbeats.insert(event.node);
                }
            }
        };
        match timeout(HEARTBEATS_TIMEOUT, listen).await {
            Ok(error) => Err(error),
            Err(_elapsed) => Ok(with_heartbeats),
        }
    }

    /// Requeues one message that no worker holds, or acknowledges the message when its task has nothing left to do.
    /// `held` contains the tasks of live workers.
    async fn restore(
        &self,
        (id, tag, value): (&TaskId, &[u8], &[u8]),
        held: &HashSet<TaskId>,
        restored: &mut RestoreReport,
    ) -> Result<()> {
        let has_result = !self
            .results()
            .finished_among(std::slice::from_ref(id))
            .await?
            .is_empty();
        let part = ChordMember::decode_unacked(value);
        let chord = match &part {
            Some(part) => self.chord_state(id, part).await?,
            None => None,
        };
        match unacked_action(has_result, chord) {
            UnackedAction::Acknowledge => {
                restored.acknowledged += self.move_message(tag, value, "", "").await?;
                return Ok(());
            }
            UnackedAction::Requeue => {}
            UnackedAction::RequeueUnlessCompleting => {
                if let Some(part) = &part
                    && self.may_send_chord_callback(part, held).await?
                {
                    restored.postponed += 1;
                    return Ok(());
                }
            }
            UnackedAction::Postpone => {
                restored.postponed += 1;
                return Ok(());
            }
        }
        if let Some((queue, message)) = self.redelivery(value).await? {
            restored.requeued += self.move_message(tag, value, &queue, &message).await?;
        }
        Ok(())
    }

    /// Returns all unacknowledged messages by delivery tag.
    async fn unacked(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut all = BTreeMap::new();
        let mut walk = self.walk_unacked(LIMIT);
        while let Some(entries) = walk.next_page().await? {
            all.extend(entries);
        }
        Ok(all)
    }

    /// Returns the time at which each unacknowledged message was taken, in Unix seconds of the worker's clock.
    async fn taken_at(&self) -> Result<HashMap<Vec<u8>, f64>> {
        let mut scores = redis::pipe();
        scores.cmd("ZRANGE").arg(self.broker_keys().unacked_index());
        scores.arg(0).arg(-1).arg("WITHSCORES");
        let (scores,): (Vec<(Vec<u8>, f64)>,) = self.broker_query("read when messages were taken", &scores).await?;
        Ok(scores.into_iter().collect())
    }

    /// Returns the list and the message of a redelivery, or `None` when the queue is unknown.
    async fn redelivery(&self, value: &[u8]) -> Result<Option<(String, String)>> {
        let Ok(Value::Array(parts)) = serde_json::from_slice::<Value>(value) else {
            return Ok(None);
        };
        let Ok([mut message, exchange, routing_key]) = <[Value; 3]>::try_from(parts) else {
            return Ok(None);
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
        // kombu marks a redelivery in this way.
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

    /// Returns the queue that the binding of an exchange assigns to this routing key.
    async fn bound_queue(&self, exchange: &str, routing_key: &str) -> Result<Option<String>> {
        let mut members = redis::pipe();
        members.cmd("SMEMBERS").arg(self.broker_keys().bindings(exchange));
        let (members,): (Vec<String>,) = self.broker_query("read an exchange's bindings", &members).await?;
        let keys = self.broker_keys();
        Ok(members.iter().find_map(|member| {
            let mut parts = member.split(keys.separator());
            let (key, _pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
            (key == routing_key).then(|| queue.to_owned())
        }))
    }

    /// Returns 1 if the message still existed and was moved, otherwise 0.
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
        let (moved,): (u64,) = self.broker_query("requeue a message", &script).await?;
        Ok(moved)
    }
}

fn task_of(value: &[u8]) -> Option<QueuedTask> {
    QueuedTask::decode_unacked(value).ok().flatten()
}

/// Sorts the messages so that the oldest one is requeued last. Each requeued message goes ahead of the others, so the
/// message that was taken first is served first. A message without an index entry counts as the oldest.
fn sort_last_taken_first(mut messages: Vec<UnackedEntry>, taken_at: &HashMap<Vec<u8>, f64>) -> Vec<UnackedEntry> {
    let place = |tag: &Vec<u8>| taken_at.get(tag).copied().unwrap_or(f64::NEG_INFINITY);
    messages.sort_by(|(_, one, _), (_, other, _)| place(other).total_cmp(&place(one)).then_with(|| other.cmp(one)));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_that_was_taken_last_is_requeued_first() {
        let task = |name: &str| QueuedTask {
            id: TaskId::from(name),
            name: None,
            root_id: None,
            routing_key: None,
        };
        let message = |name: &str| (task(name), name.as_bytes().to_vec(), Vec::new());
        let taken_at = HashMap::from([(b"old".to_vec(), 1.0), (b"new".to_vec(), 2.0)]);
        let sorted = sort_last_taken_first(["unknown", "old", "new"].map(message).to_vec(), &taken_at);
        let names: Vec<&str> = sorted.iter().map(|(task, _, _)| task.id.as_str()).collect();
        assert_eq!(names, ["new", "old", "unknown"]);
    }
}
