//! The one place where facts enter a run: stamped, journalled, folded and handed to the views, in one order.
//!
//! An event's journal line is written before `emit` returns. Callable from any thread, also while one panics.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::event::{Event, EventKind};
use super::journal::JournalWriter;
use super::state::RunState;

/// A handle to the run's facts; clones are the same run.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Inner>>);

struct Inner {
    journal: JournalWriter,
    journal_error: Option<String>,
    started: Instant,
    seq: u64,
    state: RunState,
    /// Kept for views that come later.
    events: Vec<Arc<Event>>,
    /// Unbounded, and bounded all the same: by the run's events, which are kept in `events` in any case.
    subscribers: Vec<Sender<Arc<Event>>>,
}

impl Recorder {
    /// Begins a run's journal.
    ///
    /// # Errors
    /// The journal cannot be made.
    pub fn create(journal: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Inner {
            journal: JournalWriter::create(journal)?,
            journal_error: None,
            started: Instant::now(),
            seq: 0,
            state: RunState::default(),
            events: Vec::new(),
            subscribers: Vec::new(),
        }))))
    }

    /// A panic elsewhere leaves the facts as they are: whole events.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that something happened, now.
    pub fn emit(&self, kind: EventKind) {
        let mut inner = self.inner();
        inner.seq += 1;
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let elapsed = inner.started.elapsed().as_secs_f64();
        let event = Arc::new(Event {
            seq: inner.seq,
            at,
            elapsed,
            kind,
        });
        if let Err(error) = inner.journal.append(&event)
            && inner.journal_error.is_none()
        {
            inner.journal_error = Some(error.to_string());
        }
        inner.state.apply(&event);
        inner.events.push(Arc::clone(&event));
        inner
            .subscribers
            .retain(|subscriber| subscriber.send(Arc::clone(&event)).is_ok());
    }

    /// All events so far and those to come.
    pub fn subscribe(&self) -> Receiver<Arc<Event>> {
        let (sender, receiver) = channel();
        let mut inner = self.inner();
        for event in &inner.events {
            sender.send(Arc::clone(event)).ok();
        }
        inner.subscribers.push(sender);
        receiver
    }

    /// Looks at the run as it is.
    pub fn with_state<T>(&self, look: impl FnOnce(&RunState) -> T) -> T {
        look(&self.inner().state)
    }

    /// The first failure to write the journal.
    pub fn journal_error(&self) -> Option<String> {
        self.inner().journal_error.clone()
    }
}
