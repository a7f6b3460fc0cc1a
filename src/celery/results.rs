//! Waiting for results: one subscription connection for all waits, no polling, no lost wake-up.
//!
//! For each task: SUBSCRIBE, the server's confirmation, then a read of what is already there, then messages. After a
//! lost connection all of that is repeated for all tasks still waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::connection::{Commands, pause_before};
use super::keys::Keys;
use super::subscription::Subscription;
use super::task_result::group_members;
use super::{Error, GroupId, Outcome, Result, TaskId, TaskResult, TaskState, json};

/// How many tasks one SUBSCRIBE or one pipeline of reads names at most.
const BATCH: usize = 200;

/// How much is read of a result: one byte above the limit, so that a longer one is noticed.
const WHOLE: usize = json::SIZE_LIMIT + 1;

/// Enough of a result for its status, whatever an app calls its own ones.
const HEAD: usize = 64;

/// How far a group is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupProgress {
    pub total: u64,
    pub succeeded: u64,
    /// Failed or revoked.
    pub failed: u64,
}

impl GroupProgress {
    /// Whether nothing will follow.
    pub fn is_complete(self) -> bool {
        self.succeeded + self.failed == self.total
    }
}

/// How a task stands, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    Succeeded,
    Failed,
    Revoked,
}

impl Standing {
    fn of(status: &[u8]) -> Self {
        match status {
            b"SUCCESS" => Self::Succeeded,
            b"FAILURE" => Self::Failed,
            b"REVOKED" => Self::Revoked,
            _ => Self::Open,
        }
    }

    fn is_final(self) -> bool {
        self != Self::Open
    }

    fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Open => None,
            Self::Succeeded => Some(Outcome::Succeeded),
            Self::Failed => Some(Outcome::Failed),
            Self::Revoked => Some(Outcome::Revoked),
        }
    }
}

/// The status at the head of a value as Celery writes it; `None` where it is not there.
pub(super) fn status_of(head: &[u8]) -> Option<&[u8]> {
    let rest = head.strip_prefix(br#"{"status": ""#)?;
    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    (rest[end] == b'"').then(|| &rest[..end])
}

/// A state of a task, or why it cannot be told.
type Report = Option<Result<TaskResult>>;

/// Reads results and waits for them. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Results {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<Commands>,
    keys: Keys,
    within: Duration,
    orders: mpsc::UnboundedSender<Order>,
    next_number: AtomicU64,
    hub: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.hub.abort();
    }
}

impl Results {
    /// Starts the hub on the current runtime; it connects with the first watch.
    pub(super) fn new(backend: Arc<Commands>, keys: Keys, within: Duration) -> Self {
        // Bounded by the number of watches: each sends two orders in its life.
        let (orders, receiver) = mpsc::unbounded_channel();
        let hub = Hub {
            backend: backend.clone(),
            within,
            orders: receiver,
            watched: HashMap::new(),
        };
        let hub = tokio::spawn(hub.run());
        Self {
            shared: Arc::new(Shared {
                backend,
                keys,
                within,
                orders,
                next_number: AtomicU64::new(0),
                hub,
            }),
        }
    }

    /// Whether the runtime it was started on still runs.
    pub(super) fn is_alive(&self) -> bool {
        !self.shared.hub.is_finished()
    }

    /// What is known about a task now; `None` when nothing is (waiting, running, ignored, expired or never heard of).
    pub async fn get(&self, id: &TaskId) -> Result<Option<TaskResult>> {
        let key = self.shared.keys.result(id);
        let values = read(
            &self.shared.backend,
            std::slice::from_ref(&key),
            WHOLE,
            self.shared.within,
        )
        .await?;
        let value = values
            .into_iter()
            .next()
            .unwrap_or(Ok(Vec::new()))
            .map_err(|reason| unreadable(id, reason))?;
        if value.is_empty() {
            return Ok(None);
        }
        TaskResult::decode(&value, id, std::time::Instant::now()).map(Some)
    }

    /// Which of these tasks have a final result.
    pub(super) async fn finished_among(&self, ids: &[TaskId]) -> Result<Vec<TaskId>> {
        let standings = self.standings(ids).await?;
        let finished = ids.iter().zip(standings);
        Ok(finished
            .filter(|(_, standing)| standing.is_final())
            .map(|(id, _)| id.clone())
            .collect())
    }

    /// How far some tasks are, such as the members of a group.
    pub async fn progress(&self, ids: &[TaskId]) -> Result<GroupProgress> {
        let mut progress = GroupProgress {
            total: ids.len() as u64,
            ..GroupProgress::default()
        };
        for standing in self.standings(ids).await? {
            match standing {
                Standing::Open => {}
                Standing::Succeeded => progress.succeeded += 1,
                Standing::Failed | Standing::Revoked => progress.failed += 1,
            }
        }
        Ok(progress)
    }

