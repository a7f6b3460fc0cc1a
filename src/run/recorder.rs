//! The one place where facts enter a run: stamped, journalled, folded and handed to the views, in one order.
//!
//! An event's journal line is written before `emit` returns. Callable from any thread, also while one panics.
//! A journal that cannot be written is told once, as an event, before the one that it lacks: the run's last event ends the
//! views. The run goes on, and they see all of it.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::event::{Event, EventKind, Level};
use super::feed::{Backlog, Feed};
use super::journal::{self, JournalWriter};
use super::state::RunState;
use crate::printable::shortened;
use crate::redaction::redacted;

/// Characters of a text in an event: an exception's text comes from outside and may be a file. A failure with the end of a
/// log has a quarter of it.
const LONGEST_TEXT: usize = 16 << 10;

/// A handle to the run's facts; clones are the same run.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

/// What all handles of a run share.
struct Shared {
    inner: Mutex<Inner>,
    backlog: Arc<Backlog>,
}

impl Drop for Shared {
    /// The last handle is gone.
    fn drop(&mut self) {
        self.backlog.end();
    }
}

struct Inner {
    journal: JournalWriter,
    /// Told: not again.
    journal_failed: bool,
    started: Instant,
    seq: u64,
    state: RunState,
}

impl Recorder {
    /// Begins a run's journal.
    ///
    /// # Errors
    /// The journal cannot be made.
    pub fn create(journal: &Path) -> io::Result<Self> {
        Ok(Self::with(JournalWriter::create(journal)?))
    }

    fn with(journal: JournalWriter) -> Self {
        let inner = Inner {
            journal,
            journal_failed: false,
            started: Instant::now(),
            seq: 0,
            state: RunState::default(),
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            backlog: Arc::default(),
        }))
    }

    /// A panic elsewhere leaves the facts as they are: whole events.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that something happened, now.
    pub fn emit(&self, kind: EventKind) {
        let backlog = &self.0.backlog;
        let mut inner = self.inner();
        let mut happened = inner.stamp(kind);
        if let Err(error) = inner.append(&happened)
            && !std::mem::replace(&mut inner.journal_failed, true)
        {
            let message = format!("the journal cannot be written, events may be missing from it: {error}");
            let level = Level::Error;
            let notice = inner.stamp(EventKind::Noticed { level, message });
            // These lines may fail as well: the views have them.
            inner.append(&notice).ok();
            inner.hand_on(notice, backlog);
            happened = inner.stamp(happened.event.kind);
            inner.append(&happened).ok();
        }
        inner.hand_on(happened, backlog);
    }

    /// The run as it will be once this has happened: for what must be there before that is told.
    pub fn state_after(&self, kind: EventKind) -> RunState {
        let inner = self.inner();
        let mut state = inner.state.clone();
        state.apply(&inner.stamp(kind).event);
        state
    }

    /// All events so far, as far as they are kept, and those to come.
    pub fn subscribe(&self) -> Feed {
        Feed::new(Arc::clone(&self.0.backlog))
    }

    /// Looks at the run as it is.
    pub fn with_state<T>(&self, look: impl FnOnce(&RunState) -> T) -> T {
        look(&self.inner().state)
    }
}

/// An event and its line in the journal.
struct Stamped {
    event: Event,
    line: io::Result<String>,
}

impl Inner {
    /// What happened as the next event, its texts cut where they are too long.
    fn stamp(&self, kind: EventKind) -> Stamped {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let mut event = Event {
            seq: self.seq + 1,
            at,
            elapsed: self.started.elapsed().as_secs_f64(),
            kind,
        };
        let mut line = journal::line(&event);
        // Only a long line can hold a long text.
        let is_fit = |line: &String| line.len() <= LONGEST_TEXT && matches!(redacted(line), Cow::Borrowed(_));
        if !line.as_ref().is_ok_and(is_fit) {
            event.kind = with_fit_texts(event.kind);
            line = journal::line(&event);
        }
        Stamped { event, line }
    }

