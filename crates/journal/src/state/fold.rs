//! Fold of events into a snapshot: pure, and total for any event, in any order, from any journal.
//!
//! Every kind has an arm, so that a new kind compiles only after a decision about the effect.

use std::time::Duration;

use super::model::{RunHeader, RunState};
use super::totals::{RunTotals, SiteContribution};
use super::views::{
    LeftoversView, ProxiesView, ProxyCount, ResumedSite, ServicePhase, ServiceView, SitePhase, SiteView, StopView,
};
use crate::event::{Event, EventKind};
use crate::event_values::NoticeLevel;
use crate::facts::admission_change::AdmissionChange;
use crate::facts::proxy_pool_count::ProxyPoolCount;
use crate::facts::proxy_refresh_job::ProxyRefreshJob;
use crate::facts::redis_leftovers::RedisLeftovers;
use crate::facts::run_start::RunStart;
use crate::facts::state_snapshot::StateSnapshot;
use crate::health::SiteHealth;
use crate::ids::{ServiceName, SiteName};
use crate::resumption::{InterruptedSite, SiteRemainder};
use crate::site_status::SiteStatus;

impl RunState {
    /// Folds one event.
    pub fn apply(&mut self, event: &Event) {
        if self.seq == 0 {
            self.started_at = event.at;
        }
        self.seq = event.seq;
        self.updated_at = event.at;
        self.elapsed = event.elapsed;
        let site = event.kind.site();
        let share = |state: &Self| state.site_named(site?).map(SiteContribution::of);
        let before = share(self);
        self.change(event);
        self.totals.replace(before, share(self), event.elapsed);
    }

