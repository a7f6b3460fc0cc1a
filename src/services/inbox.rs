//! Where everything that happens to services arrives, in one order: the guard's reports, the probes' answers, and who needs
//! which.

use std::collections::VecDeque;
use std::convert::Infallible;

use tokio::sync::{mpsc, watch};

use super::failure::Failure;
use super::launcher::Launcher;
use super::life::Input;
use super::on_demand::Availability;
use super::program::Prepared;
use super::tree_memory::Held;
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
    /// A service that is up on demand is needed from now on.
    Needed {
        name: ServiceName,
        tell: watch::Sender<Availability>,
    },
    NotNeeded {
        name: ServiceName,
    },
    /// The guard was asked to end, and orch was not.
    Ended(Failure),
    /// What services held of memory just now.
    Measured(Vec<Held>),
}

impl Message {
    /// Tells who needs a service that there is none.
    pub fn refuse(self) {
        if let Message::Needed { name, tell } = self {
            let failure = Failure::infrastructure(format!("there is no service `{name}`"));
            tell.send_replace(Availability::GivenUp(failure));
        }
    }
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
    receiver: mpsc::UnboundedReceiver<Message>,
    /// What came before there was a supervisor.
    early: VecDeque<Message>,
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
                early: VecDeque::new(),
            },
            GuardInbox(sender),
        )
    }

    /// Tells the commands of the launcher that they have ended, as long as there is no supervisor to do so; all else is
    /// kept for it.
    pub async fn serve_commands(&mut self, launcher: &Launcher) -> Infallible {
        loop {
            match self.receiver.recv().await {
                Some(Message::Guard(event)) if launcher.deliver(&event) => {}
                Some(message) => self.early.push_back(message),
                // It holds a sender of its own: it never closes.
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// The next message, in the order in which they came.
    pub(super) async fn next(&mut self) -> Option<Message> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.receiver.recv().await,
        }
    }
}