    fn append(&mut self, happened: &Stamped) -> io::Result<()> {
        match &happened.line {
            Ok(line) => self.journal.append_line(line),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    /// Folds an event and gives it to the views.
    fn hand_on(&mut self, Stamped { event, line }: Stamped, backlog: &Backlog) {
        self.seq = event.seq;
        self.state.apply(&event);
        backlog.push(Arc::new(event), line.map_or(0, |line| line.len()));
    }
}

/// The same with every text in it cut where it is too long, and without secrets.
fn with_fit_texts(kind: EventKind) -> EventKind {
    fn fit(value: &mut Value) {
        match value {
            Value::String(text) => *text = shortened(&redacted(text), LONGEST_TEXT),
            Value::Array(items) => items.iter_mut().for_each(fit),
            Value::Object(fields) => fields.values_mut().for_each(fit),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let fit_kind = serde_json::to_value(&kind).and_then(|mut value| {
        fit(&mut value);
        serde_json::from_value(value)
    });
    // An event is plain data, and another text is one.
    fit_kind.unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{ServiceName, Update, read_journal};

    fn spawned(pid: i32) -> EventKind {
        let service = ServiceName::new("redis");
        EventKind::ServiceSpawned { service, pid }
    }

    fn events(feed: Feed) -> Vec<Event> {
        let event = |update| match update {
            Update::Event(event) => Event::clone(&event),
            Update::Missed { .. } => panic!("nothing is missed so soon"),
        };
        feed.map(event).collect()
    }

    fn recorder() -> (tempfile::TempDir, std::path::PathBuf, Recorder) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let recorder = Recorder::create(&path).expect("a journal");
        (directory, path, recorder)
    }

    #[test]
    fn threads_views_and_journal_agree_on_one_order() {
        let (_directory, path, recorder) = recorder();
        recorder.emit(spawned(0));
        let early = recorder.subscribe();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let recorder = recorder.clone();
                scope.spawn(move || (0..50).for_each(|number| recorder.emit(spawned(thread * 100 + number))));
            }
        });
        let late = recorder.subscribe();
        let state = recorder.with_state(RunState::clone);
        // The views' receivers end with the last handle.
        drop(recorder);
        let journalled = read_journal(&path).expect("readable").events;
        assert_eq!(journalled.len(), 201);
        assert!(journalled.iter().zip(1..).all(|(event, seq)| event.seq == seq));
        assert!(journalled.is_sorted_by(|one, next| one.elapsed <= next.elapsed));
        for view in [early, late] {
            assert_eq!(events(view), journalled);
        }
        let mut replayed = RunState::default();
        journalled.iter().for_each(|event| replayed.apply(event));
        assert_eq!(state, replayed);
    }

    #[test]
    fn the_line_is_in_the_file_when_emit_returns() {
        let (_directory, path, recorder) = recorder();
        for pid in 1..=3 {
            recorder.emit(spawned(pid));
            let last = read_journal(&path).expect("readable").events.pop();
            assert_eq!(last.map(|event| event.kind), Some(spawned(pid)));
        }
    }

    #[test]
    fn a_panic_in_one_place_stops_no_other() {
        let (_directory, path, recorder) = recorder();
        let inside = recorder.clone();
        let panicked = std::thread::spawn(move || inside.with_state(|_| panic!("on purpose"))).join();
        assert!(panicked.is_err());
        recorder.emit(spawned(1));
        assert_eq!(read_journal(&path).expect("readable").events.len(), 1);
    }

    #[test]
    fn a_full_disk_is_told_once_and_stops_nothing() {
        let full = std::fs::OpenOptions::new().append(true).open("/dev/full");
        let recorder = Recorder::with(JournalWriter::to(full.expect("the device")));
        let view = recorder.subscribe();
        (1..=3).for_each(|pid| recorder.emit(spawned(pid)));
        drop(recorder);
        let kinds: Vec<EventKind> = events(view).into_iter().map(|event| event.kind).collect();
        let [EventKind::Noticed { level, message }, first, second, third] = kinds.as_slice() else {
            panic!("{kinds:?}");
        };
        assert_eq!([first, second, third], [&spawned(1), &spawned(2), &spawned(3)]);
        assert_eq!(*level, Level::Error);
        assert!(message.contains("No space left"), "{message}");
    }

    #[test]
    fn a_text_of_any_length_is_recorded_shortened() {
        let (_directory, path, recorder) = recorder();
        let notice = |message: String| EventKind::Noticed {
            level: Level::Error,
            message,
        };
        let view = recorder.subscribe();
        recorder.emit(notice("ü".repeat(LONGEST_TEXT)));
        recorder.emit(notice("ü".repeat(4 << 20)));
        drop(recorder);
        let seen = events(view);
        assert_eq!(seen, read_journal(&path).expect("readable").events);
        assert_eq!(seen[0].kind, notice("ü".repeat(LONGEST_TEXT)));
        assert_eq!(seen[1].kind, notice("ü".repeat(LONGEST_TEXT - 1) + "…"));
    }

    #[test]
    fn a_secret_that_an_app_tells_is_not_recorded() {
        let (_directory, path, recorder) = recorder();
        let notice = |message: &str| EventKind::Noticed {
            level: Level::Error,
            message: message.to_owned(),
        };
        crate::redaction::hide("e8a1-\"quoted\"-77c3");
        recorder.emit(notice("connect to redis://:pw@host:1/0\nwith e8a1-\"quoted\"-77c3"));
        let events = read_journal(&path).expect("readable").events;
        assert_eq!(events[0].kind, notice("connect to redis://:**@host:1/0\nwith **"));
    }
}
