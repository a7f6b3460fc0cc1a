//! Messages that a worker took and can no longer acknowledge, put back on their queues at once instead of after the
//! visibility timeout (an hour by default).
//!
//! `unacked` does not say whose a message is. It is put back only when every worker that listens has answered (but for those
//! that are dead by a person's word) and none holds its task, twice, a second apart; or when it was held by a worker whose
//! process was seen to end; of the jobs of a run also what that worker took without having reported it. That no live worker consumes its queue would not do: one that was told to stop consuming still
//! holds what it took. And what owes nothing more (it has a final result, and its chord has counted
//! it: `chord_part`) is acknowledged instead: running it again would count twice in a chord (Celery before 5.7).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::chord_part::{ChordPart, Fate, fate};
use super::client::Client;
use super::inspect::Execution;
use super::mailbox::Target;
use super::message::QueuedTask;
use super::restore_scope::{HeldTasks, RestoreScope};
use super::{EventKind, NodeName, Notice, Result, TaskId, WorkerEvent};

/// Between the two looks: longer than a task is between its end and its acknowledgement.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How long workers have to say what they hold.
const WORKER_DEADLINE: Duration = Duration::from_secs(2);
/// Longer than two heartbeats of a worker.
const HEARTBEATS_TIMEOUT: Duration = Duration::from_secs(5);
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
type Suspect = (QueuedTask, Vec<u8>, Vec<u8>);

/// What was done about the unacknowledged messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Put back on their queues, to be taken next.
    pub requeued: u64,
    /// Acknowledged for a worker that could not: their results are final.
    pub acknowledged: u64,
    /// Left alone: a live worker has their tasks.
    pub held: u64,
    /// Left for some seconds: a worker may be about to send the callback of their chord.
    pub postponed: u64,
    /// Why nothing could be judged; all are left alone then.
    pub uncertain: Option<String>,
}

