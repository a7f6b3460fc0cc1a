//! Drawing on the terminal: a frame that is replaced in place below permanent lines, with plain ANSI sequences on
//! standard output.
//!
//! Between two draws the cursor is hidden and at the first column of the frame's first line: erasing from the cursor to
//! the end then removes the whole frame, even after a resize in which the terminal has wrapped the frame again.
//! [`release`] restores the terminal from the thread that ends the process, since the view's own thread may be blocked.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use crate::paint::PaintedLine;

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const ERASE_FRAME: &str = "\r\x1b[J";
/// Restores the terminal for a process that was killed, possibly in the middle of a draw: colours off, the frame erased,
/// cursor shown. The cursor is not moved, because a shell may have printed its prompt.
const RESET_AFTER_KILL: &str = "\x1b[0m\x1b[J\x1b[?25h";

/// Time that [`release`] waits for a draw in progress; only a terminal that accepts no output needs longer.
const DRAW_TIMEOUT: Duration = Duration::from_millis(100);

/// Use of the process's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TerminalUse {
    /// Plain lines, as in any program: there is nothing to restore.
    Lines,
    /// The cursor is hidden, a frame may be shown.
    Frame,
    /// Like `Frame`, with a write in progress.
    Drawing,
}

static USE: Mutex<TerminalUse> = Mutex::new(TerminalUse::Lines);
static DRAWN: Condvar = Condvar::new();
static PANIC_HOOK: Once = Once::new();
static WATCHER: OnceLock<TerminalWatcher> = OnceLock::new();

/// Another process that restores the terminal if this one is killed.
type TerminalWatcher = Box<dyn Fn(Option<&'static str>) + Send + Sync>;

/// Sets the function that is called with a text before the terminal is changed, and with `None` when it is restored.
/// Another process should write the text to the terminal if this process is killed in between. The function must not
/// block.
pub fn watch_terminal(watcher: impl Fn(Option<&'static str>) + Send + Sync + 'static) {
    // A process calls this once; a second run in the same process would keep the first watcher.
    drop(WATCHER.set(Box::new(watcher)));
}

fn notify_watcher(reset: Option<&'static str>) {
    if let Some(watcher) = WATCHER.get() {
        watcher(reset);
    }
}

fn current() -> MutexGuard<'static, TerminalUse> {
    // Plain data, which is valid at any time.
    USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The live screen; dropping it restores the terminal.
pub struct LiveScreen {
    /// Content of the screen, so that an unchanged frame is not written again.
    frame: Vec<PaintedLine>,
    size: (usize, usize),
}

impl LiveScreen {
    /// Takes the terminal. From then on a panic in any thread restores the terminal before the panic is reported.
    pub fn take() -> Self {
        PANIC_HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                release();
                previous(panic);
            }));
        });
        notify_watcher(Some(RESET_AFTER_KILL));
        *current() = TerminalUse::Frame;
        Self {
            frame: Vec::new(),
            size: (0, 0),
        }
    }

    /// Takes the terminal again after [`release`] and a suspension; the next draw draws everything.
    pub fn take_again(&mut self) {
        notify_watcher(Some(RESET_AFTER_KILL));
        *current() = TerminalUse::Frame;
        self.frame.clear();
        self.size = (0, 0);
    }

    /// Returns the current columns and rows of the terminal; 80 by 24 if they are unknown.
    pub fn size() -> (usize, usize) {
        let size = tcgetwinsize(io::stdout());
        let or = |value: u16, default: usize| if value == 0 { default } else { usize::from(value) };
        size.map_or((80, 24), |size| (or(size.ws_col, 80), or(size.ws_row, 24)))
    }

    /// Writes permanent `lines` above the frame and replaces the frame.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, lines: &[PaintedLine], frame: Vec<PaintedLine>, size: (usize, usize)) -> io::Result<()> {
        if lines.is_empty() && frame == self.frame && size == self.size {
            return Ok(());
        }
        let mut text = String::from(HIDE_CURSOR);
        text.push_str(ERASE_FRAME);
        for line in lines {
            text.push_str(line.as_str());
            text.push('\n');
        }
        let live = begin_draw();
        if live {
            let frame: Vec<&str> = frame.iter().map(PaintedLine::as_str).collect();
            text.push_str(&frame.join("\n"));
            if frame.len() > 1 {
                text.push_str(&format!("\x1b[{}A", frame.len() - 1));
            }
            text.push('\r');
        } else {
            // The terminal was restored: print only plain lines from now on.
            text = lines.iter().map(|line| format!("{line}\n")).collect();
        }
        let mut output = io::stdout().lock();
        let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        if live {
            end_draw();
        }
        (self.frame, self.size) = (frame, size);
        written
    }
}

impl Drop for LiveScreen {
    fn drop(&mut self) {
        release();
    }
}

/// Decides whether the frame may be drawn; if so, [`end_draw`] must follow.
fn begin_draw() -> bool {
    let mut terminal = current();
    let live = *terminal == TerminalUse::Frame;
    if live {
        *terminal = TerminalUse::Drawing;
    }
    live
}

fn end_draw() {
    let mut terminal = current();
    match *terminal {
        TerminalUse::Drawing => *terminal = TerminalUse::Frame,
        // The thread that called `release` could not wait for this frame.
        TerminalUse::Lines => restore(),
        TerminalUse::Frame => {}
    }
    drop(terminal);
    DRAWN.notify_all();
}

/// Erases the frame and shows the cursor, unless that is done already; never waits for a blocked terminal.
pub fn release() {
    let terminal = current();
    if *terminal == TerminalUse::Lines {
        return;
    }
    let (mut terminal, _) = DRAWN
        .wait_timeout_while(terminal, DRAW_TIMEOUT, |now| *now == TerminalUse::Drawing)
        .unwrap_or_else(PoisonError::into_inner);
    let stuck = std::mem::replace(&mut *terminal, TerminalUse::Lines) == TerminalUse::Drawing;
    drop(terminal);
    if !stuck {
        restore();
    }
}

/// Restores the terminal without the lock of the standard output, which a dead or blocked thread may hold.
fn restore() {
    let stdout = io::stdout();
    let mut waiting = [PollFd::new(&stdout, PollFlags::OUT)];
    let ready = poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if ready {
        rustix::io::write(&stdout, format!("{ERASE_FRAME}{SHOW_CURSOR}").as_bytes()).ok();
        notify_watcher(None);
    }
}
