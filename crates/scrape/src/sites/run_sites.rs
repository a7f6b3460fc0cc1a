//! Execution of all sites of a run to their ends: carries out the decisions of the schedule, and reports the results to
//! the schedule. Each site has a task of its own while it has a turn.
//!
//! Dropping the future of [`run_all`] stops following every site, and [`cancel`](super::cancel_run::cancel())
//! then ends the sites' work in Celery. The leases are not released in this case, because tasks may still be running:
//! the leases expire. [`schedule`](crate::schedule) decides which site is next, and [`site_driver`](super::site_driver)
//! does the work of a site in a turn.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::Instrument;

use super::forecast::SiteDurations;
use super::memory_watch::{MemoryWatch, report_memory_wait};
use super::report::SiteReport;
use super::run_plan::{RunPlan, RunPlanParts};
use super::site_driver::{DrivenSite, SiteEnv, TurnEnd};
use crate::jobs::{JobContext, KeptMonitor};
use crate::proxies::{end_refresh, refresh_when_asked};
use crate::schedule::memory_gate::{AdmissionLimit, SiteLoad};
use crate::schedule::{Schedule, ScheduleDecision, SiteEnd, SiteId, SiteTurn, SkipCause, TurnState};
use crate::sites::lease::{LeaseStore, Leases};
use crate::sites::policy::circuit_breaker::BreakerState;
use orch_journal::{EventKind, SiteAdmission, SiteStatus, is_comparable};

/// Shortest time between two forecasts of the run's end, and the length of that pause as a multiple of the time that
/// one forecast takes: forecasts use at most half a percent of a core.
const FORECAST_INTERVAL: Duration = Duration::from_secs(2);
const FORECAST_SHARE: u32 = 200;

/// Runs all sites. A failure of one site affects only that site and the sites that depend on it.
///
/// Returns the reports in the order of the sites. If another run holds the lease of a site, the site is waited for
/// until `wait_until`.
pub async fn run_all(
    context: &JobContext,
    kept: &KeptMonitor,
    work: RunPlan,
    leases: LeaseStore,
    wait_until: Instant,
) -> Vec<SiteReport> {
    let RunPlanParts {
        sites,
        agenda,
        known,
        standings,
        proxies,
        workers,
        mut memory,
    } = work.into_parts();
    for site in &sites {
        context.in_flight.site_queued(&site.name);
    }
    if sites.is_empty() {
        return Vec::new();
    }
    let monitor = Box::pin(kept.open(context)).await;
    let leases = Arc::new(Leases::new(leases, context.in_flight.clone()));
    for (site, id) in sites.iter().zip(agenda.sites()) {
        let waits_for: BTreeSet<SiteId> = agenda.entry(id).dependencies().collect();
        if !waits_for.is_empty() {
            context.recorder.emit(EventKind::SiteWaiting {
                site: site.name.clone(),
                waits_for: waits_for
                    .iter()
                    .map(|needed| sites[needed.place()].name.clone())
                    .collect(),
            });
        }
    }
    let start = Instant::now();
    let allowed = memory
        .as_mut()
        .map(|memory| memory.check(SiteLoad::default(), start.elapsed(), &context.recorder));
    let allowed = allowed.unwrap_or(AdmissionLimit::All);
    let admission = context.site_requests.open();
    let is_paused = admission != SiteAdmission::Open;
    let (schedule, decisions) = Schedule::begin_held(agenda, allowed, is_paused, start.elapsed());
    let run = SitesRunner {
        schedule,
        admission,
        memory,
        start,
        paused: sites.iter().map(|_| Some(DrivenSite::new())).collect(),
        reports: sites.iter().map(|_| None).collect(),
        reported_stops: HashSet::new(),
        reported_memory_waits: HashSet::new(),
        lengths: SiteDurations::new(known),
        turns: JoinSet::new(),
        env: Arc::new(SiteEnv {
            context: context.clone(),
            monitor: Arc::clone(&monitor),
            leases: Arc::clone(&leases),
            workers,
            wait_until,
            sites,
            standings,
        }),
    };
    // Tasks of their own, as each site is: an event wakes only the monitor and the site that it belongs to.
    let mut background: JoinSet<Infallible> = JoinSet::new();
    let served = Arc::clone(&monitor);
    background.spawn(async move { served.serve().await });
    background.spawn(async move { leases.keep().await });
    if proxies.is_some() {
        context.refresh_requests.open();
    }
    // Boxed, because the future is large and rarely used, and all futures here are part of one.
    let refresh = async {
        match &proxies {
            Some(proxies) => Box::pin(refresh_when_asked(context, &monitor, proxies)).await,
            None => std::future::pending().await,
        }
    };
    let finish = async {
        let reports = tokio::select! {
            reports = Box::pin(run.finish(decisions)) => reports,
            never = refresh => match never {},
        };
        if proxies.is_some() {
            Box::pin(end_refresh(context, &monitor)).await;
        }
        reports
    };
    let reports = tokio::select! {
        reports = finish => reports,
        Some(ended) = background.join_next() => match task_result(ended) {},
    };
    kept.take();
    reports
}