impl Restored {
    fn uncertain(why: String) -> Self {
        Self {
            uncertain: Some(why),
            ..Self::default()
        }
    }
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
        self.restore_in(&RestoreScope::AllAnswer, ended).await
    }

    /// As [`Client::restore_unacked`], where these workers are known to be dead: they need not answer, though the broker may
    /// still count their connections. Moves nothing where one of them is heard, or another is heard and does not answer.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_without(&self, dead: &BTreeSet<NodeName>) -> Result<Restored> {
        let beating = self.beating().await?;
        self.restore_in(&RestoreScope::Without { dead, beating }, &HashSet::new())
            .await
    }

    /// Puts back what a worker held whose process was seen to end at `until` (unix seconds): of `tasks`, those that no other
    /// worker lists and that were not taken later. Takes a second when there is anything.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_held(
        &self,
        tasks: &HashSet<TaskId>,
        until: f64,
        ended: &HashSet<Execution>,
    ) -> Result<Restored> {
        if tasks.is_empty() {
            return Ok(Restored::default());
        }
        self.restore_in(&RestoreScope::Process { tasks, until }, ended).await
    }

    /// Puts back what was taken until `until` (unix seconds) of the jobs that the tasks `roots` have started, where every
    /// worker that listens, and every one of `living`, has answered and none holds it: a worker that died then may have taken
    /// more than its events tell, since it sends those a moment later, and one whose connection broke acknowledges nothing
    /// that it had taken before.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn restore_of_jobs(
        &self,
        roots: &HashSet<TaskId>,
        until: f64,
        living: &BTreeSet<NodeName>,
        ended: &HashSet<Execution>,
    ) -> Result<Restored> {
        let scope = RestoreScope::Jobs { roots, until, living };
        self.restore_in(&scope, ended).await
    }

    async fn restore_in(&self, scope: &RestoreScope<'_>, ended: &HashSet<Execution>) -> Result<Restored> {
        let mut first = self.unacked().await?;
        if first.is_empty() {
            return Ok(Restored::default());
        }
        let taken_at = self.taken_at().await?;
        // No task: nobody can be asked about it.
        first.retain(|tag, value| task_of(value).is_none_or(|task| scope.concerns(&task, taken_at.get(tag).copied())));
        if first.is_empty() {
            return Ok(Restored::default());
        }
        let held = self.held(ended).await?;
        if let Some(why) = scope.doubt(&held) {
            return Ok(Restored::uncertain(why));
        }
        let mut restored = Restored::default();
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
        sleep(BETWEEN_LOOKS).await;
        let held = self.held(ended).await?;
        if let Some(why) = scope.doubt(&held) {
            return Ok(Restored::uncertain(why));
        }
        let again = self.unacked().await?;
        let taken_at = self.taken_at().await?;
        for (task, tag, value) in last_taken_first(suspects, &taken_at) {
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

    /// The workers that send heartbeats.
    async fn beating(&self) -> Result<BTreeSet<NodeName>> {
        let mut beating = BTreeSet::new();
        let mut events = self.events().await?;
        let listen = async {
            loop {
                let notice = match events.next().await {
                    Ok(notice) => notice,
                    Err(error) => return error,
                };
                if let Notice::Event(event) = notice
                    && let EventKind::Worker(WorkerEvent::Heartbeat(_) | WorkerEvent::Online(_)) = event.kind
                {
                    beating.insert(event.node);
                }
            }
        };
        match timeout(HEARTBEATS_TIMEOUT, listen).await {
            Ok(error) => Err(error),
            Err(_elapsed) => Ok(beating),
        }
    }

    /// Puts back one message that nobody holds, or acknowledges it where its task owes nothing more. `held` is what live
    /// workers hold.
    async fn restore(
        &self,
        (id, tag, value): (&TaskId, &[u8], &[u8]),
        held: &HashSet<TaskId>,
        restored: &mut Restored,
    ) -> Result<()> {
        let has_result = !self
            .results()
            .finished_among(std::slice::from_ref(id))
            .await?
            .is_empty();
        let part = ChordPart::decode_unacked(value);
        let chord = match &part {
            Some(part) => self.chord_state(id, part).await?,
            None => None,
        };
        match fate(has_result, chord) {
            Fate::Acknowledge => {
                restored.acknowledged += self.move_message(tag, value, "", "").await?;
                return Ok(());
            }
            Fate::PutBack => {}
            Fate::PutBackUnlessCompleting => {
                if let Some(part) = &part
                    && self.may_be_completing(part, held).await?
                {
                    restored.postponed += 1;
                    return Ok(());
                }
            }
            Fate::Postpone => {
                restored.postponed += 1;
                return Ok(());
            }
        }
        if let Some((queue, message)) = self.redelivery(value).await? {
            restored.requeued += self.move_message(tag, value, &queue, &message).await?;
        }
        Ok(())
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

    /// When each unacknowledged message was taken, in unix seconds of its worker's clock.
    async fn taken_at(&self) -> Result<HashMap<Vec<u8>, f64>> {
        let mut scores = redis::pipe();
        scores.cmd("ZRANGE").arg(self.broker_keys().unacked_index());
        scores.arg(0).arg(-1).arg("WITHSCORES");
        let (scores,): (Vec<(Vec<u8>, f64)>,) = self
            .broker()
            .query("read when messages were taken", &scores, self.deadline())
            .await?;
        Ok(scores.into_iter().collect())
    }

    /// Every task that a worker has, but for executions that have ended, and who has answered.
    async fn held(&self, ended: &HashSet<Execution>) -> Result<HeldTasks> {
        let control = self.control();
        let (scheduled, reserved, active) = tokio::join!(
            control.scheduled(&Target::All, WORKER_DEADLINE),
            control.reserved(&Target::All, WORKER_DEADLINE),
            control.active(&Target::All, WORKER_DEADLINE),
        );
        let (scheduled, reserved, mut active) = (scheduled?, reserved?, active?);
        active.forget_ended(ended);
        let mut held = HeldTasks {
            answered: active.good().map(|(node, _)| node.clone()).collect(),
            answers: u64::MAX,
            ..HeldTasks::default()
        };
        for list in scheduled.good().map(|(_, list)| list) {
            held.tasks.extend(list.iter().map(|task| task.request.id.clone()));
        }
        for list in reserved.good().chain(active.good()).map(|(_, list)| list) {
            held.tasks.extend(list.iter().map(|task| task.id.clone()));
        }
        held.judge(&scheduled);
        held.judge(&reserved);
        held.judge(&active);
        Ok(held)
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
        let keys = self.broker_keys();
        Ok(members.iter().find_map(|member| {
            let mut parts = member.split(keys.separator());
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

fn task_of(value: &[u8]) -> Option<QueuedTask> {
    QueuedTask::decode_unacked(value).ok().flatten()
}

/// In the order in which they must be put back, so that what was taken first is next to be served: each goes before those
/// that are there. A message that the index does not know is older than all.
fn last_taken_first(mut messages: Vec<Suspect>, taken_at: &HashMap<Vec<u8>, f64>) -> Vec<Suspect> {
    let place = |tag: &Vec<u8>| taken_at.get(tag).copied().unwrap_or(f64::NEG_INFINITY);
    messages.sort_by(|(_, one, _), (_, other, _)| place(other).total_cmp(&place(one)).then_with(|| other.cmp(one)));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_last_is_put_back_first() {
        let task = |name: &str| QueuedTask {
            id: TaskId::from(name),
            name: None,
            root_id: None,
            routing_key: None,
        };
        let message = |name: &str| (task(name), name.as_bytes().to_vec(), Vec::new());
        let taken_at = HashMap::from([(b"old".to_vec(), 1.0), (b"new".to_vec(), 2.0)]);
        let sorted = last_taken_first(["unknown", "old", "new"].map(message).to_vec(), &taken_at);
        let names: Vec<&str> = sorted.iter().map(|(task, _, _)| task.id.as_str()).collect();
        assert_eq!(names, ["new", "old", "unknown"]);
    }
}
