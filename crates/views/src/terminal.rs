//! The live view: notable events as lines, and below them a frame with the current state.
//!
//! The frame is redrawn after events, at most every 100 ms, each second while something runs, and when the terminal is
//! resized. [`crate::frame`] renders the frame, [`crate::screen`] draws it.

use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::paint::{PaintedLine, StyledLine};
use crate::plain::PlainView;
use crate::screen::LiveScreen;
use crate::{footer, frame, screen, summary};
use orch_journal::{Event, EventKind, Feed, FeedUpdate, RunState};

/// Time between two redraws at least.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two redraws without an event.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the run until its last event.
///
/// # Errors
/// The terminal is gone.
pub fn show(mut events: Feed, plain: PlainView, color: bool) -> io::Result<()> {
    let live = Mutex::new(LiveView {
        state: RunState::default(),
        plain,
        color,
        folded: Instant::now(),
        lines: Vec::new(),
        screen: LiveScreen::take(),
    });
    let mut signals = Signals::new([SIGWINCH, SIGTSTP])?;
    let handle = signals.handle();
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn_scoped(scope, || follow_terminal(&mut signals, &live))?;
        let shown = follow_events(&mut events, &live);
        handle.close();
        shown
    })
}

fn locked(live: &Mutex<LiveView>) -> MutexGuard<'_, LiveView> {
    // A partly folded event would be drawn, and the next draw would replace it.
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow_events(events: &mut Feed, live: &Mutex<LiveView>) -> io::Result<()> {
    let mut drawn = Instant::now();
    loop {
        let busy = footer::is_busy(&locked(live).state);
        let update = if busy {
            events.recv_timeout(TICK_INTERVAL)
        } else {
            // Nothing is in progress, so nothing is drawn until the next event.
            events.recv().ok_or(RecvTimeoutError::Disconnected)
        };
        match update {
            Ok(update) => locked(live).take(update),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        // Draw events together that follow each other closely.
        let due = drawn + REDRAW_INTERVAL;
        while !locked(live).is_over()
            && let Ok(update) = events.recv_timeout(due.saturating_duration_since(Instant::now()))
        {
            locked(live).take(update);
        }
        let mut live = locked(live);
        if live.is_over() {
            return live.finish();
        }
        live.draw()?;
        drawn = Instant::now();
    }
}

/// Redraws after a resize; restores the terminal before Ctrl+Z and takes it again after `fg`.
fn follow_terminal(signals: &mut Signals, live: &Mutex<LiveView>) {
    for signal in signals.forever() {
        if signal == SIGTSTP {
            screen::release();
            // Returns when the process is continued.
            signal_hook::low_level::emulate_default_handler(SIGTSTP).ok();
            locked(live).screen.take_again();
        }
        let mut live = locked(live);
        // An error means that the terminal is gone; the draw after the next event fails as well.
        if !live.is_over() && live.draw().is_err() {
            return;
        }
    }
}

struct LiveView {
    state: RunState,
    plain: PlainView,
    color: bool,
    /// Time at which the last event was folded.
    folded: Instant,
    /// Lines that are not written yet.
    lines: Vec<StyledLine>,
    screen: LiveScreen,
}

impl LiveView {
    fn take(&mut self, update: FeedUpdate) {
        match update {
            FeedUpdate::Event(event) => self.fold(&event),
            FeedUpdate::Missed { events, state } => {
                self.state = *state;
                self.lines.push(self.plain.missed(events, &self.state));
            }
        }
    }

    fn fold(&mut self, event: &Event) {
        self.state.apply(event);
        self.folded = Instant::now();
        let is_in_frame = matches!(
            event.kind,
            EventKind::SiteProgressed { .. } | EventKind::ProxyRefreshProgressed { .. }
        );
        if !is_in_frame {
            self.lines.extend(self.plain.lines(event, &self.state));
        }
    }

    fn is_over(&self) -> bool {
        self.state.outcome.is_some()
    }

    fn draw(&mut self) -> io::Result<()> {
        let (width, height) = LiveScreen::size();
        let now = self.state.elapsed + self.folded.elapsed().as_secs_f64();
        // The last column stays free, so that the terminal does not wrap; a quarter of the rows is for the lines above.
        let (columns, rows) = (width.saturating_sub(1), height - (height / 4).clamp(1, height));
        let frame = frame::render(&self.state, now, (columns, rows), self.plain.is_verbose(), self.color);
        self.write(frame, (width, height))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.lines.extend(summary::lines(&self.state, false));
        self.write(Vec::new(), (0, 0))
    }

    fn write(&mut self, frame: Vec<PaintedLine>, size: (usize, usize)) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        let lines: Vec<PaintedLine> = lines.iter().map(|line| line.whole(self.color)).collect();
        self.screen.draw(&lines, frame, size)
    }
}
