//! Stream of all events of a broker. The stream reconnects by itself and reports when events may be missing.
//!
//! A separate thread reads the socket ([`reader_thread`](super::reader_thread)), so no event is lost while the consumer
//! is busy. This module decodes the bytes into events.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::time::sleep;

use super::buffer::BufferEnd;
use super::event::Event;
use super::job_events::JobEvent;
use super::reader_thread::ReaderThread;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::redis::connection::backoff_before;
use crate::redis::connector::RedisConnector;
use crate::redis::pubsub_frame;
use crate::redis::pubsub_frame::ProtocolViolation;
use crate::wire::keys::Keys;

/// Number of messages that are decoded before other tasks of the thread run.
const MESSAGES_AT_ONCE: usize = 64;

/// Item of the event stream.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    Event(Box<Event>),
    /// Loss and restoration of the subscription. The events in between are lost, since pub/sub has no replay. All
    /// events before the loss have been delivered. Inspect again everything that is derived from events.
    Gap,
}

/// Kind of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventBatch {
    /// All available events. The batch may be empty when no message was readable.
    Events,
    /// No events, because events are missing: the subscription was lost and restored.
    Gap,
}

/// Function that reads a message, with a buffer for the body, and returns the number of events that cannot be read.
type MessageDecoder<'a> = dyn FnMut(&[u8], &mut Vec<u8>) -> Result<u64> + Send + 'a;

/// Size in bytes of the body buffer that is kept. A list of two dozen events from Celery takes a third of this size.
const KEPT_BODY_SIZE: usize = 64 * 1024;

/// Subscription to all event channels. Dropping the stream ends the subscription.
pub struct EventStream {
    connector: RedisConnector,
    pattern: String,
    reader: Option<ReaderThread>,
    memory_limit: usize,
    /// Number of attempts to reconnect since the loss.
    attempts: u32,
    /// Received bytes; `read` of them have been decoded.
    bytes: Vec<u8>,
    read: usize,
    waiting: VecDeque<Event>,
    batch: Vec<Event>,
    /// Buffer for the body of a message, kept to reuse the memory.
    body: Vec<u8>,
    malformed: u64,
    overflows: u64,
}

impl Client {
    /// Subscribes to the workers' events. Every event that is published after this function returns arrives.
    pub async fn events(&self) -> Result<EventStream> {
        EventStream::open(self.broker().connector(), &self.broker_keys()).await
    }
}

impl EventStream {
    /// Default limit in bytes of the events that are buffered while the consumer is behind: about 800,000 single
    /// events. [`Self::set_memory_limit`] changes the limit.
    pub const MEMORY_LIMIT: usize = 512 * 1024 * 1024;

    /// Subscribes and waits for the confirmation.
    async fn open(connector: &RedisConnector, keys: &Keys) -> Result<Self> {
        let pattern = keys.event_channels_pattern();
        let drain = ReaderThread::open(connector, &pattern, Self::MEMORY_LIMIT).await?;
        Ok(Self {
            connector: connector.clone(),
            pattern,
            reader: Some(drain),
            memory_limit: Self::MEMORY_LIMIT,
            attempts: 0,
            bytes: Vec::new(),
            read: 0,
            waiting: VecDeque::new(),
            batch: Vec::new(),
            body: Vec::new(),
            malformed: 0,
            overflows: 0,
        })
    }

    /// Returns the number of messages and events that were skipped because they could not be read.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Returns how many times the consumer was so far behind that the memory limit was reached and the subscription was
    /// dropped. The stream reports a gap each time.
    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Sets the limit in bytes of the events that are buffered while the consumer is behind.
    pub fn set_memory_limit(&mut self, bytes: usize) {
        self.memory_limit = bytes;
        if let Some(drain) = &self.reader {
            drain.buffer().set_limit(bytes);
        }
    }

