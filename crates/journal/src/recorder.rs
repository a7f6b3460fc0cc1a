//! The recorder: the only place where facts enter a run: stamped, journalled, folded and passed to the
//! views, in one order.
//!
//! An event's journal line is written before `emit` returns. Any thread may call `emit`, even while one panics. A
//! failure to write the journal is reported once, with an event before the event that could not be written, because the
//! run's last event ends the views. The run continues, and the views receive all events.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::event::{Event, EventKind};
use crate::event_values::RunCommand;
use crate::facts::run_file::{RunFile, RunFileFailure};
use crate::facts::state_snapshot::StateSnapshot;
use crate::feed::{EventBacklog, Feed};
use crate::journal_file;
use crate::journal_file::JournalWriter;
use crate::journal_segment::SEGMENT_SIZE;
use crate::state::model::RunState;
use orch_base::text::printable::shortened;
use orch_base::text::redaction::redacted;
use orch_base::wall_clock::unix_now;

/// Length of a text in an event at most, in characters: an exception's text comes from outside and may be as long as a
/// file. A failure with the last lines of a log needs a quarter of that.
const MAX_TEXT_LENGTH: usize = 16 << 10;

/// Handle to the run's facts; clones share the same run.
#[derive(Clone)]
pub struct Recorder(Arc<RecorderShared>);

/// State that all handles of a run share.
struct RecorderShared {
    inner: Mutex<RecorderState>,
    backlog: Arc<EventBacklog>,
}

impl Drop for RecorderShared {
    /// Ends the feeds when the last handle is gone.
    fn drop(&mut self) {
        self.backlog.end();
    }
}

struct RecorderState {
    journal: JournalWriter,
    /// Path of the journal.
    path: PathBuf,
    /// The failure was reported already.
    journal_failed: bool,
    started: Instant,
    seq: u64,
    state: RunState,
}

impl Recorder {
    /// Creates a run's journal.
    ///
    /// # Errors
    /// The journal cannot be created.
    pub fn create(journal: &Path) -> io::Result<Self> {
        Ok(Self::with(JournalWriter::create(journal)?, journal))
    }

    fn with(journal: JournalWriter, path: &Path) -> Self {
        let inner = RecorderState {
            journal,
            path: path.to_owned(),
            journal_failed: false,
            started: Instant::now(),
            seq: 0,
            state: RunState::default(),
        };
        Self(Arc::new(RecorderShared {
            inner: Mutex::new(inner),
            backlog: Arc::default(),
        }))
    }

    /// Locks the state. A panic elsewhere leaves only complete events.
    fn inner(&self) -> MutexGuard<'_, RecorderState> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event that happens now.
    pub fn emit(&self, kind: EventKind) {
        let backlog = &self.0.backlog;
        let mut inner = self.inner();
        let mut happened = inner.stamp(kind);
        if let Err(error) = inner.append(&happened)
            && !std::mem::replace(&mut inner.journal_failed, true)
        {
            let notice = inner.stamp(EventKind::RunFileFailed(RunFileFailure {
                file: RunFile::Journal,
                path: inner.path.clone(),
                reason: error.to_string(),
            }));
            // These lines may fail as well, but the views receive them.
            inner.append(&notice).ok();
            inner.publish(notice, backlog);
            happened = inner.stamp(happened.event.kind);
            inner.append(&happened).ok();
        }
        inner.publish(happened, backlog);
        inner.bound_journal();
    }

    /// Returns the state after `kind`, without recording the event (the summary must exist before `RunFinished` is
    /// announced).
    pub fn state_after(&self, kind: EventKind) -> RunState {
        let inner = self.inner();
        let mut state = inner.state.clone();
        state.apply(&inner.stamp(kind).event);
        state
    }

    /// Returns a feed of all kept and all future events.
    pub fn subscribe(&self) -> Feed {
        Feed::new(Arc::clone(&self.0.backlog))
    }

    /// Calls `look` with the current state.
    pub fn with_state<T>(&self, look: impl FnOnce(&RunState) -> T) -> T {
        look(&self.inner().state)
    }
}

/// An event and the line in the journal.
struct StampedEvent {
    event: Event,
    line: io::Result<String>,
}

impl RecorderState {
    /// Makes the next event; texts that are too long are cut.
    fn stamp(&self, kind: EventKind) -> StampedEvent {
        let at = unix_now().as_secs_f64();
        let mut event = Event {
            seq: self.seq + 1,
            at,
            elapsed: self.started.elapsed().as_secs_f64(),
            kind,
        };
        let mut line = journal_file::line(&event);
        // Only a long line can contain a long text.
        let is_fit = |line: &String| line.len() <= MAX_TEXT_LENGTH && matches!(redacted(line), Cow::Borrowed(_));
        if !line.as_ref().is_ok_and(is_fit) {
            event.kind = with_bounded_texts(event.kind);
            line = journal_file::line(&event);
        }
        StampedEvent { event, line }
    }

