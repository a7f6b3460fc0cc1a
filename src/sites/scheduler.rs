//! All sites of a run, each to its own end, when the schedule says so: decisions become turns, what comes of those is told.
//!
//! A plain future: dropping it ends the following of every site; [`cancel`](super::cancel()) then tells Celery. The leases
//! are not given back then, since running tasks go on for a while: they end by themselves. Not here: who is next
//! ([`schedule`](super::schedule)), and what a site does with its turn (`course`).

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::breaker::Tries;
use super::course::{Course, Step, Surroundings};
use super::forecast::Lengths;
use super::lease::{LeaseStore, Leases};
use super::memory_watch::{MemoryWatch, tell_unfit};
use super::report::SiteReport;
use super::schedule::{Admission, Cause, Decision, End, Outcome, Schedule, SiteId, State};
use super::standing::Standing;
use super::work::{Parts, Work};
use crate::config::SiteConfig;
use crate::follow::{Asker, Context, KeptDesk};
use crate::memory::{Admissions, Sites};
use crate::proxies::{end_refresh, refresh_when_asked};
use crate::run::{EventKind, SiteStatus, is_measure};

/// Between two forecasts of the end, and how many times as long as one takes: at most half a percent of a core.
const FORECAST_PAUSE: Duration = Duration::from_secs(2);
const FORECAST_SHARE: u32 = 200;

