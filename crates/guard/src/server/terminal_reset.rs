//! The reset of the terminal whose modes orch has changed and, after a SIGKILL, cannot restore.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::log::log;
use crate::protocol::LONGEST_TERMINAL_RESET;

/// Longest time by which a terminal that accepts no output delays the guard's end.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// The terminal and the text that restores it.
#[derive(Debug, Default)]
pub struct TerminalReset {
    armed: Option<(OwnedFd, String)>,
    /// The write under way and its deadline.
    writing: Option<(Receiver<()>, Instant)>,
}

impl TerminalReset {
    /// Stores the terminal and the text; ignores files of other kinds and long texts.
    pub fn arm(&mut self, terminal: Option<OwnedFd>, text: String) {
        let terminal = terminal.filter(|terminal| terminal.is_terminal() && text.len() <= LONGEST_TERMINAL_RESET);
        if terminal.is_none() {
            log("ignored an order to restore something that is no terminal, or with a text that is too long");
        }
        self.armed = terminal.map(|terminal| (terminal, text));
    }

    /// Closes the terminal, which orch has restored.
    pub fn disarm(&mut self) {
        self.armed = None;
    }

    /// Begins to write the text, if there is one. A thread writes: a terminal may accept no output for ever, and a
    /// descriptor that does not block would change the terminal for the programs that share it.
    pub fn begin(&mut self) {
        let Some((terminal, text)) = self.armed.take() else {
            return;
        };
        let (sender, written) = channel();
        let write = move || {
            let mut watched = [PollFd::new(terminal.as_fd(), PollFlags::POLLOUT)];
            poll(&mut watched, PollTimeout::NONE).ok();
            // A terminal that is gone needs no reset.
            std::fs::File::from(terminal).write_all(text.as_bytes()).ok();
            sender.send(()).ok();
        };
        match std::thread::Builder::new().name("terminal".to_owned()).spawn(write) {
            Ok(_thread) => self.writing = Some((written, Instant::now() + WRITE_TIMEOUT)),
            Err(error) => log(&format!(
                "could not start the thread that restores the terminal: {error}"
            )),
        }
    }

    /// Waits for the write until its deadline. The end of the guard's process ends a write that takes longer.
    pub fn finish(&mut self) {
        if let Some((written, until)) = self.writing.take() {
            written
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .ok();
        }
    }
}
