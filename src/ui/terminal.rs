//! The live view: notable events as lines, and below them a frame that shows how things stand.
//!
//! Redrawn after events, at most every 100 ms, each second while something runs, and when the terminal has another
//! size. Not here: what the frame says
//! ([`super::frame`]) and how it gets onto the terminal ([`super::screen`]).

use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;

use super::paint::{Line, Painted};
use super::plain::PlainView;
use super::screen::Screen;
use super::{frame, screen, summary};
use crate::run::{Event, EventKind, Feed, RunState, Update};

/// Between two redraws.
const REDRAW_PAUSE: Duration = Duration::from_millis(100);
/// Between two redraws when nothing happens but the time.
const TICK: Duration = Duration::from_secs(1);

/// Shows the run until its last event.
///
/// # Errors
/// The terminal is gone.
pub fn show(mut events: Feed, plain: PlainView, color: bool) -> io::Result<()> {
    let live = Mutex::new(Live {
        state: RunState::default(),
        plain,
        color,
        folded: Instant::now(),
        lines: Vec::new(),
        screen: Screen::take(),
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

fn locked<'a>(live: &'a Mutex<Live>) -> MutexGuard<'a, Live> {
    // A half-folded event would be drawn, and replaced by the next.
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow_events(events: &mut Feed, live: &Mutex<Live>) -> io::Result<()> {
    let mut drawn = Instant::now();
    loop {
        let busy = frame::is_busy(&locked(live).state);
        let update = if busy {
            events.recv_timeout(TICK)
        } else {
            // Nothing moves: nothing is drawn.
            events.recv().ok_or(RecvTimeoutError::Disconnected)
        };
        match update {
            Ok(update) => locked(live).take(update),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        // What comes close together is drawn together.
        let due = drawn + REDRAW_PAUSE;
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

/// Redraws after a resize; gives the terminal back before Ctrl+Z and takes it again after `fg`.
fn follow_terminal(signals: &mut Signals, live: &Mutex<Live>) {
    for signal in signals.forever() {
        if signal == SIGTSTP {
            screen::release();
            // Returns when the process is continued.
            signal_hook::low_level::emulate_default_handler(SIGTSTP).ok();
            locked(live).screen.take_again();
        }
        let mut live = locked(live);
        // An error is the terminal's end, which the next event's draw meets as well.
        if !live.is_over() && live.draw().is_err() {
            return;
        }
    }
}

struct Live {
    state: RunState,
    plain: PlainView,
    color: bool,
    /// When the last event was folded in.
    folded: Instant,
    /// Not yet written.
    lines: Vec<Line>,
    screen: Screen,
}

impl Live {
    fn take(&mut self, update: Update) {
        match update {
            Update::Event(event) => self.fold(&event),
            Update::Missed { events, state } => {
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
        let (width, height) = Screen::size();
        let now = self.state.elapsed + self.folded.elapsed().as_secs_f64();
        // The last column stays free, lest the terminal wraps; a quarter of the rows is for the lines above.
        let (columns, rows) = (width.saturating_sub(1), height - (height / 4).clamp(1, height));
        let frame = frame::render(&self.state, now, (columns, rows), self.plain.is_verbose(), self.color);
        self.write(frame, (width, height))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.lines.extend(summary::lines(&self.state, false));
        self.write(Vec::new(), (0, 0))
    }

    fn write(&mut self, frame: Vec<Painted>, size: (usize, usize)) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        let lines: Vec<Painted> = lines.iter().map(|line| line.whole(self.color)).collect();
        self.screen.draw(&lines, frame, size)
    }
}