/// Runs all sites. One site's failure is its own, and of those that depend on it.
///
/// The reports come in the order of the sites. A site that another run has is waited for until the given moment.
pub async fn run_all(context: &Context, work: Work, leases: LeaseStore, wait_until: Instant) -> Vec<SiteReport> {
    let Parts {
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
    let desk = Box::pin(KeptDesk::open(context)).await;
    let leases = Leases::new(leases, context.in_flight.clone());
    let around = Surroundings {
        context,
        desk: &desk,
        leases: &leases,
        workers: &workers,
        wait_until,
    };
    for (site, id) in sites.iter().zip(agenda.sites()) {
        let waits_for: BTreeSet<SiteId> = agenda.entry(id).needs().collect();
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
    let begun = Instant::now();
    let allowed = memory
        .as_mut()
        .map(|memory| memory.look(Sites::default(), begun.elapsed(), &context.recorder));
    let allowed = allowed.unwrap_or(Admissions::All);
    let (schedule, decisions) = Schedule::begin_allowed(agenda, allowed, begun.elapsed());
    let run = Run {
        around: &around,
        sites: &sites,
        standings: &standings,
        schedule,
        memory,
        begun,
        paused: sites.iter().map(|_| Some(Course::new())).collect(),
        reports: sites.iter().map(|_| None).collect(),
        told_to_stop: HashSet::new(),
        told_unfit: HashSet::new(),
        lengths: Lengths::new(known),
    };
    if proxies.is_some() {
        context.refresh_asks.open();
    }
    // What is large and seldom begun is boxed: all of this is one future.
    let refresh = async {
        if let Some(proxies) = &proxies {
            Box::pin(refresh_when_asked(context, &desk, proxies)).await;
        }
        context.refresh_asks.close();
        std::future::pending().await
    };
    let finish = async {
        let reports = tokio::select! {
            reports = Box::pin(run.finish(decisions)) => reports,
            never = refresh => never,
        };
        if proxies.is_some() {
            Box::pin(end_refresh(context, &desk)).await;
        }
        reports
    };
    tokio::select! {
        reports = finish => reports,
        never = desk.serve() => match never {},
        never = leases.keep() => match never {},
    }
}

struct Run<'r> {
    around: &'r Surroundings<'r>,
    /// By their ids, as is all of the following.
    sites: &'r [SiteConfig],
    standings: &'r [Standing],
    schedule: Schedule,
    memory: Option<MemoryWatch>,
    begun: Instant,
    /// How far those have come that have no turn now.
    paused: Vec<Option<Course<'r>>>,
    reports: Vec<Option<SiteReport>>,
    /// Of which it was told that somebody has asked for their stop.
    told_to_stop: HashSet<SiteId>,
    lengths: Lengths,
    /// Of which it was told that they wait for memory.
    told_unfit: HashSet<SiteId>,
}

/// What is done about a site, beside others.
enum Doing<'r> {
    Turn(Admission, Course<'r>),
    /// It ends between two turns.
    Stop(SiteId, Course<'r>, Asker),
}

/// What came of it.
enum Done<'r> {
    Turn(Admission, Step<'r>),
    Stop(SiteId, Box<SiteReport>),
}

impl<'r> Run<'r> {
    async fn finish(mut self, mut decisions: Vec<Decision>) -> Vec<SiteReport> {
        let mut turns = FuturesUnordered::new();
        let mut stops = self.around.context.stops.count();
        // What was asked for before is not news.
        stops.mark_changed();
        let mut forecast_due = Instant::now();
        let mut memory_due = interval(MemoryWatch::EVERY);
        memory_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for decision in std::mem::take(&mut decisions) {
                match decision {
                    Decision::Queue(site) => {
                        let site = self.sites[site.place()].name.clone();
                        self.around.context.recorder.emit(EventKind::SiteQueued { site });
                    }
                    Decision::Skip(site, cause) => self.report(site, self.skipped(site, cause)),
                    Decision::LeaveOut(site) => self.report(site, self.not_tried(site)),
                    Decision::Admit(turn) => {
                        let site = turn.site().place();
                        let course = self.paused[site].take().unwrap_or_else(Course::new);
                        turns.push(self.doing(Doing::Turn(turn, course)));
                    }
                }
            }
            if self.schedule.is_over() && turns.is_empty() {
                break;
            }
            let looks_at_memory = self.memory.is_some() && self.schedule.has_waiting();
            let due = self.schedule.next_due().map(|due| self.begun + due);
            decisions = tokio::select! {
                biased;
                // First: what is asked for before a site begins keeps it from that.
                Ok(()) = stops.changed(), if !self.schedule.is_over() => {
                    let (decisions, stopped) = self.stop_what_is_asked_for();
                    turns.extend(stopped.into_iter().map(|stop| self.doing(stop)));
                    decisions
                }
                Some(done) = turns.next() => match done {
                    Done::Turn(turn, step) => self.stepped(turn, step, &mut stops),
                    Done::Stop(site, report) => {
                        self.report(site, *report);
                        Vec::new()
                    }
                },
                () = async { sleep_until(due.unwrap_or_else(Instant::now).into()).await }, if due.is_some() => {
                    self.schedule.pass(self.begun.elapsed())
                }
                () = sleep_until(forecast_due.into()), if !self.schedule.is_over() => {
                    let began = Instant::now();
                    self.tell_expected_end();
                    let pause = (began.elapsed() * FORECAST_SHARE).max(FORECAST_PAUSE);
                    forecast_due = Instant::now() + pause;
                    Vec::new()
                }
                _ = memory_due.tick(), if looks_at_memory => self.look_at_memory(),
                // Nothing runs and nothing pauses: nothing would ever change.
                else => break,
            };
        }
        drop(turns);
        self.reports.into_iter().flatten().collect()
    }

    fn doing(&self, doing: Doing<'r>) -> impl Future<Output = Done<'r>> + use<'r> {
        let (around, sites, standings) = (self.around, self.sites, self.standings);
        async move {
            match doing {
                Doing::Turn(turn, course) => {
                    let place = turn.site().place();
                    let step = course.turn(around, &sites[place], &standings[place]).await;
                    Done::Turn(turn, step)
                }
                Doing::Stop(site, course, by) => {
                    let report = course.stop(around, &sites[site.place()], &by).await;
                    Done::Stop(site, report)
                }
            }
        }
    }

    fn look_at_memory(&mut self) -> Vec<Decision> {
        let (now, recorder) = (self.begun.elapsed(), &self.around.context.recorder);
        let Some(memory) = &mut self.memory else {
            return Vec::new();
        };
        let sites = Sites {
            running: self.schedule.running(),
            promised: self.schedule.promised(now.saturating_sub(MemoryWatch::SETTLED_AFTER)),
            one_is_unfit: self.schedule.unfit().is_some(),
        };
        let allowed = memory.look(sites, now, recorder);
        let decisions = self.schedule.allow(allowed, now);
        if let Some(site) = self.schedule.unfit()
            && self.told_unfit.insert(site)
        {
            let needs = self.schedule.agenda().entry(site).memory;
            tell_unfit(&self.sites[site.place()].name, needs, recorder);
        }
        decisions
    }

    /// Takes from the schedule what does not run; what does hears it itself.
    fn stop_what_is_asked_for(&mut self) -> (Vec<Decision>, Vec<Doing<'r>>) {
        let (mut decisions, mut stopped) = (Vec::new(), Vec::new());
        for (name, by) in self.around.context.stops.all() {
            let Some(place) = self.sites.iter().position(|site| site.name == name) else {
                continue;
            };
            let site = SiteId::at(place);
            let has_ended = matches!(self.schedule.state(site), State::Ended(_));
            if !has_ended && self.told_to_stop.insert(site) {
                let by = by.to_string();
                let event = EventKind::SiteStopRequested { site: name, by };
                self.around.context.recorder.emit(event);
            }
            if let Ok(more) = self.schedule.cancel(site, self.begun.elapsed()) {
                decisions.extend(more);
                let course = self.paused[place].take().unwrap_or_else(Course::new);
                stopped.push(Doing::Stop(site, course, by));
            }
        }
        (decisions, stopped)
    }

    fn stepped(&mut self, turn: Admission, step: Step<'r>, stops: &mut watch::Receiver<usize>) -> Vec<Decision> {
        let site = turn.site();
        match step {
            Step::Ended(report) => {
                let outcome = match report.status {
                    SiteStatus::Complete => Outcome::Complete,
                    SiteStatus::Degraded => Outcome::Degraded,
                    SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Skipped => Outcome::Failed,
                    SiteStatus::Cancelled => Outcome::Cancelled,
                };
                self.report(site, *report);
                self.schedule.end(turn, outcome, self.begun.elapsed())
            }
            Step::Pause(course, pause, due) => {
                self.paused[site.place()] = Some(course);
                if self.told_to_stop.contains(&site) {
                    // It was asked for when the turn was as good as over.
                    stops.mark_changed();
                }
                let due = due.saturating_duration_since(self.begun);
                self.schedule.pause(turn, pause, due, self.begun.elapsed())
            }
        }
    }

    /// When all sites should have ended, as far as that is news.
    fn tell_expected_end(&mut self) {
        let Surroundings { context, .. } = self.around;
        let now = self.begun.elapsed();
        let end = context.recorder.with_state(|state| {
            let share = |site: SiteId| {
                let counts = state.site_named(&self.sites[site.place()].name)?.counts;
                Some(counts.completed_chunks? as f64 / counts.total_chunks? as f64)
            };
            self.lengths.end(&self.schedule, now, share)
        });
        if let Some(left) = end.and_then(|end| self.lengths.news(now, end)) {
            let in_ms = EventKind::millis(left);
            context.recorder.emit(EventKind::EndExpected { in_ms });
        }
    }

    fn report(&mut self, site: SiteId, report: SiteReport) {
        let Surroundings { context, .. } = self.around;
        if let Some(lasted) = report.attempt
            && is_measure(report.status, report.counts, report.cause)
        {
            self.lengths.completed(lasted);
        }
        context.in_flight.site_ended(&report.site);
        context.recorder.emit(report.event());
        self.reports[site.place()] = Some(report);
    }

    fn not_tried(&self, site: SiteId) -> SiteReport {
        let name = &self.sites[site.place()].name;
        let standing = &self.standings[site.place()];
        match &standing.tries {
            Tries::Skipped(skip) => SiteReport::not_tried(name, skip, standing.skip(skip)),
            Tries::Closed | Tries::Once => {
                unreachable!("an agenda leaves out those that are skipped: `Work::in_view_of`")
            }
        }
    }

    fn skipped(&self, site: SiteId, cause: Cause) -> SiteReport {
        let dependency = cause.site();
        let name = |site: SiteId| &self.sites[site.place()].name;
        let reason = match cause {
            Cause::After(_) => {
                // Not the report: what is stopped may still be being ended.
                let ended = match self.schedule.state(dependency) {
                    State::Ended(End::Skipped(_) | End::LeftOut) => "was skipped",
                    State::Ended(End::Reached(Outcome::Cancelled)) => "was stopped",
                    _ => "failed",
                };
                format!("it is to run after {}, which {ended}", name(dependency))
            }
            Cause::NoneOf(_) => {
                let any = &self.schedule.agenda().entry(site).after_any;
                let names: Vec<&str> = any.iter().map(|needed| name(*needed).as_str()).collect();
                format!("it is to run after one of {}: none succeeded", names.join(", "))
            }
        };
        SiteReport::skipped(name(site), name(dependency), reason)
    }
}