/// Returns the result of a task. A panic of the task goes on here, as in the future of the task itself.
fn task_result<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("only a dropped run aborts its tasks"),
        },
    }
}

/// Run of all sites between two decisions of the schedule.
pub(super) struct SitesRunner {
    pub(super) env: Arc<SiteEnv>,
    pub(super) schedule: Schedule,
    pub(super) admission: SiteAdmission,
    memory: Option<MemoryWatch>,
    pub(super) start: Instant,
    /// Sites that have no turn now, by site id.
    pub(super) paused: Vec<Option<DrivenSite>>,
    /// Reports of the sites that have ended, by site id.
    pub(super) reports: Vec<Option<SiteReport>>,
    /// One task for each site that has a turn or is being stopped. Dropping the set stops them all.
    pub(super) turns: JoinSet<SiteTask>,
    /// Sites for which a stop request has been reported.
    pub(super) reported_stops: HashSet<SiteId>,
    lengths: SiteDurations,
    /// Sites that have been reported as waiting for memory.
    reported_memory_waits: HashSet<SiteId>,
}

/// Result of the task of a site.
pub(super) struct SiteTask {
    site: SiteId,
    /// `None`: the task stopped the site between two turns.
    turn: Option<SiteTurn>,
    end: TurnEnd,
}

