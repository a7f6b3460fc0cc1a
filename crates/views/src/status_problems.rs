//! Judgement of an observed run: the reasons for which not all is well, one sentence each. Pure.

use crate::status::{ObservedRun, RunLife, StatusPart};
use crate::summary;
use crate::text::coarse_span;
use orch_base::text::counted::plural;
use orch_base::text::printable::one_line;
use orch_journal::{
    RunState, ServicePhase, ServiceView, SiteAdmission, SiteHealth, SitePhase, SiteStatus, SiteView, StopReason,
};

/// Number of names that a sentence lists.
const MAX_NAMES: usize = 3;

impl ObservedRun {
    /// Returns the reasons for which not all is well; a run that is over has none.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        match self.life {
            RunLife::Over { .. } => return found,
            RunLife::EndedByGuard { .. } => {
                found.push("orch has died, and the guard ends its processes".to_owned());
                return found;
            }
            RunLife::Suspended => {
                found.push("orch is suspended and supervises nothing until SIGCONT continues it".to_owned());
            }
            RunLife::Active => {}
        }
        if self.state.header.is_none() {
            found.push("the run is starting".to_owned());
            return found;
        }
        match &self.state.stop {
            Some(stop) => found.push(format!(
                "the run is stopping{} for {}",
                stop_cause(stop.reason),
                coarse_span(self.now - stop.since)
            )),
            None => found.extend(service_problems(&self.state)),
        }
        found.extend(held_back(self.state.admission).map(str::to_owned));
        found.extend(site_problems(&self.state));
        found.extend(proxy_problem(&self.state));
        found.extend(self.conditions.sentences());
        found
    }

    /// Decides whether this part of the run is as it should be.
    pub fn is_part_well(&self, part: StatusPart<'_>) -> bool {
        let is_active = self.life == RunLife::Active && self.state.stop.is_none();
        is_active
            && match part {
                StatusPart::Service(service) => is_service_well(service),
                StatusPart::Site(site) => is_site_well(site),
            }
    }
}

/// Returns the cause of a stop as a part of a sentence.
fn stop_cause(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Finished => " at its end",
        StopReason::Failure => " after a failure",
        StopReason::Requested => " on request",
        StopReason::Hangup => " after SIGHUP",
        StopReason::Terminate => " after SIGTERM",
        StopReason::Interrupt => " after Ctrl+C",
    }
}

/// Describes why no further site begins.
fn held_back(admission: SiteAdmission) -> Option<&'static str> {
    match admission {
        SiteAdmission::Open => None,
        SiteAdmission::Paused => Some("the run is paused: no further site begins until `orch resume`"),
        SiteAdmission::Draining => Some("the run is draining: it ends when the running sites have ended"),
    }
}

fn is_service_well(service: &ServiceView) -> bool {
    match service.phase {
        // A worker of a site stops after its site.
        ServicePhase::Ready
        | ServicePhase::Reused
        | ServicePhase::Completed
        | ServicePhase::Stopping
        | ServicePhase::Stopped => true,
        ServicePhase::Pending
        | ServicePhase::Starting
        | ServicePhase::Unhealthy
        | ServicePhase::Restarting
        | ServicePhase::Failed => false,
    }
}

fn is_site_well(site: &SiteView) -> bool {
    match site.phase {
        SitePhase::Retrying => false,
        SitePhase::Ended(status) => status == SiteStatus::Complete,
        SitePhase::Waiting | SitePhase::Queued | SitePhase::Dispatching | SitePhase::Running => {
            site.health == SiteHealth::Healthy
        }
    }
}

fn service_problems(state: &RunState) -> Vec<String> {
    let in_phase = |phases: &[ServicePhase]| -> Vec<&ServiceView> {
        let services = state.services.iter();
        services.filter(|service| phases.contains(&service.phase)).collect()
    };
    let mut found = Vec::new();
    for (phase, words) in [
        (ServicePhase::Failed, "has failed"),
        (ServicePhase::Unhealthy, "is unhealthy"),
        (ServicePhase::Restarting, "has ended and is started again"),
    ] {
        let services = in_phase(&[phase]);
        found.extend(services.iter().take(MAX_NAMES).map(|service| {
            let detail = first_line(&service.detail);
            let gap = if detail.is_empty() { "" } else { ": " };
            format!("service {} {words}{gap}{detail}", service.name)
        }));
        let more = services.len().saturating_sub(MAX_NAMES);
        if more > 0 {
            found.push(format!("and {} in the same state", plural(more as u64, "more service")));
        }
    }
    let starting = in_phase(&[ServicePhase::Starting, ServicePhase::Pending]);
    if !starting.is_empty() {
        let names = starting.iter().map(|service| service.name.as_str());
        found.push(format!(
            "{} not ready yet: {}",
            plural(starting.len() as u64, "service"),
            listed(names)
        ));
    }
    found
}

fn site_problems(state: &RunState) -> Vec<String> {
    let mut found = Vec::new();
    let phases = [
        SitePhase::Ended(SiteStatus::Failed),
        SitePhase::Ended(SiteStatus::Unknown),
        SitePhase::Ended(SiteStatus::Degraded),
        SitePhase::Ended(SiteStatus::Cancelled),
        SitePhase::Ended(SiteStatus::Skipped),
        SitePhase::Retrying,
    ];
    for phase in phases {
        let names = || {
            let sites = state.sites.iter().filter(|site| site.phase == phase);
            sites.map(|site| site.name.as_str())
        };
        let count = names().count();
        if count > 0 {
            let word = summary::status(phase).to_lowercase();
            found.push(format!("{} {word}: {}", plural(count as u64, "site"), listed(names())));
        }
    }
    let is_ill = |site: &&SiteView| !site.phase.is_final() && site.health != SiteHealth::Healthy;
    for site in state.sites.iter().filter(is_ill).take(MAX_NAMES) {
        let ailment = site.ailment.as_deref().unwrap_or_default();
        found.push(format!(
            "site {} is {}: {}",
            site.name,
            site.health.word(),
            first_line(ailment)
        ));
    }
    found
}

fn proxy_problem(state: &RunState) -> Option<String> {
    let count = state.proxies.count.as_ref()?;
    if state.proxies.refreshing || count.usable >= count.min_usable {
        return None;
    }
    Some(format!(
        "too few proxies: {} usable, {} needed",
        count.usable, count.min_usable
    ))
}

/// Lists names such as `a, b, c and 4 more`.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.len().min(MAX_NAMES);
    let text = names.get(..shown).unwrap_or_default().join(", ");
    match names.len() - shown {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn first_line(text: &str) -> String {
    one_line(text.lines().next().unwrap_or_default())
}
