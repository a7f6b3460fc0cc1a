//! The stream of all events of a broker, which survives reconnects and says when something may be missing.
//!
//! A thread of its own empties the socket (`event_drain`), so that a consumer that is busy for a while loses nothing;
//! here the bytes become events.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::time::sleep;

use super::connection::{Connector, pause_before};
use super::event::Event;
use super::event_drain::Drain;
use super::event_inbox::End;
use super::keys::Keys;
use super::push::{self, Broken};
use super::task_news::News;
use super::{Error, Result};

/// Decoded at once; then other tasks of the thread have their turn.
const MESSAGES: usize = 64;

/// What the stream gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    Event(Box<Event>),
    /// The subscription was lost and is back. Events between are gone, since pub/sub has no replay: inspect again
    /// whatever is derived from them. All that came before the loss has been given.
    Gap,
}

/// What came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// What was at hand, which may have been nothing that can be read.
    Events,
    /// None, and some are missing: see [`Notice::Gap`].
    Gap,
}

/// Reads a message, with space for its body; gives the number of events that cannot be read.
type Decode<'a> = dyn FnMut(&[u8], &mut Vec<u8>) -> Result<u64> + Send + 'a;

/// Bytes of memory for a decoded body that are kept: Celery's lists of two dozen events take a third of it.
const BODY_KEPT: usize = 64 * 1024;

/// A subscription to all event channels. Dropping it ends it.
pub struct EventStream {
    connector: Connector,
    pattern: String,
    drain: Option<Drain>,
    memory_limit: usize,
    /// Attempts to reconnect since the loss.
    attempts: u32,
    /// Bytes that came, and how many of them are read.
    bytes: Vec<u8>,
    read: usize,
    waiting: VecDeque<Event>,
    batch: Vec<Event>,
    /// Of the message that was decoded last, kept for its memory.
    body: Vec<u8>,
    malformed: u64,
    overflows: u64,
}

impl EventStream {
    /// How many bytes of events are kept for a consumer that is behind, unless [`Self::set_memory_limit`] says
    /// otherwise: some 800,000 single events.
    pub const MEMORY_LIMIT: usize = 512 * 1024 * 1024;

    /// Subscribes and waits for the confirmation.
    pub(super) async fn open(connector: &Connector, keys: &Keys) -> Result<Self> {
        let pattern = keys.events();
        let drain = Drain::open(connector, &pattern, Self::MEMORY_LIMIT).await?;
        Ok(Self {
            connector: connector.clone(),
            pattern,
            drain: Some(drain),
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

    /// Messages and events that could not be read and were skipped.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// How often the consumer was so far behind that the memory limit was reached and the subscription given up; each
    /// time a gap is told.
    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Bytes of events that are kept for a consumer that is behind.
    pub fn set_memory_limit(&mut self, bytes: usize) {
        self.memory_limit = bytes;
        if let Some(drain) = &self.drain {
            drain.inbox().set_limit(bytes);
        }
    }

    /// The next event. Waits while the server is away; fails only when the server refuses us for good.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Notice::Event(Box::new(event)));
            }
            let mut batch = std::mem::take(&mut self.batch);
            let taken = self.next_batch(&mut batch).await?;
            self.waiting.extend(batch.drain(..));
            // For its memory.
            self.batch = batch;
            if taken == Batch::Gap {
                return Ok(Notice::Gap);
            }
        }
    }

    /// Like [`Self::next`] for all events that are at hand, some hundred at most, put at the end of `events`: for a
    /// consumer that must keep up with a storm of them. Safe to cancel.
    pub async fn next_batch(&mut self, events: &mut Vec<Event>) -> Result<Batch> {
        if !self.waiting.is_empty() {
            events.extend(self.waiting.drain(..));
            return Ok(Batch::Events);
        }
        self.fill(&mut |message, space| Event::decode(message, Instant::now(), events, space))
            .await
    }

    /// Like [`Self::next_batch`] for what following jobs takes of the events, at half of the cost. Not to be mixed with
    /// [`Self::next`], which holds some back. Safe to cancel.
    pub async fn next_news(&mut self, tell: &mut (dyn FnMut(News<'_>) + Send)) -> Result<Batch> {
        self.fill(&mut |message, space| News::decode(message, space, tell))
            .await
    }

    /// Has one message or more read by `decode`, or says that some are missing.
    async fn fill(&mut self, decode: &mut Decode<'_>) -> Result<Batch> {
        loop {
            // A storm of events must not keep the other tasks of this thread from their turn.
            tokio::task::coop::consume_budget().await;
            if self.decode(decode) {
                return Ok(Batch::Events);
            }
            let Some(drain) = &self.drain else {
                self.reconnect().await?;
                return Ok(Batch::Gap);
            };
            match drain.inbox().next().await {
                Ok(chunk) => {
                    let is_read = self.read == self.bytes.len();
                    let done = if is_read {
                        std::mem::replace(&mut self.bytes, chunk)
                    } else {
                        self.bytes.drain(..self.read);
                        self.bytes.extend_from_slice(&chunk);
                        chunk
                    };
                    self.read = 0;
                    drain.inbox().reuse(done);
                }
                Err(end) => self.lose(end),
            }
        }
    }

    /// Decodes some of the bytes; whether there was a message.
    fn decode(&mut self, decode: &mut Decode<'_>) -> bool {
        let mut messages = 0;
        while messages < MESSAGES {
            let (length, payload) = match push::frame(&self.bytes[self.read..]) {
                Ok(Some(frame)) => (frame.length, frame.payload),
                Ok(None) => break,
                Err(Broken) => {
                    self.lose(End::Lost);
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
                // One huge message is no reason to keep as much for ever.
                self.body.clear();
                self.body.shrink_to(BODY_KEPT);
            }
            self.read += length;
        }
        messages > 0
    }

    fn lose(&mut self, end: End) {
        let endpoint = self.connector.endpoint();
        match end {
            End::Lost => tracing::warn!(%endpoint, "lost the subscription for events"),
            End::Full => {
                self.overflows += 1;
                let limit = self.memory_limit;
                tracing::warn!(%endpoint, limit, "gave up the subscription for events: too far behind");
            }
        }
        self.drain = None;
        self.bytes.clear();
        self.read = 0;
    }

    async fn reconnect(&mut self) -> Result<()> {
        loop {
            if self.attempts > 0 {
                sleep(pause_before(self.attempts)).await;
            }
            self.attempts = self.attempts.saturating_add(1);
            match Drain::open(&self.connector, &self.pattern, self.memory_limit).await {
                Ok(drain) => {
                    self.drain = Some(drain);
                    self.attempts = 0;
                    return Ok(());
                }
                Err(error) if Error::is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