    /// How each of these tasks ended, in order; `None`: no end is stored.
    pub async fn outcomes(&self, ids: &[TaskId]) -> Result<Vec<Option<Outcome>>> {
        let standings = self.standings(ids).await?;
        Ok(standings.into_iter().map(Standing::outcome).collect())
    }

    /// The members of a group whose result was saved (`GroupResult.save`); `None` when nothing is saved, as for most: the
    /// id of a group that a task has started is in its [`children`](TaskResult::children), with its members.
    pub async fn group_members(&self, group: &GroupId) -> Result<Option<Vec<TaskId>>> {
        let key = self.shared.keys.chord(group, "");
        let values = read(
            &self.shared.backend,
            std::slice::from_ref(&key),
            WHOLE,
            self.shared.within,
        )
        .await?;
        let value = values
            .into_iter()
            .next()
            .unwrap_or(Ok(Vec::new()))
            .map_err(|reason| Error::Malformed {
                what: format!("the members of group {group}"),
                reason,
            })?;
        if value.is_empty() {
            return Ok(None);
        }
        group_members(&value, group).map(Some)
    }

    /// How each task stands, in order. Celery writes the status first, so the head of a value is read and not the whole;
    /// what another has written is read whole. A value that cannot be read is of an open task.
    async fn standings(&self, ids: &[TaskId]) -> Result<Vec<Standing>> {
        let mut standings = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let keys: Vec<String> = ids.iter().map(|id| self.shared.keys.result(id)).collect();
            let heads = read(&self.shared.backend, &keys, HEAD, self.shared.within).await?;
            for (id, head) in ids.iter().zip(heads) {
                let Ok(head) = head else {
                    standings.push(Standing::Open);
                    continue;
                };
                standings.push(match status_of(&head) {
                    Some(status) => Standing::of(status),
                    None if head.is_empty() => Standing::Open,
                    None => match self.get(id).await {
                        Ok(Some(result)) => match result.state {
                            TaskState::Success(_) => Standing::Succeeded,
                            TaskState::Revoked(_) => Standing::Revoked,
                            state if state.is_final() => Standing::Failed,
                            _ => Standing::Open,
                        },
                        Ok(None) | Err(Error::Malformed { .. } | Error::TooLarge { .. }) => Standing::Open,
                        Err(error) => return Err(error),
                    },
                });
            }
        }
        Ok(standings)
    }

    /// The first bytes of these tasks' results, empty where there is none; `Err` where one cannot be read.
    pub(super) async fn beginnings(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Result<Vec<u8>, String>>> {
        let keys: Vec<String> = ids.iter().map(|id| self.shared.keys.result(id)).collect();
        read(&self.shared.backend, &keys, bytes, self.shared.within).await
    }

    /// The last bytes of these tasks' results; empty where there is none.
    pub(super) async fn endings(&self, ids: &[TaskId], bytes: isize) -> Result<Vec<Vec<u8>>> {
        let mut reads = redis::pipe();
        for id in ids {
            reads
                .cmd("GETRANGE")
                .arg(self.shared.keys.result(id))
                .arg(-bytes)
                .arg(-1);
        }
        self.shared
            .backend
            .query("read the ends of task results", &reads, self.shared.within)
            .await
    }

    /// Deletes what is stored about a task; whether there was anything. Who watches it is not told.
    pub async fn forget(&self, id: &TaskId) -> Result<bool> {
        let mut delete = redis::pipe();
        delete.cmd("DEL").arg(self.shared.keys.result(id));
        let (deleted,): (u64,) = self
            .shared
            .backend
            .query("forget a result", &delete, self.shared.within)
            .await?;
        Ok(deleted > 0)
    }

    /// Follows a task from now on, whether it is already finished, running or not yet published.
    ///
    /// While Redis is away the watch goes on; how long to wait is the caller's to bound.
    pub fn watch(&self, id: &TaskId) -> ResultWatch {
        let number = self.shared.next_number.fetch_add(1, Ordering::Relaxed);
        let (sender, reports) = watch::channel(None);
        let channel = self.shared.keys.result(id);
        let order = Order::Watch {
            channel: channel.clone(),
            id: id.clone(),
            number,
            reports: sender,
        };
        // Fails only when the runtime is going down; the dropped sender then ends the watch with an error.
        let _sent = self.shared.orders.send(order);
        ResultWatch {
            id: id.clone(),
            channel,
            number,
            reports,
            shared: self.shared.clone(),
        }
    }
}

