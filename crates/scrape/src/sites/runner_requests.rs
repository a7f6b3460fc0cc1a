//! Requests of persons to the run of the sites: pause, resume, drain, and the begin of one site. Each is answered when
//! it is taken.

use super::run_sites::SitesRunner;
use super::site_driver::DrivenSite;
use crate::jobs::{RefreshAnswer, SiteRequest, answer_admission};
use crate::schedule::{RetryRefusal, ScheduleDecision, SiteId, TurnState};
use orch_journal::{PendingRequest, SiteAdmission, SiteName, SiteStatus};

impl SitesRunner {
    /// Answers all requests that wait, and begins the requested actions.
    pub(super) fn apply_requests(&mut self) -> Vec<ScheduleDecision> {
        let mut decisions = Vec::new();
        for (request, pending) in self.env.context.site_requests.take() {
            decisions.extend(match request {
                SiteRequest::Admit(admission) => self.set_admission(admission, pending),
                SiteRequest::Start(site) => self.start_site(&site, pending),
                SiteRequest::Retry(site) => self.retry_site(&site, pending),
                SiteRequest::RefreshProxies => {
                    self.refresh_proxies(pending);
                    Vec::new()
                }
            });
        }
        decisions
    }

    fn set_admission(&mut self, admission: SiteAdmission, pending: PendingRequest) -> Vec<ScheduleDecision> {
        let before = std::mem::replace(&mut self.admission, admission);
        let recorder = &self.env.context.recorder;
        answer_admission(before, admission, self.schedule.begun(), pending, recorder);
        let is_paused = admission != SiteAdmission::Open;
        self.schedule.set_paused(is_paused, self.start.elapsed())
    }

    fn refresh_proxies(&self, pending: PendingRequest) {
        match self.env.context.refresh_requests.ask() {
            RefreshAnswer::Begins => pending.done("the proxies are being refreshed; the sites go on"),
            RefreshAnswer::AlreadyRefreshing => pending.nothing_to_do("the proxies are already being refreshed"),
            RefreshAnswer::Impossible => pending.refuse("the run has no `[proxies]` to refresh"),
        }
    }

    fn find(&self, name: &SiteName) -> Option<SiteId> {
        let place = self.env.sites.iter().position(|site| site.name == *name)?;
        Some(SiteId::at(place))
    }

    fn start_site(&mut self, name: &SiteName, pending: PendingRequest) -> Vec<ScheduleDecision> {
        let Some(site) = self.find(name) else {
            pending.refuse(format!("the run has no site {name} to begin"));
            return Vec::new();
        };
        if self.admission == SiteAdmission::Draining {
            pending.refuse("the run is being drained: no further site begins");
            return Vec::new();
        }
        match self.schedule.hasten(site, self.start.elapsed()) {
            Ok(decisions) => {
                pending.done(begins(name, site, &decisions));
                decisions
            }
            Err(TurnState::Waiting(_)) => {
                let has_ended = |needed: &SiteId| matches!(self.schedule.state(*needed), TurnState::Ended(_));
                let needed = self.schedule.agenda().entry(site).dependencies();
                let awaited: Vec<&str> = needed
                    .filter(|needed| !has_ended(needed))
                    .map(|needed| self.env.site(needed).name.as_str())
                    .collect();
                pending.refuse(format!("{name} runs after {}", awaited.join(", ")));
                Vec::new()
            }
            Err(TurnState::Ended(_)) => {
                pending.nothing_to_do(format!("{name} has ended; `orch retry site {name}` begins it again"));
                Vec::new()
            }
            Err(TurnState::Running { .. } | TurnState::Queued { .. } | TurnState::Pausing { .. }) => {
                pending.nothing_to_do(format!("{name} is already running"));
                Vec::new()
            }
        }
    }

    fn retry_site(&mut self, name: &SiteName, pending: PendingRequest) -> Vec<ScheduleDecision> {
        let Some(site) = self.find(name) else {
            pending.refuse(format!("the run has no site {name} to begin"));
            return Vec::new();
        };
        if self.admission == SiteAdmission::Draining {
            pending.refuse("the run is being drained: no further site begins");
            return Vec::new();
        }
        let has_ended = matches!(self.schedule.state(site), TurnState::Ended(_));
        if has_ended && self.reports[site.place()].is_none() {
            pending.refuse(format!("the tasks of {name} are still being ended"));
            return Vec::new();
        }
        match self.schedule.retry(site, self.start.elapsed()) {
            Ok(decisions) => {
                pending.done(begins(name, site, &decisions));
                self.reports[site.place()] = None;
                self.paused[site.place()] = Some(DrivenSite::again());
                self.reported_stops.remove(&site);
                self.env.context.stop_requests.remove(name);
                self.env.context.in_flight.site_queued(name);
                decisions
            }
            Err(RetryRefusal::NotEnded) => {
                pending.nothing_to_do(format!("{name} has not ended"));
                Vec::new()
            }
            Err(RetryRefusal::Needs(needed)) => {
                let needed = &self.env.site(needed).name;
                pending.refuse(format!(
                    "{name} runs after {needed}, which has not succeeded: retry {needed} first"
                ));
                Vec::new()
            }
        }
    }

    /// Ends the sites that have not begun if the run is drained and no other site is left.
    pub(super) fn end_drained(&mut self) {
        if self.admission != SiteAdmission::Draining || !self.turns.is_empty() || self.schedule.begun() > 0 {
            return;
        }
        for site in self.schedule.end_rest() {
            let report = super::report::SiteReport::drained(&self.env.site(site).name);
            debug_assert_eq!(report.status, SiteStatus::Skipped);
            self.report(site, report);
        }
    }
}

fn begins(name: &SiteName, site: SiteId, decisions: &[ScheduleDecision]) -> String {
    let admits = |decision: &ScheduleDecision| matches!(decision, ScheduleDecision::Admit(turn) if turn.site() == site);
    match decisions.iter().any(admits) {
        true => format!("{name} begins now"),
        false => format!("{name} is next: it begins as soon as a slot, its resources and its memory are free"),
    }
}
