//! The socket to orch: orders as they arrive, reports as fast as the socket accepts them.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::log::log;
use crate::protocol::{GuardOrder, GuardReport};
use orch_linux::sys;

/// Limit in bytes; a longer line from orch is invalid.
const LONGEST_ORDER: usize = 8 << 20;
/// Most received descriptors that no order has claimed yet; the oldest are closed.
const MOST_DESCRIPTORS: usize = 8;

/// The guard's end of the socket.
pub struct OrchSocket {
    /// `None` when orch is gone, or the socket cannot be used.
    socket: Option<UnixStream>,
    received: Vec<u8>,
    /// Descriptors that were sent with orders. The kernel delivers each with the bytes of its order.
    descriptors: VecDeque<OwnedFd>,
    /// Reports that the socket has not accepted yet.
    unsent: Vec<u8>,
}

/// An input from the socket.
pub enum SocketInput {
    Order(GuardOrder),
    /// orch has closed the socket.
    Closed,
    /// The socket cannot be used any more; the cause is logged.
    Failed,
}

impl OrchSocket {
    /// Returns the sending and receiving end of a socket that does not block.
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket: Some(socket),
            received: Vec::new(),
            descriptors: VecDeque::new(),
            unsent: Vec::new(),
        }
    }

    /// Returns the events of the socket to wait for.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let unsent = if self.unsent.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::POLLOUT
        };
        let socket = self.socket.as_ref()?;
        Some(PollFd::new(socket.as_fd(), PollFlags::POLLIN | unsent))
    }

    /// Queues a report and sends as much as possible now: an orch that is stopped (SIGSTOP) must not block the guard.
    pub fn report(&mut self, report: &GuardReport) {
        if self.socket.is_none() {
            return;
        }
        let Ok(line) = serde_json::to_vec(report) else { return };
        // The queue is bounded by the number of events. When an orch that never reads ends, the queue is dropped.
        self.unsent.extend_from_slice(&line);
        self.unsent.push(b'\n');
        self.flush();
    }

    /// Sends queued reports until the socket accepts no more.
    pub fn flush(&mut self) {
        while let (Some(socket), false) = (&mut self.socket, self.unsent.is_empty()) {
            match socket.write(&self.unsent) {
                Ok(sent) => {
                    self.unsent.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The end of orch is noticed when orders are read.
                Err(_closed) => self.unsent.clear(),
            }
        }
    }

    /// Returns the descriptor that was sent with the order that [`OrchSocket::next_input`] has just returned.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Returns the next order or the end of the socket; `None` if neither is available now.
    pub fn next_input(&mut self) -> Option<SocketInput> {
        let mut chunk = [0_u8; 16 * 1024];
        loop {
            while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(order) => return Some(SocketInput::Order(order)),
                    Err(error) => log(&format!("could not parse an order: {error}")),
                }
            }
            let socket = self.socket.as_mut()?;
            if self.received.len() > LONGEST_ORDER {
                log("an order exceeds the size limit: ordered stop");
                self.socket = None;
                return Some(SocketInput::Failed);
            }
            match receive(socket, &mut chunk, &mut self.descriptors) {
                Ok(0) => {
                    self.socket = None;
                    return Some(SocketInput::Closed);
                }
                // orch has closed the socket with unread reports in it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.socket = None;
                    return Some(SocketInput::Closed);
                }
                Ok(length) => {
                    self.received.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    let surplus = self.descriptors.len().saturating_sub(MOST_DESCRIPTORS);
                    drop(self.descriptors.drain(..surplus));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log(&format!("could not read orders: {error}"));
                    self.socket = None;
                    return Some(SocketInput::Failed);
                }
            }
        }
    }
}

/// Reads bytes and the descriptors that were sent with them. No descriptor is left to programs that are executed.
pub fn receive(socket: &UnixStream, chunk: &mut [u8], descriptors: &mut impl Extend<OwnedFd>) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut vectors = [IoSliceMut::new(chunk)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut vectors, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            descriptors.extend(received.into_iter().map(sys::own_descriptor));
        }
    }
    Ok(message.bytes)
}

/// Reports to orch why there is no guard, before the socket closes.
pub fn report_failed_start(mut socket: &UnixStream, error: &io::Error) {
    let report = GuardReport::Refused {
        order: "start".to_owned(),
        error: error.to_string(),
    };
    if let Ok(line) = serde_json::to_string(&report) {
        writeln!(socket, "{line}").ok();
    }
}