    fn change(&mut self, event: &Event) {
        let now = event.elapsed;
        match event.kind.level() {
            None | Some(NoticeLevel::Info) => {}
            Some(NoticeLevel::Warning) => self.warnings += 1,
            Some(NoticeLevel::Error) => self.errors += 1,
        }
        if let EventKind::SiteAdmissionChanged(AdmissionChange { admission }) = &event.kind {
            self.admission = *admission;
        }
        match &event.kind {
            // ----- the run
            EventKind::RunStarted(RunStart {
                format: _,
                run_id,
                command,
                version,
                instance,
                config,
                directory,
                pid,
                guard_pid,
                services,
                sites,
                resumes,
            }) => {
                self.header = Some(RunHeader {
                    run_id: run_id.clone(),
                    command: *command,
                    version: version.clone(),
                    instance: instance.clone(),
                    config: config.clone(),
                    directory: directory.clone(),
                    pid: *pid,
                    guard_pid: *guard_pid,
                    resumes: resumes.as_ref().map(|resumption| resumption.run_id.clone()),
                });
                for service in services {
                    self.service(&service.name).oneshot = service.oneshot;
                }
                for site in sites {
                    self.site(site);
                }
                for InterruptedSite { site, progress } in resumes.iter().flat_map(|resumption| &resumption.sites) {
                    if let SiteRemainder::Kept { counts, shortfall } = progress {
                        let view = self.site(site);
                        view.phase = match shortfall {
                            None => SitePhase::Ended(SiteStatus::Complete),
                            Some(_) => SitePhase::Ended(SiteStatus::Degraded),
                        };
                        view.reason.clone_from(shortfall);
                        view.counts = *counts;
                        view.resumed = Some(ResumedSite::Kept);
                    }
                }
                self.totals = RunTotals::of(&self.sites);
            }
            EventKind::StateTaken(StateSnapshot { state }) => {
                *self = RunState {
                    seq: event.seq,
                    ..state.restored()
                };
            }
            EventKind::EndExpected { in_ms } => {
                self.expected_end = Some(now + Duration::from_millis(*in_ms).as_secs_f64());
            }
            // Only the level counts.
            crate::any_notice!() => {}
            EventKind::StopStarted { reason, bound_ms } => {
                self.stop = Some(StopView {
                    reason: *reason,
                    bound_ms: *bound_ms,
                    since: now,
                    hurried: false,
                    elapsed_ms: None,
                });
            }
            EventKind::StopHurried => {
                if let Some(stop) = &mut self.stop {
                    stop.hurried = true;
                }
            }
            EventKind::StopFinished { elapsed_ms } => {
                if let Some(stop) = &mut self.stop {
                    stop.elapsed_ms = Some(*elapsed_ms);
                }
            }
            EventKind::RunFinished {
                outcome,
                exit_code,
                error,
            } => {
                self.outcome = Some(*outcome);
                self.exit_code = Some(*exit_code);
                self.error.clone_from(error);
            }

            // ----- services
            EventKind::ServiceStarting { service, attempt: _ } => {
                let view = self.enter(service, ServicePhase::Starting);
                view.detail.clear();
                view.unhealthy = None;
            }
            EventKind::ServiceSpawned { service, pid } => self.service(service).pid = Some(*pid),
            EventKind::ServiceReady {
                service,
                elapsed_ms: _,
                detail,
            } => {
                self.enter(service, ServicePhase::Ready).detail.clone_from(detail);
            }
            EventKind::ServiceReused { service, detail } => {
                self.enter(service, ServicePhase::Reused).detail.clone_from(detail);
            }
            EventKind::ServiceCompleted { service, elapsed_ms: _ } => {
                self.enter(service, ServicePhase::Completed).pid = None;
            }
            EventKind::ServiceUnhealthy { service, reason } => {
                let view = self.enter(service, ServicePhase::Unhealthy);
                view.detail.clone_from(reason);
                view.unhealthy = Some(reason.clone());
            }
            // The next liveness probe shows whether the new consumer helped.
            EventKind::ConsumerAdded { .. } | EventKind::ServicePeaked { .. } => {}
            EventKind::ServiceExited { service, status, log } => {
                let view = self.enter(service, ServicePhase::Restarting);
                view.pid = None;
                view.status = Some(*status);
                view.log = Some(log.clone());
            }
            EventKind::ServiceRestarting {
                service,
                attempt: _,
                backoff_ms: _,
                reason,
            } => {
                let view = self.enter(service, ServicePhase::Restarting);
                view.restarts = view.restarts.saturating_add(1);
                view.detail.clone_from(reason);
            }
            EventKind::ServiceFailed { service, reason, log } => {
                let view = self.enter(service, ServicePhase::Failed);
                view.pid = None;
                view.detail.clone_from(reason);
                if log.is_some() {
                    view.log.clone_from(log);
                }
            }
            EventKind::ServiceStopping { service } => {
                self.enter(service, ServicePhase::Stopping);
            }
            EventKind::ServiceStopped { service, status } => {
                let view = self.enter(service, ServicePhase::Stopped);
                view.pid = None;
                view.status = Some(*status);
            }
            EventKind::LeftoversFound(RedisLeftovers {
                queued,
                unacked,
                keys,
                removed,
            }) => {
                self.leftovers = Some(LeftoversView {
                    queued: *queued,
                    unacked: *unacked,
                    keys: *keys,
                    removed: *removed,
                });
            }

            // ----- proxies
            EventKind::ProxiesCounted(ProxyPoolCount {
                file: _,
                total,
                usable,
                min_usable,
                left_out,
                problem,
            }) => {
                self.proxies.count = Some(ProxyCount {
                    total: *total,
                    usable: *usable,
                    min_usable: *min_usable,
                    left_out: *left_out,
                    problem: problem.clone(),
                });
            }
            EventKind::ProxyRefreshStarted { attempt: _, task_id: _ } => {
                self.proxies = ProxiesView {
                    count: self.proxies.count.take(),
                    refreshes: self.proxies.refreshes.saturating_add(1),
                    failed_refreshes: self.proxies.failed_refreshes,
                    refreshing: true,
                    since: Some(now),
                    ..ProxiesView::default()
                };
            }
            EventKind::ProxyRefreshDispatched(ProxyRefreshJob {
                job_id: _,
                chord_id: _,
                total_chunks,
                timeout_ms: _,
            }) => self.proxies.total = *total_chunks,
            EventKind::ProxyStageEntered { stage, reason: _ } => self.proxies.stage = Some(*stage),
            EventKind::ProxyRefreshProgressed { done, total } => {
                self.proxies.done = *done;
                self.proxies.total = total.or(self.proxies.total);
            }
            EventKind::ProxyRefreshFinished { elapsed_ms: _ } => self.proxies.refreshing = false,
            EventKind::ProxyRefreshFailed { reason, will_retry: _ } => {
                self.proxies.refreshing = false;
                self.proxies.failed_refreshes = self.proxies.failed_refreshes.saturating_add(1);
                self.proxies.failure = Some(reason.clone());
            }

            // ----- sites
            EventKind::SiteWaiting { site, waits_for } => {
                let view = self.site(site);
                view.phase = SitePhase::Waiting;
                view.waits_for.clone_from(waits_for);
            }
            EventKind::SiteQueued { site } => {
                let view = self.site(site);
                view.phase = SitePhase::Queued;
                view.waits_for.clear();
            }
            EventKind::SiteDispatched {
                site,
                attempt,
                task_id: _,
                job_id: _,
                fencing_token: _,
            } => {
                let resumed = self.resumes().then_some(ResumedSite::Dispatched);
                self.begin_attempt(site, *attempt, resumed);
            }
            EventKind::SitePickedUp {
                site,
                attempt,
                task_id: _,
                job_id: _,
                fencing_token: _,
            } => self.begin_attempt(site, *attempt, Some(ResumedSite::PickedUp)),
            EventKind::SiteJobStarted {
                site,
                job_id,
                chord_id: _,
                counts,
                timeout_ms: _,
            } => {
                let view = self.site(site);
                view.phase = SitePhase::Running;
                view.job_id = Some(job_id.clone());
                view.counts = *counts;
            }
            EventKind::SiteStageEntered { site, stage, reason: _ } => self.site(site).stage = Some(*stage),
            EventKind::SiteProgressed { site, counts, source } => {
                let view = self.site(site);
                if view.phase == SitePhase::Dispatching {
                    view.phase = SitePhase::Running;
                }
                view.counts = counts.or(view.counts);
                view.source = Some(*source);
            }
            EventKind::SiteVerdict {
                site,
                health,
                reason,
                action: _,
                vitals: _,
            } => {
                let view = self.site(site);
                view.health = *health;
                view.ailment = (*health != SiteHealth::Healthy).then(|| reason.clone());
                view.worst = view.worst.max(*health);
            }
            // The end of the site reports the stop.
            EventKind::SiteStopRequested { site: _, by: _ } => {}
            EventKind::SiteChordCompleted { site: _, chord_id: _ } => {}
            EventKind::TaskFailed(failed) => {
                if let Some(site) = &failed.site {
                    self.site(site).add_failed_task(failed);
                }
            }
            EventKind::SiteErrorsCounted(counted) => self.site(&counted.site).set_error_counts(counted),
            EventKind::SiteRetrying {
                site,
                attempt: _,
                backoff_ms: _,
                reason,
            } => {
                let view = self.site(site);
                view.phase = SitePhase::Retrying;
                view.reason = Some(reason.clone());
            }
            EventKind::SiteFinished {
                site,
                status,
                counts,
                elapsed_ms,
                reason,
                dependency,
                cause,
            } => {
                let view = self.site(site);
                view.phase = SitePhase::Ended(*status);
                view.waits_for.clear();
                view.counts = counts.or(view.counts);
                view.finished = Some(now);
                // A site that never began has no duration.
                let lasted = std::time::Duration::from_millis(*elapsed_ms).as_secs_f64();
                view.lasted = view.started.map(|_| lasted);
                view.reason.clone_from(reason);
                view.dependency.clone_from(dependency);
                view.cause = *cause;
            }
        }
    }

