//! A view as a thread of its own: a blocked terminal or pipe blocks the view and nothing else.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::plain::{PlainView, Stamps};
use super::{json, screen, summary, terminal};
use crate::run::{EventKind, Feed, Level, RunState, Update};

/// Between two looks at the events of a run: lines that come together are written together.
const GATHERING: Duration = Duration::from_millis(20);

/// What is printed on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How a run is shown.
#[derive(Clone, Copy, Debug)]
pub struct ViewOptions {
    pub format: Format,
    /// Standard output is a terminal that nothing else writes to.
    pub terminal: bool,
    pub color: bool,
    /// Failures and the outcome only.
    pub quiet: bool,
    /// Each step of a service and a site, too.
    pub verbose: bool,
}

impl ViewOptions {
    /// Lines that end up in a file or a mail are read on another day.
    fn plain(&self) -> PlainView {
        let stamps = if self.terminal {
            Stamps::Time
        } else {
            Stamps::DateAndTime
        };
        PlainView::new(TimeZone::system(), stamps, self.verbose)
    }

    /// Whether a terminal is drawn that stays current, instead of lines.
    fn is_live(&self) -> bool {
        let can_draw = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        self.terminal && can_draw && self.format == Format::Human && !self.quiet
    }
}

/// A running view.
pub struct ViewHandle {
    done: Receiver<()>,
}

impl ViewHandle {
    /// Waits until everything is printed, or for as long as a blocked output may hold up the end.
    pub fn finish(self, patience: Duration) {
        self.done.recv_timeout(patience).ok();
    }
}

impl Drop for ViewHandle {
    /// Whoever drops a view that has not ended (an error, a panic) wants the terminal back.
    fn drop(&mut self) {
        screen::release();
    }
}

/// Starts the view; it ends with the run's last event, or when nobody reads it any more.
///
/// # Errors
/// No thread can be had for it.
pub fn start(options: ViewOptions, events: Feed) -> io::Result<ViewHandle> {
    let (sender, done) = channel();
    let show = move || {
        let plain = options.plain();
        // A closed pipe (`orch run | head -1`) ends the view, not the run.
        match options.format {
            Format::Json => show_json(events).ok(),
            Format::Human if options.is_live() => terminal::show(events, plain, options.color).ok(),
            Format::Human => show_plain(events, plain, &options).ok(),
        };
        sender.send(()).ok();
    };
    std::thread::Builder::new().name("view".to_owned()).spawn(show)?;
    Ok(ViewHandle { done })
}

/// Prints what a run that is over was, in this thread: for one that had no view.
pub fn show_afterwards(options: ViewOptions, events: Feed) {
    let plain = options.plain();
    // Nobody is left to be told that it cannot be printed.
    match options.format {
        Format::Json => show_json(events).ok(),
        Format::Human => show_plain(events, plain, &options).ok(),
    };
}

fn show_json(events: Feed) -> io::Result<()> {
    for update in events {
        // A reader sees by the sequence numbers that it was too slow.
        let Update::Event(event) = update else { continue };
        let mut output = io::stdout().lock();
        writeln!(output, "{}", json::line(&event))?;
        output.flush()?;
        if matches!(event.kind, EventKind::RunFinished { .. }) {
            break;
        }
    }
    Ok(())
}

/// Whether a quiet view tells this when it happens: an `orch up` may not end for weeks.
fn needs_a_person(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Noticed {
            level: Level::Error,
            ..
        }
    )
}

fn show_plain(mut events: Feed, mut view: PlainView, options: &ViewOptions) -> io::Result<()> {
    let mut state = RunState::default();
    // What is at hand is printed at once.
    let mut output = BufWriter::new(io::stdout());
    loop {
        let update = match events.try_recv() {
            Some(update) => update,
            None => {
                output.flush()?;
                events.gather(GATHERING);
                match events.recv() {
                    Some(update) => update,
                    None => return Ok(()),
                }
            }
        };
        let event = match update {
            Update::Event(event) => event,
            Update::Missed {
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