    /// Returns the next event. Waits while the server is unavailable and fails only when the server refuses the
    /// connection permanently. Cancel safe.
    pub async fn next(&mut self) -> Result<StreamItem> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(StreamItem::Event(Box::new(event)));
            }
            let mut batch = std::mem::take(&mut self.batch);
            let taken = self.next_batch(&mut batch).await?;
            self.waiting.extend(batch.drain(..));
            // Keep the allocated memory.
            self.batch = batch;
            if taken == EventBatch::Gap {
                return Ok(StreamItem::Gap);
            }
        }
    }

    /// Appends all available events to `events`, a few hundred at most. Works like [`Self::next`], for a consumer that
    /// must keep up with a high rate of events. Cancel safe.
    pub async fn next_batch(&mut self, events: &mut Vec<Event>) -> Result<EventBatch> {
        if !self.waiting.is_empty() {
            events.extend(self.waiting.drain(..));
            return Ok(EventBatch::Events);
        }
        self.fill(&mut |message, space| Event::decode(message, Instant::now(), events, space))
            .await
    }

    /// Reads only the parts of events that are needed to follow jobs, at half the cost of [`Self::next_batch`]. Do not
    /// mix calls with [`Self::next`], which keeps back events of its batch. Cancel safe.
    pub async fn next_job_events(&mut self, handle: &mut (dyn FnMut(JobEvent<'_>) + Send)) -> Result<EventBatch> {
        self.fill(&mut |message, space| JobEvent::decode(message, space, handle))
            .await
    }

    /// Reads one or more messages with `decode`, or reports a gap when events are missing.
    async fn fill(&mut self, decode: &mut MessageDecoder<'_>) -> Result<EventBatch> {
        loop {
            // Many events in a row must not block the other tasks of this thread.
            tokio::task::coop::consume_budget().await;
            if self.decode(decode) {
                return Ok(EventBatch::Events);
            }
            let Some(drain) = &self.reader else {
                self.reconnect().await?;
                return Ok(EventBatch::Gap);
            };
            match drain.buffer().next().await {
                Ok(block) => {
                    let is_read = self.read == self.bytes.len();
                    let done = if is_read {
                        std::mem::replace(&mut self.bytes, block)
                    } else {
                        self.bytes.drain(..self.read);
                        self.bytes.extend_from_slice(&block);
                        block
                    };
                    self.read = 0;
                    drain.buffer().reuse(done);
                }
                Err(end) => self.lose(end),
            }
        }
    }

    /// Decodes some of the received bytes. Returns true when there was at least one message.
    fn decode(&mut self, decode: &mut MessageDecoder<'_>) -> bool {
        let mut messages = 0;
        while messages < MESSAGES_AT_ONCE {
            let (length, payload) = match pubsub_frame::parse_frame(&self.bytes[self.read..]) {
                Ok(Some(frame)) => (frame.length, frame.payload),
                Ok(None) => break,
                Err(ProtocolViolation) => {
                    self.lose(BufferEnd::Lost);
                    break;
                }
            };
            if let Some(payload) = payload {
                messages += 1;
                match decode(payload, &mut self.body) {
                    Ok(malformed) => self.malformed += malformed,
                    Err(error) => {
                        self.malformed += 1;
                        tracing::debug!(%error, "skipped an event");
                    }
                }
                // Do not keep the memory of one huge message forever.
                self.body.clear();
                self.body.shrink_to(KEPT_BODY_SIZE);
            }
            self.read += length;
        }
        messages > 0
    }

    fn lose(&mut self, end: BufferEnd) {
        let endpoint = self.connector.endpoint();
        match end {
            BufferEnd::Lost => tracing::warn!(%endpoint, "lost the subscription for events"),
            BufferEnd::Overflow => {
                self.overflows += 1;
                let limit = self.memory_limit;
                tracing::warn!(%endpoint, limit, "dropped the subscription for events: the consumer is too far behind");
            }
        }
        self.reader = None;
        self.bytes.clear();
        self.read = 0;
    }

    async fn reconnect(&mut self) -> Result<()> {
        loop {
            if self.attempts > 0 {
                sleep(backoff_before(self.attempts)).await;
            }
            self.attempts = self.attempts.saturating_add(1);
            match ReaderThread::open(&self.connector, &self.pattern, self.memory_limit).await {
                Ok(drain) => {
                    self.reader = Some(drain);
                    self.attempts = 0;
                    return Ok(());
                }
                Err(error) if Error::is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
