//! Distribution of results to watches with one subscription connection for all tasks, without polling and without lost
//! wake-ups.
//!
//! For each task: SUBSCRIBE, the server's confirmation, a read of the stored result, then messages. After a lost
//! connection these steps are repeated for all watched tasks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::stored_values::{BATCH, MAX_READ, read, unreadable};
use super::task_result::TaskResult;
use crate::error::{Error, Result};
use crate::redis::connection::{CommandConnection, backoff_before};
use crate::redis::subscription::ChannelSubscription;
use crate::wire::ids::TaskId;

/// State of a task, or the error of reading the state; `None` before the first state.
pub(crate) type WatchReport = Option<Result<TaskResult>>;

/// Request of a watch to the dispatcher.
pub(crate) enum WatchRequest {
    Watch {
        channel: String,
        id: TaskId,
        number: u64,
        reports: watch::Sender<WatchReport>,
    },
    Unwatch {
        channel: String,
        number: u64,
    },
}

/// Handle to the dispatcher; dropping the value ends the dispatcher.
pub(crate) struct DispatcherHandle {
    backend: Arc<CommandConnection>,
    requests: mpsc::UnboundedSender<WatchRequest>,
    next_number: AtomicU64,
    dispatcher: JoinHandle<()>,
}

impl Drop for DispatcherHandle {
    fn drop(&mut self) {
        self.dispatcher.abort();
    }
}

impl DispatcherHandle {
    /// Starts the dispatcher on the current runtime. The dispatcher connects when the first watch begins.
    pub(crate) fn start(backend: Arc<CommandConnection>, within: Duration) -> Self {
        // The number of watches limits the queue: each watch sends two requests in its life.
        let (requests, receiver) = mpsc::unbounded_channel();
        let dispatcher = ResultDispatcher {
            backend: backend.clone(),
            within,
            requests: receiver,
            watched: HashMap::new(),
        };
        Self {
            backend,
            requests,
            next_number: AtomicU64::new(0),
            dispatcher: tokio::spawn(dispatcher.run()),
        }
    }

    /// Returns whether the runtime on which the dispatcher was started still runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.dispatcher.is_finished()
    }

    /// Returns a number for a new watch.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request. A dispatcher that has ended has no subscription and has dropped the senders of all watches.
    pub(crate) fn send(&self, request: WatchRequest) {
        let _sent = self.requests.send(request);
    }

    /// Returns the name of the result backend.
    pub(crate) fn endpoint(&self) -> String {
        self.backend.connector().endpoint().to_string()
    }
}

/// Watched task with all its watchers.
struct WatchedTask {
    id: TaskId,
    watchers: Vec<(u64, watch::Sender<WatchReport>)>,
    last: Option<TaskResult>,
}

/// Background task of the result handle. The task owns the subscription and distributes results to the watches.
struct ResultDispatcher {
    backend: Arc<CommandConnection>,
    within: Duration,
    requests: mpsc::UnboundedReceiver<WatchRequest>,
    /// Watched tasks by channel; the name of the channel is also the key of the result.
    watched: HashMap<String, WatchedTask>,
}

impl ResultDispatcher {
    async fn run(mut self) {
        let mut attempts = 0;
        loop {
            if self.watched.is_empty() {
                attempts = 0;
                let Some(request) = self.requests.recv().await else {
                    return;
                };
                self.execute(request, None);
                continue;
            }
            if attempts > 0 {
                tokio::time::sleep(backoff_before(attempts)).await;
            }
            attempts += 1;
            match self.connect().await {
                Ok(subscription) => {
                    attempts = 1;
                    self.serve(subscription).await;
                    let endpoint = self.backend.connector().endpoint();
                    tracing::warn!(%endpoint, waits = self.watched.len(), "lost the subscription for results");
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, attempts, "could not open the subscription for results")
                }
                Err(error) => self.fail_all(&error),
            }
        }
    }

    /// Opens a subscription to all watched tasks and reads the results that are already stored.
    async fn connect(&mut self) -> Result<ChannelSubscription> {
        let mut subscription = ChannelSubscription::open(self.backend.connector()).await?;
        while let Ok(request) = self.requests.try_recv() {
            self.execute(request, None);
        }
        let channels: Vec<String> = self.watched.keys().cloned().collect();
        self.subscribe_and_read(&mut subscription, channels).await?;
        Ok(subscription)
    }

    /// Runs until the connection is lost, the server refuses a request permanently, or all handles are dropped.
    async fn serve(&mut self, mut subscription: ChannelSubscription) {
        loop {
            tokio::select! {
                message = subscription.next() => {
                    let Some(message) = message else { return };
                    self.deliver(message.get_channel_name(), message.get_payload_bytes(), &mut subscription);
                }
                request = self.requests.recv() => {
                    let Some(request) = request else { return };
                    let mut new_channels: Vec<String> = self.execute(request, Some(&mut subscription)).into_iter().collect();
                    while new_channels.len() < BATCH && let Ok(request) = self.requests.try_recv() {
                        new_channels.extend(self.execute(request, Some(&mut subscription)));
                    }
                    match self.subscribe_and_read(&mut subscription, new_channels).await {
                        Ok(()) => {}
                        Err(error) if error.is_transient() => return,
                        Err(error) => return self.fail_all(&error),
                    }
                }
            }
        }
    }

    /// Executes a request; returns the channel that must be subscribed to, if any.
    fn execute(&mut self, request: WatchRequest, subscription: Option<&mut ChannelSubscription>) -> Option<String> {
        match request {
            WatchRequest::Watch {
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
                    WatchedTask {
                        id,
                        watchers: vec![(number, reports)],
                        last: None,
                    },
                );
                Some(channel)
            }
            WatchRequest::Unwatch { channel, number } => {
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

    /// Subscribes to the channels, waits for the confirmation, and reads the results that are already stored.
    async fn subscribe_and_read(
        &mut self,
        subscription: &mut ChannelSubscription,
        mut channels: Vec<String>,
    ) -> Result<()> {
        // A later request of the same batch may have ended a watch.
        channels.retain(|channel| self.watched.contains_key(channel));
        for channels in channels.chunks(BATCH) {
            subscription
                .subscribe(&channels.iter().map(String::as_str).collect::<Vec<_>>())
                .await?;
            let values = read(&self.backend, channels, MAX_READ, self.within).await?;
            for (channel, value) in channels.iter().zip(values) {
                match value {
                    Ok(value) if value.is_empty() => {}
                    Ok(value) => self.deliver(channel, &value, subscription),
                    Err(reason) => self.end_with_error(channel, reason, subscription),
                }
            }
        }
        Ok(())
    }

    /// Passes the value of a channel to the channel's watchers.
    fn deliver(&mut self, channel: &str, value: &[u8], subscription: &mut ChannelSubscription) {
        let received_at = std::time::Instant::now();
        let Some(watched) = self.watched.get_mut(channel) else {
            return;
        };
        let report = TaskResult::decode(value, &watched.id, received_at);
        if let (Ok(result), Some(last)) = (&report, &watched.last)
            && result.has_same_content(last)
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

    /// Ends the watches of one task with an error, because the key holds another type of value.
    fn end_with_error(&mut self, channel: &str, reason: String, subscription: &mut ChannelSubscription) {
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
