//! The one place where facts enter a run: stamped, journalled, folded and handed to the views, in one order.
//!
//! An event's journal line is written before `emit` returns. Callable from any thread, also while one panics.
//! A journal that cannot be written is told once, as an event, before the one that it lacks: the run's last event ends the
//! views. The run goes on, and they see all of it.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::event::{Event, EventKind, Level};
use super::journal::JournalWriter;
use super::state::RunState;

/// A handle to the run's facts; clones are the same run.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Inner>>);

struct Inner {
    journal: JournalWriter,
    /// Told: not again.
    journal_failed: bool,
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
            journal_failed: false,
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
        let mut event = inner.stamp(kind);
        if let Err(error) = inner.journal.append(&event)
            && !std::mem::replace(&mut inner.journal_failed, true)
        {
            let message = format!("the journal cannot be written, events may be missing from it: {error}");
            let level = Level::Error;
            let notice = inner.stamp(EventKind::Noticed { level, message });
            // These lines may fail as well: the views have them.
            inner.journal.append(&notice).ok();
            inner.hand_on(notice);
            event = inner.stamp(event.kind);
            inner.journal.append(&event).ok();
        }
        inner.hand_on(event);
    }

    /// The run as it will be once this has happened: for what must be there before that is told.
    pub fn state_after(&self, kind: EventKind) -> RunState {
        let inner = self.inner();
        let mut state = inner.state.clone();
        state.apply(&inner.stamp(kind));
        state
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
}

impl Inner {
    /// What happened as the next event.
    fn stamp(&self, kind: EventKind) -> Event {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        Event {
            seq: self.seq + 1,
            at,
            elapsed: self.started.elapsed().as_secs_f64(),
            kind,
        }
    }

    /// Folds an event and gives it to the views.
    fn hand_on(&mut self, event: Event) {
        self.seq = event.seq;
        self.state.apply(&event);
        let event = Arc::new(event);
        self.events.push(Arc::clone(&event));
        self.subscribers
            .retain(|subscriber| subscriber.send(Arc::clone(&event)).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{ServiceName, read_journal};

    fn spawned(pid: i32) -> EventKind {
        let service = ServiceName::new("redis");
        EventKind::ServiceSpawned { service, pid }
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
            let seen: Vec<Event> = view.iter().map(|event| Event::clone(&event)).collect();
            assert_eq!(seen, journalled);
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
        let recorder = Recorder::create(Path::new("/dev/full")).expect("the device");
        let view = recorder.subscribe();
        (1..=3).for_each(|pid| recorder.emit(spawned(pid)));
        drop(recorder);
        let kinds: Vec<EventKind> = view.iter().map(|event| event.kind.clone()).collect();
        let [EventKind::Noticed { level, message }, first, second, third] = kinds.as_slice() else {
            panic!("{kinds:?}");
        };
        assert_eq!([first, second, third], [&spawned(1), &spawned(2), &spawned(3)]);
        assert_eq!(*level, Level::Error);
        assert!(message.contains("No space left"), "{message}");
    }
}
