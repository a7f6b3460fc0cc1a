//! Views as separate threads: a blocked terminal or pipe blocks only the view.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::plain::{PlainView, TimestampFormat};
use crate::{json, screen, summary, terminal};
use orch_journal::{EventKind, Feed, FeedUpdate, NoticeLevel, RunState};

/// Time in which events are collected, so that lines that follow each other closely are written together.
const GATHER_INTERVAL: Duration = Duration::from_millis(20);

/// Format of the standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewFormat {
    /// Text for people.
    Human,
    /// JSON, one object per line.
    Json,
}

/// Options of a view.
#[derive(Clone, Copy, Debug)]
pub struct ViewOptions {
    pub format: ViewFormat,
    /// Standard output is a terminal to which nothing else writes.
    pub terminal: bool,
    pub color: bool,
    /// Prints only failures and the outcome.
    pub quiet: bool,
    /// Prints each step of a service and a site, too.
    pub verbose: bool,
}

impl ViewOptions {
    /// Creates the printer of plain lines; lines for a file or a mail have dates, since they are read on another day.
    fn plain(&self) -> PlainView {
        let stamps = if self.terminal {
            TimestampFormat::Time
        } else {
            TimestampFormat::DateAndTime
        };
        PlainView::new(TimeZone::system(), stamps, self.verbose)
    }

    /// Decides whether to draw a live view instead of printing lines.
    fn is_live(&self) -> bool {
        let can_draw = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        self.terminal && can_draw && self.format == ViewFormat::Human && !self.quiet
    }
}

/// Running view.
pub struct ViewHandle {
    done: Receiver<()>,
}

impl ViewHandle {
    /// Waits until everything is printed, but at most `timeout`, since the output may be blocked.
    pub fn finish(self, timeout: Duration) {
        self.done.recv_timeout(timeout).ok();
    }
}

impl Drop for ViewHandle {
    /// Restores the terminal if the view has not ended (after an error or a panic).
    fn drop(&mut self) {
        screen::release();
    }
}

/// Starts the view; it ends with the run's last event, or when its output is closed.
///
/// # Errors
/// The thread cannot be created.
pub fn start(options: ViewOptions, events: Feed) -> io::Result<ViewHandle> {
    let (sender, done) = channel();
    let show = move || {
        let plain = options.plain();
        // A closed pipe (`orch run | head -1`) ends the view, not the run.
        match options.format {
            ViewFormat::Json => show_json(events).ok(),
            ViewFormat::Human if options.is_live() => terminal::show(events, plain, options.color).ok(),
            ViewFormat::Human => show_plain(events, plain, &options).ok(),
        };
        sender.send(()).ok();
    };
    std::thread::Builder::new().name("view".to_owned()).spawn(show)?;
    Ok(ViewHandle { done })
}

/// Prints a run that is over, in this thread; for a run that had no view.
pub fn show_afterwards(options: ViewOptions, events: Feed) {
    let plain = options.plain();
    // An output that fails here cannot be reported anywhere.
    match options.format {
        ViewFormat::Json => show_json(events).ok(),
        ViewFormat::Human => show_plain(events, plain, &options).ok(),
    };
}

fn show_json(events: Feed) -> io::Result<()> {
    for update in events {
        // The sequence numbers show a reader which events are missing.
        let FeedUpdate::Event(event) = update else { continue };
        let mut output = io::stdout().lock();
        writeln!(output, "{}", json::line(&event))?;
        output.flush()?;
        if matches!(event.kind, EventKind::RunFinished { .. }) {
            break;
        }
    }
    Ok(())
}

/// Decides whether a quiet view prints this event at once, because an `orch up` may not end for weeks.
fn needs_a_person(kind: &EventKind) -> bool {
    kind.level() == Some(NoticeLevel::Error)
}

fn show_plain(mut events: Feed, mut view: PlainView, options: &ViewOptions) -> io::Result<()> {
    let mut state = RunState::default();
    // Buffered output is flushed as soon as no further event is available.
    let mut output = BufWriter::new(io::stdout());
    loop {
        let update = match events.try_recv() {
            Some(update) => update,
            None => {
                output.flush()?;
                events.gather(GATHER_INTERVAL);
                match events.recv() {
                    Some(update) => update,
                    None => return Ok(()),
                }
            }
        };
        let event = match update {
            FeedUpdate::Event(event) => event,
            FeedUpdate::Missed {
                events,
                state: snapshot,
            } => {
                state = *snapshot;
                if !options.quiet {
                    writeln!(output, "{}", view.missed(events, &state).whole(false))?;
                }
                continue;
            }
        };
        state.apply(&event);
        if !options.quiet || needs_a_person(&event.kind) {
            for line in view.lines(&event, &state) {
                writeln!(output, "{}", line.whole(false))?;
            }
        }
        if matches!(event.kind, EventKind::RunFinished { .. }) {
            for line in summary::lines(&state, options.quiet) {
                writeln!(output, "{}", line.whole(options.color))?;
            }
            return output.flush();
        }
    }
}
