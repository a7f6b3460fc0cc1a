//! Where everything that happens to services arrives, in one order: the guard's reports and the probes' answers.

use tokio::sync::mpsc;

use super::failure::Failure;
use super::program::Prepared;
use super::state::Input;
use crate::guard::GuardEvent;
use crate::run::ServiceName;

/// What happened.
pub(super) enum Message {
    Guard(GuardEvent),
    /// An answer of a probe to the question of this generation.
    Answer {
        name: ServiceName,
        generation: u64,
        input: Input,
    },
    Prepared {
        name: ServiceName,
        generation: u64,
        prepared: Result<Prepared, Failure>,
    },
}

/// Hands the guard's reports to the supervisor, from any thread.
#[derive(Clone)]
pub struct GuardInbox(mpsc::UnboundedSender<Message>);

impl GuardInbox {
    /// Never blocks; after the supervisor's end the event is dropped.
    pub fn deliver(&self, event: GuardEvent) {
        drop(self.0.send(Message::Guard(event)));
    }
}

/// The receiving end, made before the guard is started and consumed by the supervisor.
pub struct Inbox {
    pub(super) sender: mpsc::UnboundedSender<Message>,
    pub(super) receiver: mpsc::UnboundedReceiver<Message>,
}

impl Inbox {
    /// An inbox and the hand that puts guard events into it.
    ///
    /// Unbounded: each message stands for a process that was started or has ended, or for one answer of a probe that
    /// waits for its turn; the guard's reader must never block.
    pub fn new() -> (Self, GuardInbox) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            Self {
                sender: sender.clone(),
                receiver,
            },
            GuardInbox(sender),
        )
    }
}
