//! The inbox of the supervisor: the guard's reports, the results of probes, and requests for services, in one order.

use std::collections::VecDeque;
use std::convert::Infallible;

use tokio::sync::{mpsc, watch};

use crate::launcher::ProcessLauncher;
use crate::memory_limit::MemoryUse;
use crate::service_kind::PreparedStart;
use crate::service_requests::ServiceVerb;
use crate::states::{ServiceAvailability, ServiceInput};
use orch_guard::GuardEvent;
use orch_journal::failure::ServiceFailure;
use orch_journal::{PendingRequest, ServiceName};

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
    /// A person asks for the stop or the start of a service.
    Requested {
        name: ServiceName,
        verb: ServiceVerb,
        request: PendingRequest,
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

/// A handle that passes requests about services to the supervisor.
#[derive(Clone)]
pub struct ServiceRequests(mpsc::UnboundedSender<SupervisorMessage>);

impl ServiceRequests {
    /// Passes a request on, which the supervisor answers. A request that has no reader any more is refused.
    pub fn send(&self, name: ServiceName, verb: ServiceVerb, request: PendingRequest) {
        drop(self.0.send(SupervisorMessage::Requested { name, verb, request }));
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

    /// Creates a handle for requests about services.
    pub fn service_requests(&self) -> ServiceRequests {
        ServiceRequests(self.sender.clone())
    }

    /// Passes the ends of commands to the launcher, as long as there is no supervisor to do so, and refuses requests;
    /// keeps all other messages for the supervisor.
    pub async fn serve_commands(&mut self, launcher: &ProcessLauncher) -> Infallible {
        loop {
            match self.receiver.recv().await {
                Some(SupervisorMessage::Guard(event)) if launcher.deliver(&event) => {}
                Some(SupervisorMessage::Requested { request, .. }) => {
                    request.refuse("the run has not begun to start its services yet");
                }
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
