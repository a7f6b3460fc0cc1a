//! A pub/sub connection that notices when it is lost, also when the other side just falls silent.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::Result;
use super::connection::Connector;

/// For connecting, for a confirmation, for the answer to a ping.
const LIMIT: Duration = Duration::from_secs(5);
/// Without a message for so long, the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// Dropping it closes the connection.
pub(super) struct Subscription {
    connector: Connector,
    sink: PubSubSink,
    stream: PubSubStream,
    ping_at: Instant,
}

impl Subscription {
    /// Connects; fails after 5 seconds.
    pub(super) async fn open(connector: &Connector) -> Result<Self> {
        let action = "open a subscription";
        let opened = timeout(LIMIT, connector.open_pubsub(action)).await;
        let (sink, stream) = opened.map_err(|_| connector.deadline_error(action, LIMIT))??.split();
        Ok(Self {
            connector: connector.clone(),
            sink,
            stream,
            ping_at: Instant::now() + SILENCE,
        })
    }

    /// Subscribes and waits until the server confirmed it: what is published from now on arrives.
    pub(super) async fn subscribe(&mut self, channels: &[&str]) -> Result<()> {
        self.confirmed("subscribe", |mut sink| async move { sink.subscribe(channels).await })
            .await
    }

    /// Like [`Self::subscribe`], for a pattern.
    pub(super) async fn subscribe_pattern(&mut self, pattern: &str) -> Result<()> {
        self.confirmed("subscribe", |mut sink| async move { sink.psubscribe(pattern).await })
            .await
    }

    /// Unsubscribes without waiting; messages already on their way still arrive.
    pub(super) fn unsubscribe(&mut self, channel: &str) {
        // One poll hands the command to the connection; a lost connection has no subscriptions either.
        let _sent = self.sink.unsubscribe(channel).now_or_never();
    }

    /// The next message; `None` when the connection is lost. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<Msg> {
        loop {
            tokio::select! {
                message = self.stream.next() => {
                    self.ping_at = Instant::now() + SILENCE;
                    return message;
                }
                () = sleep_until(self.ping_at) => {
                    self.confirmed("ping", |mut sink| async move { sink.ping::<redis::Value>().await.map(|_| ()) })
                        .await
                        .ok()?;
                    self.ping_at = Instant::now() + SILENCE;
                }
            }
        }
    }

    async fn confirmed<F: Future<Output = redis::RedisResult<()>>>(
        &self,
        action: &str,
        request: impl FnOnce(PubSubSink) -> F,
    ) -> Result<()> {
        match timeout(LIMIT, request(self.sink.clone())).await {
            Ok(answer) => answer.map_err(|error| self.connector.error(&error, action)),
            Err(_) => Err(self.connector.deadline_error(action, LIMIT)),
        }
    }
}