impl SitesRunner {
    async fn finish(mut self, mut decisions: Vec<ScheduleDecision>) -> Vec<SiteReport> {
        let mut stops = self.env.context.stop_requests.count();
        // Requests from before the subscription do not count as a change, so mark them as unseen.
        stops.mark_changed();
        let mut requests = self.env.context.site_requests.count();
        let mut forecast_due = Instant::now();
        let mut memory_due = interval(MemoryWatch::CHECK_INTERVAL);
        memory_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for decision in std::mem::take(&mut decisions) {
                match decision {
                    ScheduleDecision::Queue(site) => {
                        let site = self.env.site(site).name.clone();
                        self.env.context.recorder.emit(EventKind::SiteQueued { site });
                    }
                    ScheduleDecision::Skip(site, cause) => self.report(site, self.skipped(site, cause)),
                    ScheduleDecision::LeaveOut(site) => self.report(site, self.not_tried(site)),
                    ScheduleDecision::Admit(turn) => self.spawn(turn.site(), Some(turn)),
                }
            }
            self.end_drained();
            if self.schedule.is_over() && self.turns.is_empty() {
                match self.env.context.site_requests.close() {
                    true => break,
                    // A request may let a site begin again.
                    false => {
                        decisions = self.apply_requests();
                        continue;
                    }
                }
            }
            let checks_memory = self.memory.is_some() && self.schedule.has_waiting();
            let due = self.schedule.next_due().map(|due| self.start + due);
            decisions = tokio::select! {
                biased;
                // Polled first: a stop request that arrives before a site begins keeps the site from beginning.
                Ok(()) = stops.changed(), if !self.schedule.is_over() => self.stop_requested_sites(),
                Ok(()) = requests.changed() => self.apply_requests(),
                Some(ended) = self.turns.join_next() => self.apply_turn_end(task_result(ended), &mut stops),
                () = async { sleep_until(due.unwrap_or_else(Instant::now).into()).await }, if due.is_some() => {
                    self.schedule.advance(self.start.elapsed())
                }
                () = sleep_until(forecast_due.into()), if !self.schedule.is_over() => {
                    let began = Instant::now();
                    self.report_expected_end();
                    let pause = (began.elapsed() * FORECAST_SHARE).max(FORECAST_INTERVAL);
                    forecast_due = Instant::now() + pause;
                    Vec::new()
                }
                _ = memory_due.tick(), if checks_memory => self.check_memory(),
                // No site runs and none pauses, so that nothing can change any more.
                else => break,
            };
        }
        self.reports.into_iter().flatten().collect()
    }

    /// Gives the site to a task of its own, for a turn or to be stopped.
    fn spawn(&mut self, site: SiteId, turn: Option<SiteTurn>) {
        let driven = self.paused[site.place()].take().unwrap_or_else(DrivenSite::new);
        let env = Arc::clone(&self.env);
        let span = tracing::info_span!("site", name = %env.site(site).name, job = tracing::field::Empty);
        let task = async move {
            let end = driven.turn(&env, site).await;
            SiteTask { site, turn, end }
        };
        self.turns.spawn(task.instrument(span));
    }

    fn check_memory(&mut self) -> Vec<ScheduleDecision> {
        let (now, recorder) = (self.start.elapsed(), &self.env.context.recorder);
        let Some(memory) = &mut self.memory else {
            return Vec::new();
        };
        let sites = SiteLoad {
            running: self.schedule.running(),
            expected_memory: self
                .schedule
                .expected_memory(now.saturating_sub(MemoryWatch::SETTLING_DELAY)),
            one_waits_for_memory: self.schedule.waiting_for_memory().is_some(),
        };
        let allowed = memory.check(sites, now, recorder);
        let decisions = self.schedule.set_admission_limit(allowed, now);
        if let Some(site) = self.schedule.waiting_for_memory()
            && self.reported_memory_waits.insert(site)
        {
            let needs = self.schedule.agenda().entry(site).memory;
            report_memory_wait(&self.env.site(site).name, needs, recorder);
        }
        decisions
    }

    /// Removes the sites with a stop request from the schedule, unless they run: a running site sees the request
    /// itself.
    fn stop_requested_sites(&mut self) -> Vec<ScheduleDecision> {
        let mut decisions = Vec::new();
        for (name, by) in self.env.context.stop_requests.all() {
            let Some(place) = self.env.sites.iter().position(|site| site.name == name) else {
                continue;
            };
            let site = SiteId::at(place);
            let has_ended = matches!(self.schedule.state(site), TurnState::Ended(_));
            if !has_ended && self.reported_stops.insert(site) {
                let by = by.to_string();
                let event = EventKind::SiteStopRequested { site: name, by };
                self.env.context.recorder.emit(event);
            }
            if let Ok(more) = self.schedule.cancel(site, self.start.elapsed()) {
                decisions.extend(more);
                self.spawn(site, None);
            }
        }
        decisions
    }

    fn apply_turn_end(&mut self, task: SiteTask, stops: &mut watch::Receiver<usize>) -> Vec<ScheduleDecision> {
        let SiteTask { site, turn, end } = task;
        match (end, turn) {
            (TurnEnd::Ended(report), turn) => {
                let status = report.status;
                self.report(site, *report);
                turn.map_or_else(Vec::new, |turn| self.schedule.end(turn, status, self.start.elapsed()))
            }
            (TurnEnd::Paused(driven, pause, due), Some(turn)) => {
                self.paused[site.place()] = Some(driven);
                if self.reported_stops.contains(&site) {
                    // The request arrived when the turn was almost over, so that the turn did not see the request.
                    stops.mark_changed();
                }
                let due = due.saturating_duration_since(self.start);
                self.schedule.pause(turn, pause, due, self.start.elapsed())
            }
            // The request that stops a site stays, so that the site does not pause.
            (TurnEnd::Paused(..), None) => Vec::new(),
        }
    }

    /// Reports the time at which all sites should have ended, if that time has changed noticeably.
    fn report_expected_end(&mut self) {
        let recorder = &self.env.context.recorder;
        let now = self.start.elapsed();
        let end = recorder.with_state(|state| {
            let share = |site: SiteId| {
                let counts = state.site_named(&self.env.site(site).name)?.counts;
                Some(counts.completed_chunks? as f64 / counts.total_chunks? as f64)
            };
            self.lengths.expected_end(&self.schedule, now, share)
        });
        if let Some(left) = end.and_then(|end| self.lengths.shift_to_report(now, end)) {
            let in_ms = EventKind::millis(left);
            recorder.emit(EventKind::EndExpected { in_ms });
        }
    }

    pub(super) fn report(&mut self, site: SiteId, report: SiteReport) {
        let context = &self.env.context;
        if let Some(lasted) = report.attempt
            && is_comparable(report.status, report.counts, report.cause)
        {
            self.lengths.add_completed(lasted);
        }
        context.in_flight.site_ended(&report.site);
        report.record(context);
        self.reports[site.place()] = Some(report);
    }

    fn not_tried(&self, site: SiteId) -> SiteReport {
        let name = &self.env.site(site).name;
        let standing = &self.env.standings[site.place()];
        match &standing.breaker {
            BreakerState::Open(skip) => SiteReport::not_tried(name, skip, standing.skip_cause(skip)),
            BreakerState::Closed | BreakerState::HalfOpen => {
                unreachable!("the agenda leaves out every site that the circuit breaker skips")
            }
        }
    }

    fn skipped(&self, site: SiteId, cause: SkipCause) -> SiteReport {
        let dependency = cause.site();
        let name = |site: SiteId| &self.env.site(site).name;
        let reason = match cause {
            SkipCause::After(_) => {
                // Not from the report: the work of a stopped site may still be in the process of ending.
                let ended = match self.schedule.state(dependency) {
                    TurnState::Ended(SiteEnd::Skipped(_) | SiteEnd::LeftOut) => "was skipped",
                    TurnState::Ended(SiteEnd::Reached(SiteStatus::Cancelled)) => "was stopped",
                    _ => "failed",
                };
                format!("it is to run after {}, which {ended}", name(dependency))
            }
            SkipCause::NoneOf(_) => {
                let any = &self.schedule.agenda().entry(site).after_any;
                let names: Vec<&str> = any.iter().map(|needed| name(*needed).as_str()).collect();
                format!("it is to run after one of {}: none succeeded", names.join(", "))
            }
        };
        SiteReport::skipped(name(site), name(dependency), reason)
    }
}
