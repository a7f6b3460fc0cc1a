//! One service: role, state and past.
//!
//! Not here: the transitions ([`crate::state_machine`]).

use std::path::PathBuf;

use crate::restart_policy::RestartHistory;
use crate::states::{ServiceRole, ServiceState};
use orch_journal::ServiceName;

/// One service: role, state, past.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub role: ServiceRole,
    pub log: PathBuf,
    /// The last command line, for people.
    pub command: Option<String>,
    pub state: ServiceState,
    pub(crate) history: RestartHistory,
    /// Number of starts so far.
    pub(crate) attempt: u32,
    /// The service has been ready in this run: a later death is not a failed start.
    pub(crate) has_been_ready: bool,
    /// The cause of the failed start is removed: the service is started again.
    pub start_is_repaired: bool,
}

impl Service {
    /// Returns a service that has not been started.
    pub fn new(name: ServiceName, role: ServiceRole, log: PathBuf) -> Self {
        Self {
            name,
            role,
            log,
            command: None,
            state: ServiceState::Waiting,
            history: RestartHistory::default(),
            attempt: 0,
            has_been_ready: false,
            start_is_repaired: false,
        }
    }

    /// Returns true if the services that depend on this one may start.
    pub fn is_usable(&self) -> bool {
        match self.state {
            ServiceState::Ready { .. } | ServiceState::Reused { .. } | ServiceState::Completed => true,
            // The service ended as the restart policy accepts, and counts as usable.
            ServiceState::Down => true,
            ServiceState::Waiting
            | ServiceState::Preparing { .. }
            | ServiceState::Starting { .. }
            | ServiceState::Ending { .. }
            | ServiceState::BackingOff { .. }
            | ServiceState::Stopped
            | ServiceState::Failed => false,
        }
    }
}
