//! The inbox of the supervisor: the guard's reports, the results of probes, and requests for services, in one order.

use std::collections::VecDeque;
use std::convert::Infallible;

use tokio::sync::{mpsc, watch};

use crate::launcher::ProcessLauncher;
use crate::memory_limit::MemoryUse;
use crate::service_kind::PreparedStart;
use crate::states::{ServiceAvailability, ServiceInput};
use orch_guard::GuardEvent;
use orch_journal::ServiceName;
use orch_journal::failure::ServiceFailure;

/// A message to the supervisor.
pub(crate) enum SupervisorMessage {
    Guard(GuardEvent),
    /// Result of the probe of this generation.
    Answer {
        name: ServiceName,
        generation: u64,
        input: ServiceInput,
    },
    Prepared {
        name: ServiceName,
        generation: u64,
        prepared: Result<PreparedStart, ServiceFailure>,
    },
    /// An on-demand service is needed from now on.
    Needed {
        name: ServiceName,
        updates: watch::Sender<ServiceAvailability>,
    },
    NotNeeded {
        name: ServiceName,
    },
    /// The guard has received a signal that asks for an end, and orch has not.
    GuardAskedToEnd(ServiceFailure),
    /// Memory that services use now.
    Measured(Vec<MemoryUse>),
}

impl SupervisorMessage {
    /// Reports to the caller that the requested service does not exist.
    pub fn refuse(self) {
        if let SupervisorMessage::Needed { name, updates } = self {
            let failure = ServiceFailure::infrastructure(format!("there is no service `{name}`"));
            updates.send_replace(ServiceAvailability::GivenUp(failure));
        }
    }
}

/// A handle that passes the guard's reports to the supervisor, from any thread.
#[derive(Clone)]
pub struct GuardInbox(mpsc::UnboundedSender<SupervisorMessage>);

impl GuardInbox {
    /// Passes an event on. Never blocks; after the supervisor's end the event is dropped.
    pub fn deliver(&self, event: GuardEvent) {
        drop(self.0.send(SupervisorMessage::Guard(event)));
    }
}

/// The receiving end, created before the guard is started and consumed by the supervisor.
pub struct SupervisorInbox {
    pub(crate) sender: mpsc::UnboundedSender<SupervisorMessage>,
    receiver: mpsc::UnboundedReceiver<SupervisorMessage>,
    /// Messages that arrived before there was a supervisor.
    early: VecDeque<SupervisorMessage>,
}

impl SupervisorInbox {
    /// Creates an inbox and the handle for guard events.
    ///
    /// The channel is unbounded, since the guard's reader must never block. Each message stands for a process that was
    /// started or has ended, or for one result of a probe.
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

    /// Passes the ends of commands to the launcher, as long as there is no supervisor to do so; keeps all other
    /// messages for the supervisor.
    pub async fn serve_commands(&mut self, launcher: &ProcessLauncher) -> Infallible {
        loop {
            match self.receiver.recv().await {
                Some(SupervisorMessage::Guard(event)) if launcher.deliver(&event) => {}
                Some(message) => self.early.push_back(message),
                // The inbox contains a sender, so the channel never closes.
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// Returns the next message, in the order of arrival.
    pub(crate) async fn next(&mut self) -> Option<SupervisorMessage> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.receiver.recv().await,
        }
    }
}
