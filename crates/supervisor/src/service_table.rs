//! The supervised services of a run: lookup by name, questions about all of them, and memory limits.

use std::collections::HashMap;
use std::sync::Arc;

use crate::memory_limit;
use crate::memory_limit::MemoryUse;
use crate::service_kind::ServiceKind;
use crate::start_order::StartOrder;
use crate::states::ServiceState;
use crate::supervised::SupervisedService;
use orch_journal::ServiceName;

/// The services, each with an index that never changes.
pub(crate) struct ServiceTable {
    pub entries: Vec<SupervisedService>,
    /// Index of each entry by name: thousands of sites may have their own worker.
    positions: HashMap<String, usize>,
}

impl ServiceTable {
    /// Returns the table of `programs`, none of them started.
    pub fn new(programs: Vec<Arc<dyn ServiceKind>>) -> Self {
        let entries: Vec<SupervisedService> = programs.into_iter().map(SupervisedService::new).collect();
        let names = entries.iter().map(|entry| entry.service.name.as_str().to_owned());
        let positions = names.enumerate().map(|(position, name)| (name, position)).collect();
        Self { entries, positions }
    }

    /// Returns the index of a service.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// Returns the index of a service if this generation is the current one.
    pub fn current(&self, name: &ServiceName, generation: u64) -> Option<usize> {
        let index = self.find(name.as_str())?;
        (self.entries.get(index)?.generation == generation).then_some(index)
    }

    /// Returns true if the services that depend on this one may start.
    pub fn is_usable(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(|entry| entry.service.is_usable())
    }

    /// Returns true if each service that is needed can be used.
    pub fn all_are_usable(&self) -> bool {
        let is_usable = |entry: &SupervisedService| entry.service.is_usable() || !entry.demand.is_wanted();
        self.entries.iter().all(is_usable)
    }

    /// Returns true if each needed service can be used, or does not start before a request starts it or a service on
    /// which it depends.
    pub fn all_are_settled(&self, order: &StartOrder) -> bool {
        let is_stopped = |entry: &SupervisedService| entry.service.state == ServiceState::Stopped;
        let mut held: Vec<bool> = self.entries.iter().map(is_stopped).collect();
        if !held.contains(&true) {
            return self.all_are_usable();
        }
        loop {
            let is_held = |index: usize| held.get(index).copied().unwrap_or_default();
            let waits_for_held = |index: &usize| {
                let waits = self.entries.get(*index).map(|entry| &entry.service.state) == Some(&ServiceState::Waiting);
                let unusable = || self.unusable_dependencies(*index, order).into_iter();
                waits && !is_held(*index) && unusable().any(is_held)
            };
            let Some(next) = (0..self.entries.len()).find(waits_for_held) else {
                break;
            };
            if let Some(held) = held.get_mut(next) {
                *held = true;
            }
        }
        let mut entries = self.entries.iter().zip(held);
        entries.all(|(entry, is_held)| is_held || entry.service.is_usable() || !entry.demand.is_wanted())
    }

    /// Lists the dependencies of a service that cannot be used.
    pub fn unusable_dependencies(&self, index: usize, order: &StartOrder) -> Vec<usize> {
        let Some(entry) = self.entries.get(index) else {
            return Vec::new();
        };
        let needed = order.dependencies(&entry.service.name);
        let needed = needed.filter_map(|name| self.find(name.as_str()));
        needed.filter(|index| !self.is_usable(*index)).collect()
    }

    /// Lists the services that are given up.
    pub fn failed_names(&self) -> Vec<ServiceName> {
        let failed = self
            .entries
            .iter()
            .filter(|entry| entry.service.state == ServiceState::Failed);
        failed.map(|entry| entry.service.name.clone()).collect()
    }

    /// Lists the services that can be used.
    pub fn usable_names(&self) -> Vec<ServiceName> {
        let usable = self.entries.iter().filter(|entry| entry.service.is_usable());
        usable.map(|entry| entry.service.name.clone()).collect()
    }

    /// Returns true if orch runs a service, or is about to run one.
    pub fn has_managed(&self) -> bool {
        self.entries.iter().any(|entry| match entry.service.state {
            ServiceState::Waiting
            | ServiceState::Preparing { .. }
            | ServiceState::Starting { .. }
            | ServiceState::Ready { .. }
            | ServiceState::Ending { .. }
            | ServiceState::BackingOff { .. }
            // A request may start the service at any time.
            | ServiceState::Stopped => true,
            ServiceState::Reused { .. } | ServiceState::Completed | ServiceState::Down | ServiceState::Failed => false,
        })
    }

    /// Returns true if the memory of any service is to be measured.
    pub fn needs_measurement(&self) -> bool {
        self.entries.iter().any(is_measured)
    }

    /// Lists the running services whose memory is to be measured, with their main processes.
    pub fn measured(&self) -> Vec<(ServiceName, i32)> {
        let limited = self.entries.iter().filter(|entry| is_measured(entry));
        let running = |entry: &SupervisedService| match entry.service.state {
            ServiceState::Ready { pid, .. } => Some((entry.service.name.clone(), pid)),
            _ => None,
        };
        limited.filter_map(running).collect()
    }

    /// Notes the memory use, and returns the service that is furthest above its limit, with the reason to recycle it.
    /// One service at a time, so that the others continue the work.
    pub fn next_to_recycle(&mut self, held: &[MemoryUse]) -> Option<(usize, String)> {
        for held in held {
            if let Some(index) = self.find(held.service.as_str())
                && let Some(entry) = self.entries.get_mut(index)
            {
                entry.peak = entry.peak.max(held.bytes);
            }
        }
        for entry in &mut self.entries {
            let is_down = matches!(entry.service.state, ServiceState::Stopped | ServiceState::Failed);
            entry.is_recycling &= entry.demand.is_wanted() && !entry.service.is_usable() && !is_down;
        }
        if self.entries.iter().any(|entry| entry.is_recycling) {
            return None;
        }
        let limited = held.iter().filter_map(|held| {
            let index = self.find(held.service.as_str())?;
            let entry = self.entries.get(index)?;
            let is_same_process = matches!(entry.service.state, ServiceState::Ready { pid, .. } if pid == held.pid);
            Some((
                index,
                (held.bytes, entry.program.max_memory().filter(|_| is_same_process)?),
            ))
        });
        let (indices, amounts): (Vec<usize>, Vec<(u64, u64)>) = limited.unzip();
        let worst = memory_limit::worst(&amounts)?;
        let (index, (bytes, limit)) = (*indices.get(worst)?, *amounts.get(worst)?);
        self.entries.get_mut(index)?.is_recycling = true;
        Some((index, memory_limit::reason(bytes, limit)))
    }
}

/// Returns true if the service's memory is measured: there is a limit, or the service runs on demand.
fn is_measured(entry: &SupervisedService) -> bool {
    entry.program.max_memory().is_some() || entry.program.is_on_demand()
}
