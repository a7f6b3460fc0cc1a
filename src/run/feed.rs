//! What views read: the run's events in order, from a memory that is bounded however long the run and however slow a view.
//!
//! The newest events are kept; what the older ones add up to is kept as a snapshot. A view that has fallen behind the
//! oldest kept event is given that snapshot, and goes on from there. Not here: where events come from (`recorder`).

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::event::{Event, EventKind};
use super::state::RunState;

/// Bytes of events that are kept, with their lines in the journal as the measure of their texts: some ten thousand events,
/// and a small part of what the worker takes.
const KEPT: usize = 8 << 20;

/// What a view is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The next event.
    Event(Arc<Event>),
    /// So many events are kept no more (the journal has them); `state` is what all up to the last of them add up to.
    Missed { events: u64, state: Box<RunState> },
}

/// The newest events, for all views.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    kept: Mutex<Kept>,
    changed: Condvar,
    /// The run's last event is there, or none will come.
    over: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    /// With what each counts for.
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    /// What those before them add up to.
    base: RunState,
    /// The run's last event is there.
    over: bool,
    /// No further event comes.
    ended: bool,
}

impl Backlog {
    /// A panic elsewhere leaves whole events.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next event, whose line is this long.
    pub fn push(&self, event: Arc<Event>, length: usize) {
        let length = length + size_of::<Event>();
        let is_last = matches!(event.kind, EventKind::RunFinished { .. });
        let mut kept = self.kept();
        kept.over |= is_last;
        kept.bytes += length;
        kept.events.push_back((event, length));
        // The newest stays, however long it is: a view must see the end.
        while kept.bytes > KEPT
            && kept.events.len() > 1
            && let Some((oldest, length)) = kept.events.pop_front()
        {
            kept.bytes -= length;
            kept.base.apply(&oldest);
        }
        drop(kept);
        self.changed.notify_all();
        if is_last {
            self.over.notify_all();
        }
    }

    /// No further event comes.
    pub fn end(&self) {
        let mut kept = self.kept();
        (kept.ended, kept.over) = (true, true);
        drop(kept);
        self.changed.notify_all();
        self.over.notify_all();
    }
}

/// A view's place in the events of a run.
#[derive(Debug)]
pub struct Feed {
    backlog: Arc<Backlog>,
    /// Events that it was given or has missed.
    seen: u64,
}

impl Feed {
    /// One that begins with the run.
    pub(super) fn new(backlog: Arc<Backlog>) -> Self {
        Self { backlog, seen: 0 }
    }

    /// The next update, waited for; `None` when the run's last handle is gone.
    pub fn recv(&mut self) -> Option<Update> {
        self.wait(None).ok()
    }

    /// The next update, waited for so long.
    ///
    /// # Errors
    /// There was none in time, or there will be none.
    pub fn recv_timeout(&mut self, patience: Duration) -> Result<Update, RecvTimeoutError> {
        self.wait(Some(patience))
    }

    /// The next update, if there is one now.
    pub fn try_recv(&mut self) -> Option<Update> {
        self.wait(Some(Duration::ZERO)).ok()
    }

    /// Lets events gather for so long, or until the run is over: a view that shows several at once is not woken by each.
    pub fn gather(&self, patience: Duration) {
        let kept = self.backlog.kept();
        let waited = self.backlog.over.wait_timeout_while(kept, patience, |kept| !kept.over);
        drop(waited);
    }

    fn wait(&mut self, patience: Option<Duration>) -> Result<Update, RecvTimeoutError> {
        let started = Instant::now();
        let backlog = Arc::clone(&self.backlog);
        let mut kept = backlog.kept();
        loop {
            if let Some(update) = self.next_of(&kept) {
                return Ok(update);
            }
            if kept.ended {
                return Err(RecvTimeoutError::Disconnected);
            }
            kept = match patience {
                None => backlog.changed.wait(kept).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let left = patience.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return Err(RecvTimeoutError::Timeout);
                    }
                    let woken = backlog.changed.wait_timeout(kept, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn next_of(&mut self, kept: &Kept) -> Option<Update> {
        // Sequence numbers are without gaps: those that are kept follow those of the snapshot.
        let gone = kept.base.seq;
        if let Some(events) = gone.checked_sub(self.seen).filter(|events| *events > 0) {
            self.seen = gone;
            let state = Box::new(kept.base.clone());
            return Some(Update::Missed { events, state });
        }
        let place = usize::try_from(self.seen - gone).ok()?;
        let (event, _) = kept.events.get(place)?;
        self.seen += 1;
        Some(Update::Event(Arc::clone(event)))
    }
}

impl Iterator for Feed {
    type Item = Update;

    fn next(&mut self) -> Option<Update> {
        self.recv()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Level;

    fn event(seq: u64) -> Arc<Event> {
        let (level, message) = (Level::Warning, seq.to_string());
        let kind = EventKind::Noticed { level, message };
        let elapsed = 0.0;
        Arc::new(Event {
            seq,
            at: 0.0,
            elapsed,
            kind,
        })
    }

    #[test]
    fn a_view_that_is_behind_is_given_a_snapshot_and_all_that_follows() {
        let backlog = Arc::new(Backlog::default());
        let (mut quick, mut slow) = (Feed::new(backlog.clone()), Feed::new(backlog.clone()));
        let (mut folded, mut all) = (RunState::default(), RunState::default());
        for seq in 1..=100 {
            backlog.push(event(seq), KEPT / 10 - size_of::<Event>());
            all.apply(&event(seq));
            assert_eq!(quick.try_recv(), Some(Update::Event(event(seq))));
        }
        assert_eq!(quick.try_recv(), None);
        let Some(Update::Missed { events: 90, state }) = slow.try_recv() else {
            panic!("ten are kept");
        };
        folded.clone_from(&state);
        for seq in 91..=100 {
            assert_eq!(slow.try_recv(), Some(Update::Event(event(seq))));
            folded.apply(&event(seq));
        }
        assert_eq!(folded, all);
        // One that is longer than all that is kept.
        backlog.push(event(101), KEPT * 2);
        backlog.end();
        assert_eq!(quick.recv(), Some(Update::Event(event(101))));
        assert_eq!((quick.recv(), quick.recv()), (None, None));
        let late: Vec<Update> = Feed::new(backlog).collect();
        assert!(
            matches!(&late[..], [Update::Missed { events: 100, .. }, Update::Event(_)]),
            "{late:?}"
        );
    }

    #[test]
    fn a_view_waits_for_the_next_event_and_for_the_end() {
        let backlog = Arc::new(Backlog::default());
        let mut feed = Feed::new(backlog.clone());
        assert_eq!(
            feed.recv_timeout(Duration::from_millis(1)),
            Err(RecvTimeoutError::Timeout)
        );
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || (feed.recv(), feed.recv()));
            backlog.push(event(1), 1);
            backlog.end();
            assert_eq!(waiting.join().unwrap(), (Some(Update::Event(event(1))), None));
        });
    }
}
