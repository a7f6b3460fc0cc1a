//! The terminal that the guard restores when orch is gone.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::channel::{GuardChannel, lock};
use crate::protocol::GuardOrder;

/// Longest wait for another order to be written; a longer write is stuck.
const TURN_TIMEOUT: Duration = Duration::from_millis(200);

/// A switch for the guard's reset of a terminal. The switch has separate descriptors, never blocks on the guard, and
/// ignores failures: without the reset a terminal is left as any killed program leaves it.
pub struct TerminalSwitch {
    terminal: OwnedFd,
    socket: UnixStream,
    shared: Arc<GuardChannel>,
}

impl TerminalSwitch {
    /// Returns the switch for this terminal.
    pub(super) fn new(terminal: OwnedFd, shared: Arc<GuardChannel>) -> io::Result<Self> {
        let socket = lock(&shared.socket).try_clone()?;
        Ok(Self {
            terminal,
            socket,
            shared,
        })
    }

    /// Lets the guard write this text (at most 64 bytes) to the terminal if this process ends without a stop.
    pub fn arm(&self, text: &str) {
        let text = text.to_owned();
        self.send(&GuardOrder::ArmTerminalReset { text }, &[self.terminal.as_raw_fd()]);
    }

    /// Lets the guard write nothing to the terminal.
    pub fn disarm(&self) {
        self.send(&GuardOrder::DisarmTerminalReset, &[]);
    }

    fn send(&self, order: &GuardOrder, descriptors: &[i32]) {
        let Ok(mut line) = serde_json::to_vec(order) else {
            return;
        };
        line.push(b'\n');
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        // The kernel takes so short a line whole or not at all.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match self.shared.turn_within(TURN_TIMEOUT) {
            Some(_turn) => sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&line)], rights, flags, None),
            None => Err(Errno::EAGAIN),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, ?order, "could not change the guard's reset of the terminal");
        }
    }
}
