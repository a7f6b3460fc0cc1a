//! The stream of all events of a broker, which survives reconnects and says when something may be missing.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::time::sleep;

use super::connection::{Connector, pause_before};
use super::event::Event;
use super::keys::Keys;
use super::subscription::Subscription;
use super::{Error, Result};

/// What the stream gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    Event(Box<Event>),
    /// The subscription was lost and is back. Events between are gone, since pub/sub has no replay: inspect again
    /// whatever is derived from them.
    Gap,
}

/// A subscription to all event channels. Dropping it ends it.
pub struct EventStream {
    connector: Connector,
    pattern: String,
    subscription: Option<Subscription>,
    /// Attempts to reconnect since the loss.
    attempts: u32,
    waiting: VecDeque<Event>,
    malformed: u64,
}

impl EventStream {
    /// Subscribes and waits for the confirmation.
    pub(super) async fn open(connector: &Connector, keys: &Keys) -> Result<Self> {
        let pattern = keys.events();
        let subscription = subscribed(connector, &pattern).await?;
        Ok(Self {
            connector: connector.clone(),
            pattern,
            subscription: Some(subscription),
            attempts: 0,
            waiting: VecDeque::new(),
            malformed: 0,
        })
    }

    /// Messages and events that could not be read and were skipped.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The next event. Waits while the server is away; fails only when the server refuses us for good.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Notice::Event(Box::new(event)));
            }
            let Some(subscription) = &mut self.subscription else {
                self.reconnect().await?;
                return Ok(Notice::Gap);
            };
            match subscription.next().await {
                None => {
                    tracing::warn!(endpoint = %self.connector.endpoint(), "lost the subscription for events");
                    self.subscription = None;
                }
                Some(message) => {
                    let mut events = Vec::new();
                    match Event::decode(message.get_payload_bytes(), Instant::now(), &mut events) {
                        Ok(malformed) => self.malformed += malformed,
                        Err(error) => {
                            self.malformed += 1;
                            tracing::debug!(%error, "skipped an event");
                        }
                    }
                    self.waiting.extend(events);
                }
            }
        }
    }

    async fn reconnect(&mut self) -> Result<()> {
        loop {
            if self.attempts > 0 {
                sleep(pause_before(self.attempts)).await;
            }
            self.attempts = self.attempts.saturating_add(1);
            match subscribed(&self.connector, &self.pattern).await {
                Ok(subscription) => {
                    self.subscription = Some(subscription);
                    self.attempts = 0;
                    return Ok(());
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

async fn subscribed(connector: &Connector, pattern: &str) -> Result<Subscription, Error> {
    let mut subscription = Subscription::open(connector).await?;
    subscription.subscribe_pattern(pattern).await?;
    Ok(subscription)
}
