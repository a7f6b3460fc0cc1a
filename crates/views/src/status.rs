//! One run as another process observes it: the state from the journal, the life of its orch and its guard, and the use of
//! the machine. Pure; the program collects the facts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::run_conditions::RunConditions;
use orch_base::system::tree_use::TreeUse;
use orch_journal::{RunState, ServiceName, ServiceView, SiteView};

/// Life of the processes of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RunLife {
    /// orch is alive.
    Active,
    /// orch is alive, but a signal has suspended it.
    Suspended,
    /// orch has died, and the guard ends the processes of the run.
    EndedByGuard {
        guard_pid: Option<i32>,
        /// Time of the death, Unix seconds, if the guard has noticed it already.
        died_at: Option<f64>,
        /// Longest time that the end may take.
        stop_bound: Duration,
    },
    /// Neither orch nor the guard is alive.
    Over {
        /// Time of the death, Unix seconds, if orch has died and the guard has noticed it.
        died_at: Option<f64>,
        left: LeftProcesses,
    },
}

/// Processes that a run without orch and guard has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftProcesses {
    /// The guard has ended all processes.
    Ended,
    /// Number of the processes that live.
    Alive(usize),
    /// They could not be looked for.
    Unknown,
}

impl RunLife {
    /// Decides whether processes of the run may exist.
    pub fn is_running(self) -> bool {
        !matches!(self, RunLife::Over { .. })
    }

    /// Returns the word for programs.
    pub fn word(self) -> &'static str {
        match self {
            RunLife::Active => "active",
            RunLife::Suspended => "suspended",
            RunLife::EndedByGuard { .. } => "ended_by_guard",
            RunLife::Over { .. } => "over",
        }
    }

    /// Returns the time at which orch died, if it is known.
    pub fn died_at(self) -> Option<f64> {
        match self {
            RunLife::EndedByGuard { died_at, .. } | RunLife::Over { died_at, .. } => died_at,
            RunLife::Active | RunLife::Suspended => None,
        }
    }
}

/// Use of the machine by the processes of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceUse {
    pub processes: usize,
    /// Share of one processor: since the last look, or else since the start of the service.
    pub cpu_percent: f64,
    pub cpu_seconds: f64,
    /// Sum over the processes; memory that processes share counts for each of them.
    pub rss_bytes: u64,
    /// TCP ports on which a process listens.
    pub ports: Vec<u16>,
}

impl ServiceUse {
    /// Describes a measurement; `earlier` is that of the last look.
    pub fn of(measured: &TreeUse, earlier: Option<&TreeUse>) -> Self {
        Self {
            processes: measured.processes,
            cpu_percent: measured.cpu_percent(earlier),
            cpu_seconds: measured.cpu.as_secs_f64(),
            rss_bytes: measured.resident_bytes,
            ports: measured.ports.iter().copied().collect(),
        }
    }
}

/// One run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedRun {
    pub state: RunState,
    pub life: RunLife,
    pub conditions: RunConditions,
    /// Use of the machine by each service with a living process.
    pub uses: BTreeMap<ServiceName, ServiceUse>,
    /// Run time now, or at the last event of a run that is over, in seconds.
    pub now: f64,
}

/// Part of a run that a person has named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StatusPart<'r> {
    Service(&'r ServiceView),
    Site(&'r SiteView),
}

impl ObservedRun {
    /// Finds the services and sites of this name; a service and a site may have the same name.
    pub fn parts<'r>(&'r self, name: &str) -> Vec<StatusPart<'r>> {
        let services = self.state.services.iter();
        let services = services.filter(|service| service.name.as_str() == name);
        let site = self.state.site_named(&name.into()).map(StatusPart::Site);
        services.map(StatusPart::Service).chain(site).collect()
    }

    /// Lists the names of all services and sites.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let services = self.state.services.iter().map(|service| service.name.as_str());
        services.chain(self.state.sites.iter().map(|site| site.name.as_str()))
    }

    /// Returns the state of the run in a few words.
    pub fn state_words(&self) -> &'static str {
        match self.life {
            RunLife::Active if self.state.stop.is_some() => "stopping",
            RunLife::Active if self.state.header.is_none() => "starting",
            RunLife::Active if self.is_well() => "all well",
            RunLife::Active => "not all well",
            RunLife::Suspended => "suspended",
            RunLife::EndedByGuard { .. } => "orch has died, its guard ends the rest",
            RunLife::Over { .. } => "over",
        }
    }

    /// Decides whether the run is active and everything in it is as it should be.
    pub fn is_well(&self) -> bool {
        self.life == RunLife::Active && self.problems().is_empty()
    }
}