    fn resumes(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.resumes.is_some())
    }

    /// Resets everything that an earlier attempt had set.
    fn begin_attempt(&mut self, site: &SiteName, attempt: u32, resumed: Option<ResumedSite>) {
        let now = self.elapsed;
        let view = self.site(site);
        *view = SiteView {
            phase: SitePhase::Dispatching,
            attempt,
            started: view.started.or(Some(now)),
            worst: view.worst,
            resumed,
            ..SiteView::waiting(site.clone())
        };
    }

    /// Returns the service of this name; creates a missing one.
    fn service(&mut self, name: &ServiceName) -> &mut ServiceView {
        let known = self.services.iter().position(|service| service.name == *name);
        let index = known.unwrap_or_else(|| {
            self.services.push(ServiceView::pending(name.clone()));
            self.services.len() - 1
        });
        &mut self.services[index]
    }

    fn enter(&mut self, name: &ServiceName, phase: ServicePhase) -> &mut ServiceView {
        let now = self.elapsed;
        let service = self.service(name);
        service.phase = phase;
        service.since = now;
        service
    }

    /// Returns the site of this name; creates a missing one.
    fn site(&mut self, name: &SiteName) -> &mut SiteView {
        let known = self.site_places.get(name).copied();
        let index = known.unwrap_or_else(|| {
            self.sites.push(SiteView::waiting(name.clone()));
            self.site_places.insert(name.clone(), self.sites.len() - 1);
            self.sites.len() - 1
        });
        &mut self.sites[index]
    }
}