/// One task being followed; dropping it ends that.
pub struct ResultWatch {
    id: TaskId,
    channel: String,
    number: u64,
    reports: watch::Receiver<Report>,
    shared: Arc<Shared>,
}

impl ResultWatch {
    /// The task being followed.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// The next state. A slow caller sees the latest, not each; a final state is given again and again.
    /// Safe to cancel.
    ///
    /// Fails when the result cannot be read (too large, not JSON) or the server refuses us for good.
    pub async fn next(&mut self) -> Result<TaskResult> {
        let hub_is_alive = self.reports.changed().await.is_ok();
        match self.reports.borrow_and_update().as_ref() {
            Some(Ok(result)) if hub_is_alive || result.state.is_final() => Ok(result.clone()),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(_)) | None => Err(Error::Unreachable {
                action: format!("wait for task {}", self.id),
                endpoint: self.shared.backend.connector().endpoint().to_string(),
                reason: "the runtime that held the subscription has ended".to_owned(),
            }),
        }
    }

    /// The final state. Safe to cancel.
    pub async fn finished(&mut self) -> Result<TaskResult> {
        loop {
            let result = self.next().await?;
            if result.state.is_final() {
                return Ok(result);
            }
        }
    }
}

impl Drop for ResultWatch {
    fn drop(&mut self) {
        let order = Order::Unwatch {
            channel: std::mem::take(&mut self.channel),
            number: self.number,
        };
        // A hub that is gone holds no subscription.
        let _sent = self.shared.orders.send(order);
    }
}

enum Order {
    Watch {
        channel: String,
        id: TaskId,
        number: u64,
        reports: watch::Sender<Report>,
    },
    Unwatch {
        channel: String,
        number: u64,
    },
}

/// All watches of one task.
struct Watched {
    id: TaskId,
    watchers: Vec<(u64, watch::Sender<Report>)>,
    last: Option<TaskResult>,
}

/// The task behind [`Results`], which owns it.
struct Hub {
    backend: Arc<Commands>,
    within: Duration,
    orders: mpsc::UnboundedReceiver<Order>,
    /// By channel, which is also the key.
    watched: HashMap<String, Watched>,
}

impl Hub {
    async fn run(mut self) {
        let mut attempts = 0;
        loop {
            if self.watched.is_empty() {
                attempts = 0;
                let Some(order) = self.orders.recv().await else { return };
                self.take(order, None);
                continue;
            }
            if attempts > 0 {
                tokio::time::sleep(pause_before(attempts)).await;
            }
            attempts += 1;
            match self.connected().await {
                Ok(subscription) => {
                    attempts = 1;
                    self.serve(subscription).await;
                    let endpoint = self.backend.connector().endpoint();
                    tracing::warn!(%endpoint, waits = self.watched.len(), "lost the subscription for results");
                }
                Err(error) if error.is_transient() => tracing::debug!(%error, attempts, "no subscription for results"),
                Err(error) => self.fail_all(&error),
            }
        }
    }

    /// A subscription to all that is watched, with everything read that happened before.
    async fn connected(&mut self) -> Result<Subscription> {
        let mut subscription = Subscription::open(self.backend.connector()).await?;
        while let Ok(order) = self.orders.try_recv() {
            self.take(order, None);
        }
        let channels: Vec<String> = self.watched.keys().cloned().collect();
        self.follow(&mut subscription, channels).await?;
        Ok(subscription)
    }

    /// Runs until the connection is lost or there is nobody left to serve.
    async fn serve(&mut self, mut subscription: Subscription) {
        loop {
            tokio::select! {
                message = subscription.next() => {
                    let Some(message) = message else { return };
                    self.report(message.get_channel_name(), message.get_payload_bytes(), &mut subscription);
                }
                order = self.orders.recv() => {
                    let Some(order) = order else { return };
                    let mut fresh: Vec<String> = self.take(order, Some(&mut subscription)).into_iter().collect();
                    while fresh.len() < BATCH && let Ok(order) = self.orders.try_recv() {
                        fresh.extend(self.take(order, Some(&mut subscription)));
                    }
                    match self.follow(&mut subscription, fresh).await {
                        Ok(()) => {}
                        Err(error) if error.is_transient() => return,
                        Err(error) => return self.fail_all(&error),
                    }
                }
            }
        }
    }

