//! Pub/sub connection that detects the loss of the connection, even if the other side only becomes silent.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::connector::RedisConnector;
use crate::error::Result;

/// Time limit for connecting, for a confirmation and for the answer to a ping.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a message after which the server is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Pub/sub connection; dropping the value closes the connection.
pub(crate) struct ChannelSubscription {
    connector: RedisConnector,
    sink: PubSubSink,
    stream: PubSubStream,
    ping_at: Instant,
}

impl ChannelSubscription {
    /// Connects; fails after 5 seconds.
    pub(crate) async fn open(connector: &RedisConnector) -> Result<Self> {
        let action = "open a subscription";
        let opened = timeout(ANSWER_TIMEOUT, connector.open_pubsub(action)).await;
        let (sink, stream) = opened
            .map_err(|_| connector.deadline_error(action, ANSWER_TIMEOUT))??
            .split();
        Ok(Self {
            connector: connector.clone(),
            sink,
            stream,
            ping_at: Instant::now() + PING_INTERVAL,
        })
    }

    /// Subscribes to channels and waits for the server's confirmation. Every message that is published later arrives.
    pub(crate) async fn subscribe(&mut self, channels: &[&str]) -> Result<()> {
        self.confirmed("subscribe", |mut sink| async move { sink.subscribe(channels).await })
            .await
    }

    /// Subscribes to a pattern, like [`Self::subscribe`].
    pub(crate) async fn subscribe_pattern(&mut self, pattern: &str) -> Result<()> {
        self.confirmed("subscribe", |mut sink| async move { sink.psubscribe(pattern).await })
            .await
    }

    /// Unsubscribes without waiting; messages that the server has already sent still arrive.
    pub(crate) fn unsubscribe(&mut self, channel: &str) {
        // One poll passes the command to the connection; a lost connection has no subscriptions either.
        let _sent = self.sink.unsubscribe(channel).now_or_never();
    }

    /// Waits for the next message; `None` if the connection is lost. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Msg> {
        loop {
            tokio::select! {
                message = self.stream.next() => {
                    self.ping_at = Instant::now() + PING_INTERVAL;
                    return message;
                }
                () = sleep_until(self.ping_at) => {
                    self.confirmed("ping", |mut sink| async move { sink.ping::<redis::Value>().await.map(|_| ()) })
                        .await
                        .ok()?;
                    self.ping_at = Instant::now() + PING_INTERVAL;
                }
            }
        }
    }

    async fn confirmed<F: Future<Output = redis::RedisResult<()>>>(
        &self,
        action: &str,
        request: impl FnOnce(PubSubSink) -> F,
    ) -> Result<()> {
        match timeout(ANSWER_TIMEOUT, request(self.sink.clone())).await {
            Ok(answer) => answer.map_err(|error| self.connector.error(&error, action)),
            Err(_) => Err(self.connector.deadline_error(action, ANSWER_TIMEOUT)),
        }
    }
}
