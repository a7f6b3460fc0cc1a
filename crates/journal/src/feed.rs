//! Feeds for views: the run's events in order, with bounded memory for any length of the run and any delay of a view.
//!
//! The newest events are kept, and the older ones are folded into a snapshot. A view that has fallen behind the oldest
//! kept event receives that snapshot and continues from there. Events come from the [recorder](crate::recorder).

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, EventKind};
use crate::state::model::RunState;

/// Size in bytes of the events that are kept, measured by their lines in the journal: some ten thousand events, and a
/// small share of a worker's memory.
const MAX_KEPT_BYTES: usize = 8 << 20;

/// Item that a view receives.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedUpdate {
    /// The next event.
    Event(Arc<Event>),
    /// `events` events were dropped (the journal has them); `state` is the snapshot after the last of them.
    Missed { events: u64, state: Box<RunState> },
}

/// Newest events, shared by all views.
#[derive(Debug, Default)]
pub(crate) struct EventBacklog {
    kept: Mutex<KeptEvents>,
    changed: Condvar,
    /// Notified when the run's last event is present, or none will come.
    over: Condvar,
}

#[derive(Debug, Default)]
struct KeptEvents {
    /// Events with their sizes.
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    /// Snapshot after the events before them.
    base: RunState,
    /// The run's last event is present.
    over: bool,
    /// No further event will come.
    ended: bool,
}

impl EventBacklog {
    /// Locks the state. A panic elsewhere leaves only complete events.
    fn kept(&self) -> MutexGuard<'_, KeptEvents> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the next event; `length` is the length of the line.
    pub fn push(&self, event: Arc<Event>, length: usize) {
        let length = length + size_of::<Event>();
        let is_last = matches!(event.kind, EventKind::RunFinished { .. });
        let mut kept = self.kept();
        kept.over |= is_last;
        kept.bytes += length;
        kept.events.push_back((event, length));
        // The newest event stays regardless of the size, because a view must see the end.
        while kept.bytes > MAX_KEPT_BYTES
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

    /// Marks the end of the events.
    pub fn end(&self) {
        let mut kept = self.kept();
        (kept.ended, kept.over) = (true, true);
        drop(kept);
        self.changed.notify_all();
        self.over.notify_all();
    }
}

/// Position of a view in the events of a run.
#[derive(Debug)]
pub struct Feed {
    backlog: Arc<EventBacklog>,
    /// Number of events that the view has received or missed.
    seen: u64,
}

impl Feed {
    /// Creates a feed that begins with the first event of the run.
    pub(crate) fn new(backlog: Arc<EventBacklog>) -> Self {
        Self { backlog, seen: 0 }
    }

    /// Waits for the next update; returns `None` when the run's last handle is gone.
    pub fn recv(&mut self) -> Option<FeedUpdate> {
        self.wait(None).ok()
    }

    /// Waits for the next update for at most `patience`.
    ///
    /// # Errors
    /// There was no update in time, or there will be none.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<FeedUpdate, RecvTimeoutError> {
        self.wait(Some(timeout))
    }

    /// Returns the next update if there is one now.
    pub fn try_recv(&mut self) -> Option<FeedUpdate> {
        self.wait(Some(Duration::ZERO)).ok()
    }

    /// Waits for at most `patience`, or until the run is over, so that a view that shows several events at once is not
    /// woken by each.
    pub fn gather(&self, timeout: Duration) {
        let kept = self.backlog.kept();
        let waited = self.backlog.over.wait_timeout_while(kept, timeout, |kept| !kept.over);
        drop(waited);
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Result<FeedUpdate, RecvTimeoutError> {
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
            kept = match timeout {
                None => backlog.changed.wait(kept).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return Err(RecvTimeoutError::Timeout);
                    }
                    let woken = backlog.changed.wait_timeout(kept, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn next_of(&mut self, kept: &KeptEvents) -> Option<FeedUpdate> {
        // Sequence numbers have no gaps: the kept events follow those of the snapshot.
        let gone = kept.base.seq;
        if let Some(events) = gone.checked_sub(self.seen).filter(|events| *events > 0) {
            self.seen = gone;
            let state = Box::new(kept.base.clone());
            return Some(FeedUpdate::Missed { events, state });
        }
        let place = usize::try_from(self.seen - gone).ok()?;
        let (event, _) = kept.events.get(place)?;
        self.seen += 1;
        Some(FeedUpdate::Event(Arc::clone(event)))
    }
}

impl Iterator for Feed {
    type Item = FeedUpdate;

    fn next(&mut self) -> Option<FeedUpdate> {
        self.recv()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_values::NoticeLevel;

    fn event(seq: u64) -> Arc<Event> {
        let (level, message) = (NoticeLevel::Warning, seq.to_string());
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
    fn a_slow_view_receives_a_snapshot_and_all_later_events() {
        let backlog = Arc::new(EventBacklog::default());
        let (mut quick, mut slow) = (Feed::new(backlog.clone()), Feed::new(backlog.clone()));
        let (mut folded, mut all) = (RunState::default(), RunState::default());
        for seq in 1..=100 {
            backlog.push(event(seq), MAX_KEPT_BYTES / 10 - size_of::<Event>());
            all.apply(&event(seq));
            assert_eq!(quick.try_recv(), Some(FeedUpdate::Event(event(seq))));
        }
        assert_eq!(quick.try_recv(), None);
        let Some(FeedUpdate::Missed { events: 90, state }) = slow.try_recv() else {
            panic!("ten are kept");
        };
        folded.clone_from(&state);
        for seq in 91..=100 {
            assert_eq!(slow.try_recv(), Some(FeedUpdate::Event(event(seq))));
            folded.apply(&event(seq));
        }
        assert_eq!(folded, all);
        // An event that is larger than the limit.
        backlog.push(event(101), MAX_KEPT_BYTES * 2);
        backlog.end();
        assert_eq!(quick.recv(), Some(FeedUpdate::Event(event(101))));
        assert_eq!((quick.recv(), quick.recv()), (None, None));
        let late: Vec<FeedUpdate> = Feed::new(backlog).collect();
        assert!(
            matches!(
                &late[..],
                [FeedUpdate::Missed { events: 100, .. }, FeedUpdate::Event(_)]
            ),
            "{late:?}"
        );
    }

    #[test]
    fn a_view_waits_for_the_next_event_and_for_the_end() {
        let backlog = Arc::new(EventBacklog::default());
        let mut feed = Feed::new(backlog.clone());
        assert_eq!(
            feed.recv_timeout(Duration::from_millis(1)),
            Err(RecvTimeoutError::Timeout)
        );
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || (feed.recv(), feed.recv()));
            backlog.push(event(1), 1);
            backlog.end();
            assert_eq!(waiting.join().unwrap(), (Some(FeedUpdate::Event(event(1))), None));
        });
    }
}