    /// Carries out an order; gives the channel that must now be subscribed to.
    fn take(&mut self, order: Order, subscription: Option<&mut Subscription>) -> Option<String> {
        match order {
            Order::Watch {
                channel,
                id,
                number,
                reports,
            } => {
                if let Some(watched) = self.watched.get_mut(&channel) {
                    if let Some(last) = &watched.last {
                        reports.send_replace(Some(Ok(last.clone())));
                    }
                    watched.watchers.push((number, reports));
                    return None;
                }
                self.watched.insert(
                    channel.clone(),
                    Watched {
                        id,
                        watchers: vec![(number, reports)],
                        last: None,
                    },
                );
                Some(channel)
            }
            Order::Unwatch { channel, number } => {
                let watched = self.watched.get_mut(&channel)?;
                watched.watchers.retain(|(of, _)| *of != number);
                if watched.watchers.is_empty() {
                    self.watched.remove(&channel);
                    if let Some(subscription) = subscription {
                        subscription.unsubscribe(&channel);
                    }
                }
                None
            }
        }
    }

    /// Subscribes, waits for the confirmation, reads what was there before.
    async fn follow(&mut self, subscription: &mut Subscription, mut channels: Vec<String>) -> Result<()> {
        // An order taken in the same batch may have ended a watch again.
        channels.retain(|channel| self.watched.contains_key(channel));
        for channels in channels.chunks(BATCH) {
            subscription
                .subscribe(&channels.iter().map(String::as_str).collect::<Vec<_>>())
                .await?;
            let values = read(&self.backend, channels, WHOLE, self.within).await?;
            for (channel, value) in channels.iter().zip(values) {
                match value {
                    Ok(value) if value.is_empty() => {}
                    Ok(value) => self.report(channel, &value, subscription),
                    Err(reason) => self.refuse(channel, reason, subscription),
                }
            }
        }
        Ok(())
    }

    /// Tells the watchers of a channel what was read there.
    fn report(&mut self, channel: &str, value: &[u8], subscription: &mut Subscription) {
        let received_at = std::time::Instant::now();
        let Some(watched) = self.watched.get_mut(channel) else {
            return;
        };
        let report = TaskResult::decode(value, &watched.id, received_at);
        if let (Ok(result), Some(last)) = (&report, &watched.last)
            && result.says_the_same_as(last)
        {
            return;
        }
        for (_, watcher) in &watched.watchers {
            watcher.send_replace(Some(report.clone()));
        }
        match report {
            Ok(result) if !result.state.is_final() => watched.last = Some(result),
            Ok(_) | Err(_) => {
                self.watched.remove(channel);
                subscription.unsubscribe(channel);
            }
        }
    }

    /// Ends the watches of one task whose key holds no result.
    fn refuse(&mut self, channel: &str, reason: String, subscription: &mut Subscription) {
        let Some(watched) = self.watched.remove(channel) else {
            return;
        };
        let error = unreadable(&watched.id, reason);
        for (_, watcher) in &watched.watchers {
            watcher.send_replace(Some(Err(error.clone())));
        }
        subscription.unsubscribe(channel);
    }

    fn fail_all(&mut self, error: &Error) {
        for (_, watched) in self.watched.drain() {
            for (_, watcher) in &watched.watchers {
                watcher.send_replace(Some(Err(error.clone())));
            }
        }
    }
}

/// The first bytes of the values of keys, empty where there is none; `Err` where a key holds another type of value, which
/// must not hide the others.
async fn read(
    backend: &Commands,
    keys: &[String],
    bytes: usize,
    within: Duration,
) -> Result<Vec<Result<Vec<u8>, String>>> {
    let action = "read task results";
    let mut reads = redis::pipe();
    reads.ignore_errors();
    for key in keys {
        reads.cmd("GETRANGE").arg(key).arg(0).arg(bytes - 1);
    }
    let values: Vec<redis::RedisResult<Vec<u8>>> = backend.query(action, &reads, within).await?;
    let read = values.into_iter().map(|value| match value {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(Err(error.to_string())),
        Err(error) => Err(backend.connector().error(&error, action)),
    });
    read.collect()
}

fn unreadable(id: &TaskId, reason: String) -> Error {
    Error::Malformed {
        what: format!("the result of task {id}"),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_head_of_what_celery_writes() {
        for (head, status) in [
            (r#"{"status": "SUCCESS", "result": 5, "tr"#, Some("SUCCESS")),
            (r#"{"status": "PROGRESS", "result": {"don"#, Some("PROGRESS")),
            (r#"{"status": "AN_APPS_OWN_STATE_THAT_IS_LONGER_TH"#, None),
            (r#"{"status": "ODD\"", "result": 1"#, None),
            (r#"{"result": 5, "status": "SUCCESS"}"#, None),
            (r#"{"status":"SUCCESS"}"#, None),
            ("", None),
        ] {
            assert_eq!(status_of(head.as_bytes()), status.map(str::as_bytes), "{head}");
        }
    }
}