    fn append(&mut self, happened: &StampedEvent) -> io::Result<()> {
        match &happened.line {
            Ok(line) => self.journal.append_line(line),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    /// Begins a new segment of the journal of an `orch up` that has become too large. A night ends, and later runs read
    /// all of its events.
    fn bound_journal(&mut self) {
        let is_up = |state: &RunState| {
            state
                .header
                .as_ref()
                .is_some_and(|header| header.command == RunCommand::Up)
        };
        if self.journal.size() < SEGMENT_SIZE || !is_up(&self.state) || self.state.outcome.is_some() {
            return;
        }
        let snapshot = Event {
            seq: self.seq,
            at: self.state.updated_at,
            elapsed: self.state.elapsed,
            kind: EventKind::StateTaken(StateSnapshot {
                state: Box::new(self.state.clone()),
            }),
        };
        let begun = journal_file::line(&snapshot).and_then(|line| self.journal.begin_segment(&self.path, &line));
        if let Err(error) = begun {
            tracing::warn!(%error, path = %self.path.display(), "could not begin a new segment of the journal");
        }
    }

    /// Folds an event and passes the event to the views.
    fn publish(&mut self, StampedEvent { event, line }: StampedEvent, backlog: &EventBacklog) {
        self.seq = event.seq;
        self.state.apply(&event);
        backlog.push(Arc::new(event), line.map_or(0, |line| line.len()));
    }
}

/// Cuts long texts in an event and removes secrets.
fn with_bounded_texts(kind: EventKind) -> EventKind {
    fn fit(value: &mut Value) {
        match value {
            Value::String(text) => *text = shortened(&redacted(text), MAX_TEXT_LENGTH),
            Value::Array(items) => items.iter_mut().for_each(fit),
            Value::Object(fields) => fields.values_mut().for_each(fit),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let fit_kind = serde_json::to_value(&kind).and_then(|mut value| {
        fit(&mut value);
        serde_json::from_value(value)
    });
    // An event is plain data, and a changed text keeps the event valid, so this cannot fail.
    fit_kind.unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_values::NoticeLevel;
    use crate::feed::FeedUpdate;
    use crate::ids::ServiceName;
    use crate::journal_file::read_journal;

    fn spawned(pid: i32) -> EventKind {
        let service = ServiceName::new("redis");
        EventKind::ServiceSpawned { service, pid }
    }

    fn events(feed: Feed) -> Vec<Event> {
        let event = |update| match update {
            FeedUpdate::Event(event) => Event::clone(&event),
            FeedUpdate::Missed { .. } => panic!("no event is missed"),
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
        // The feeds of the views end with the last handle.
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
    fn a_full_disk_is_reported_once_and_stops_nothing() {
        let full = std::fs::OpenOptions::new().append(true).open("/dev/full");
        let writer = JournalWriter::to(full.expect("the device"));
        let recorder = Recorder::with(writer, Path::new("/dev/full"));
        let view = recorder.subscribe();
        (1..=3).for_each(|pid| recorder.emit(spawned(pid)));
        drop(recorder);
        let kinds: Vec<EventKind> = events(view).into_iter().map(|event| event.kind).collect();
        let [EventKind::RunFileFailed(failure), first, second, third] = kinds.as_slice() else {
            panic!("{kinds:?}");
        };
        assert_eq!([first, second, third], [&spawned(1), &spawned(2), &spawned(3)]);
        assert_eq!(failure.file, RunFile::Journal);
        assert!(failure.reason.contains("No space left"), "{failure:?}");
    }

    #[test]
    fn a_text_of_any_length_is_recorded_shortened() {
        let (_directory, path, recorder) = recorder();
        let notice = |message: String| EventKind::Noticed {
            level: NoticeLevel::Error,
            message,
        };
        let view = recorder.subscribe();
        recorder.emit(notice("ü".repeat(MAX_TEXT_LENGTH)));
        recorder.emit(notice("ü".repeat(4 << 20)));
        drop(recorder);
        let seen = events(view);
        assert_eq!(seen, read_journal(&path).expect("readable").events);
        assert_eq!(seen[0].kind, notice("ü".repeat(MAX_TEXT_LENGTH)));
        assert_eq!(seen[1].kind, notice("ü".repeat(MAX_TEXT_LENGTH - 1) + "…"));
    }

    #[test]
    fn a_secret_that_an_app_prints_is_not_recorded() {
        let (_directory, path, recorder) = recorder();
        let notice = |message: &str| EventKind::Noticed {
            level: NoticeLevel::Error,
            message: message.to_owned(),
        };
        orch_base::text::redaction::register_secret("e8a1-\"quoted\"-77c3");
        recorder.emit(notice("connect to redis://:pw@host:1/0\nwith e8a1-\"quoted\"-77c3"));
        let events = read_journal(&path).expect("readable").events;
        assert_eq!(events[0].kind, notice("connect to redis://:**@host:1/0\nwith **"));
    }
}
