//! Drawing: a frame that is replaced in place below lines that stay, by plain ANSI sequences on standard output.
//!
//! Between two draws the cursor rests, hidden, at the first column of the frame's first line: erasing "from here to the
//! end" then removes the whole frame, also after the terminal was resized and has wrapped it anew.
//! The terminal is given back by [`release`] from whichever thread ends the process: the view's own may be blocked.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use super::paint::Painted;

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const ERASE_FRAME: &str = "\r\x1b[J";

/// How long [`release`] lets a draw that is under way end; only a terminal that takes no output needs longer.
const DRAW_PATIENCE: Duration = Duration::from_millis(100);

/// What the one terminal of the process is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// As any program: nothing to give back.
    Lines,
    /// The cursor is hidden, a frame may be there.
    Frame,
    /// The same, and a write is under way.
    Drawing,
}

static USE: Mutex<Use> = Mutex::new(Use::Lines);
static DRAWN: Condvar = Condvar::new();
static PANIC_HOOK: Once = Once::new();

fn current() -> MutexGuard<'static, Use> {
    // Plain data, whole at any moment.
    USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The live screen; dropping it gives the terminal back.
pub struct Screen {
    /// What is on the screen, so that an unchanged frame is not written again.
    frame: Vec<Painted>,
    size: (usize, usize),
}

impl Screen {
    /// Takes the terminal. From here on a panic anywhere gives it back before it is told.
    pub fn take() -> Self {
        PANIC_HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                release();
                previous(panic);
            }));
        });
        *current() = Use::Frame;
        Self {
            frame: Vec::new(),
            size: (0, 0),
        }
    }

    /// Takes the terminal again after [`release`] and a pause; the next draw draws all.
    pub fn take_again(&mut self) {
        *current() = Use::Frame;
        self.frame.clear();
        self.size = (0, 0);
    }

    /// Columns and rows of the terminal, as they are now; 80 by 24 where it does not say.
    pub fn size() -> (usize, usize) {
        let size = tcgetwinsize(io::stdout());
        let or = |value: u16, default: usize| if value == 0 { default } else { usize::from(value) };
        size.map_or((80, 24), |size| (or(size.ws_col, 80), or(size.ws_row, 24)))
    }

    /// Writes `lines`, which stay, above the frame, and replaces the frame.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, lines: &[Painted], frame: Vec<Painted>, size: (usize, usize)) -> io::Result<()> {
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
            let frame: Vec<&str> = frame.iter().map(Painted::as_str).collect();
            text.push_str(&frame.join("\n"));
            if frame.len() > 1 {
                text.push_str(&format!("\x1b[{}A", frame.len() - 1));
            }
            text.push('\r');
        } else {
            // The terminal was given back: from there on these are lines like any other.
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

impl Drop for Screen {
    fn drop(&mut self) {
        release();
    }
}

/// Whether the frame may be drawn; if so, [`end_draw`] must follow.
fn begin_draw() -> bool {
    let mut terminal = current();
    let live = *terminal == Use::Frame;
    if live {
        *terminal = Use::Drawing;
    }
    live
}

fn end_draw() {
    let mut terminal = current();
    match *terminal {
        Use::Drawing => *terminal = Use::Frame,
        // Whoever gave it back could not wait for this frame.
        Use::Lines => give_back(),
        Use::Frame => {}
    }
    drop(terminal);
    DRAWN.notify_all();
}

/// Erases the frame and shows the cursor, unless that is done; never waits for a blocked terminal.
pub fn release() {
    let terminal = current();
    if *terminal == Use::Lines {
        return;
    }
    let (mut terminal, _) = DRAWN
        .wait_timeout_while(terminal, DRAW_PATIENCE, |now| *now == Use::Drawing)
        .unwrap_or_else(PoisonError::into_inner);
    let stuck = std::mem::replace(&mut *terminal, Use::Lines) == Use::Drawing;
    drop(terminal);
    if !stuck {
        give_back();
    }
}

/// Unbuffered: the lock of the standard output may belong to a thread that is gone or blocked.
fn give_back() {
    let stdout = io::stdout();
    let mut waiting = [PollFd::new(&stdout, PollFlags::OUT)];
    let ready = poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if ready {
        rustix::io::write(&stdout, format!("{ERASE_FRAME}{SHOW_CURSOR}").as_bytes()).ok();
    }
}
