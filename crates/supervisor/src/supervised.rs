//! A supervised service: state, program, demand, and the probe under way.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::log_keeper::LogKeeper;
use crate::service::Service;
use crate::service_kind::ServiceKind;
use crate::states::ServiceAvailability;
use orch_guard::SpawnOrder;

/// A service and the supervisor's data about it.
pub(crate) struct SupervisedService {
    pub service: Service,
    pub program: Arc<dyn ServiceKind>,
    /// The order to spawn, once prepared.
    pub order: Option<Box<SpawnOrder>>,
    /// Number that grows with each start and end: an answer to an older probe is ignored.
    pub generation: u64,
    pub probe: Option<AbortHandle>,
    /// Position of the end of the log before the last spawn: earlier text comes from an earlier process.
    pub log_offset: u64,
    pub demand: ServiceDemand,
    /// The highest memory use of the service's processes since the service was requested.
    pub peak: u64,
    /// The service was ended because of high memory use, and is not ready again.
    pub is_recycling: bool,
    /// The user was informed why the log is empty.
    pub is_empty_log_explained: bool,
}

/// The reason for a service to be up.
pub(crate) enum ServiceDemand {
    Always,
    /// Up while a caller needs the service; the caller gets updates of the availability.
    On(Option<watch::Sender<ServiceAvailability>>),
}

impl ServiceDemand {
    pub fn is_wanted(&self) -> bool {
        !matches!(self, ServiceDemand::On(None))
    }
}

impl Drop for SupervisedService {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }
}

impl SupervisedService {
    /// Returns the entry of a service that is not started.
    pub fn new(program: Arc<dyn ServiceKind>) -> Self {
        Self {
            service: Service::new(program.name().clone(), program.role(), program.log().to_owned()),
            demand: match program.is_on_demand() {
                true => ServiceDemand::On(None),
                false => ServiceDemand::Always,
            },
            program,
            order: None,
            generation: 0,
            probe: None,
            log_offset: 0,
            peak: 0,
            is_recycling: false,
            is_empty_log_explained: false,
        }
    }

    /// Sends the availability of the service to the caller that needs the service.
    pub fn publish_availability(&self) {
        let ServiceDemand::On(Some(updates)) = &self.demand else {
            return;
        };
        let now = match self.service.is_usable() {
            true => ServiceAvailability::Usable,
            false => ServiceAvailability::Starting,
        };
        updates.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Keeps the logs of the service within their bound from here on.
    pub fn bound_logs(&self, keeper: &LogKeeper) {
        for log in [Some(self.program.log()), self.program.probe_log()]
            .into_iter()
            .flatten()
        {
            keeper.keep_within(log, self.program.log_bound());
        }
    }

    /// Ends the probe under way, so that at most one probe runs for a service.
    pub fn next_generation(&mut self) -> u64 {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
        self.generation += 1;
        self.generation
    }
}

/// Describes command and directory of a spawn for people; a long command (a script in an argument) is cut.
pub(crate) fn command_line(order: &SpawnOrder) -> String {
    const SHOWN: usize = 240;
    let words: Vec<String> = order
        .argv
        .iter()
        .map(
            |word| match word.contains([' ', '\t', '\'', '"', '$', '*']) || word.is_empty() {
                true => format!("'{}'", word.replace('\'', "'\\''")),
                false => word.clone(),
            },
        )
        .collect();
    let mut line = words.join(" ").replace(['\n', '\r'], " ");
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push_str("...");
    }
    format!("`{line}` in {}", order.directory.display())
}
