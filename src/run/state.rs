//! The snapshot of a run: what all events so far add up to.
//!
//! [`RunState::apply`] is pure and total: any event, in any order, from any journal. Views draw this and nothing else.

use std::path::PathBuf;

use serde::Serialize;

use super::event::{
    Command, Event, EventKind, ExitStatus, FollowStage, Level, Outcome, ProgressSource, SiteCounts, SiteStatus,
    StopReason,
};
use super::ids::{JobId, RunId, ServiceName, SiteName};

/// What is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunState {
    pub header: Option<Header>,
    /// Sequence number of the last event.
    pub seq: u64,
    /// Wall clock of the first and the last event, Unix seconds.
    pub started_at: f64,
    pub updated_at: f64,
    /// Seconds from the first to the last event.
    pub elapsed: f64,
    /// In start order.
    pub services: Vec<ServiceView>,
    pub leftovers: Option<LeftoversView>,
    pub proxies: ProxiesView,
    /// In order of the configuration.
    pub sites: Vec<SiteView>,
    pub warnings: u64,
    pub errors: u64,
    pub stop: Option<StopView>,
    pub outcome: Option<Outcome>,
    pub exit_code: Option<u8>,
    /// Why it did not succeed, as the user sees it.
    pub error: Option<String>,
}

/// What the first event says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Header {
    pub run_id: RunId,
    pub command: Command,
    pub version: String,
    pub instance: String,
    pub config: PathBuf,
    pub directory: PathBuf,
    pub pid: i32,
    pub guard_pid: i32,
}

/// Where a service is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServicePhase {
    #[default]
    Pending,
    Starting,
    Ready,
    Reused,
    Unhealthy,
    Restarting,
    Completed,
    Stopping,
    Stopped,
    Failed,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceView {
    pub name: ServiceName,
    pub oneshot: bool,
    pub phase: ServicePhase,
    pub pid: Option<i32>,
    /// What answered, or what is wrong.
    pub detail: String,
    pub restarts: u32,
    /// Run time at which this phase began, seconds.
    pub since: f64,
    pub status: Option<ExitStatus>,
    pub log: Option<PathBuf>,
}

/// What dead runs had left in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeftoversView {
    pub queued: u64,
    pub unacked: u64,
    pub keys: u64,
    pub removed: bool,
}

/// The pool and its refresh.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProxiesView {
    /// None: not counted (yet).
    pub count: Option<ProxyCount>,
    /// Refreshes so far.
    pub refreshes: u32,
    /// A refresh is under way.
    pub refreshing: bool,
    /// Run time at which the last refresh began, seconds.
    pub since: Option<f64>,
    pub stage: Option<FollowStage>,
    pub done: u64,
    pub total: Option<u64>,
    /// Why the last refresh failed.
    pub failure: Option<String>,
}

/// The pool file's counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyCount {
    pub total: u64,
    pub usable: u64,
    pub min_usable: u64,
    pub problem: Option<String>,
}

/// Where a site is in its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SitePhase {
    #[default]
    Waiting,
    Queued,
    Dispatching,
    Running,
    Retrying,
    Complete,
    Failed,
    Cancelled,
}

impl SitePhase {
    /// Whether nothing further will happen to it.
    pub fn is_final(self) -> bool {
        match self {
            SitePhase::Complete | SitePhase::Failed | SitePhase::Cancelled => true,
            SitePhase::Waiting
            | SitePhase::Queued
            | SitePhase::Dispatching
            | SitePhase::Running
            | SitePhase::Retrying => false,
        }
    }
}

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteView {
    pub name: SiteName,
    pub phase: SitePhase,
    pub job_id: Option<JobId>,
    pub attempt: u32,
    pub stage: Option<FollowStage>,
    pub counts: SiteCounts,
    /// Where the counts come from.
    pub source: Option<ProgressSource>,
    /// Run time of its first dispatch, seconds.
    pub started: Option<f64>,
    /// Run time of its end, seconds.
    pub finished: Option<f64>,
    pub reason: Option<String>,
}

/// The stop under way or over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StopView {
    pub reason: StopReason,
    pub bound_ms: u64,
    /// Run time at which it began, seconds.
    pub since: f64,
    pub hurried: bool,
    /// None: not over.
    pub elapsed_ms: Option<u64>,
}

impl RunState {
    /// Folds one event in.
    pub fn apply(&mut self, event: &Event) {
        if self.seq == 0 {
            self.started_at = event.at;
        }
        self.seq = event.seq;
        self.updated_at = event.at;
        self.elapsed = event.elapsed;
        match &event.kind {
            EventKind::RunStarted {
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
            } => {
                self.header = Some(Header {
                    run_id: run_id.clone(),
                    command: *command,
                    version: version.clone(),
                    instance: instance.clone(),
                    config: config.clone(),
                    directory: directory.clone(),
                    pid: *pid,
                    guard_pid: *guard_pid,
                });
                for service in services {
                    self.service(&service.name).oneshot = service.oneshot;
                }
                for site in sites {
                    self.site(site);
                }
            }
            EventKind::Noticed { level, message: _ } => match level {
                Level::Info => {}
                Level::Warning => self.warnings += 1,
                Level::Error => self.errors += 1,
            },
            EventKind::StopStarted { reason, bound_ms } => {
                let since = self.elapsed;
                self.stop = Some(StopView {
                    reason: *reason,
                    bound_ms: *bound_ms,
                    since,
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
            EventKind::LeftoversFound {
                queued,
                unacked,
                keys,
                removed,
            } => {
                self.leftovers = Some(LeftoversView {
                    queued: *queued,
                    unacked: *unacked,
                    keys: *keys,
                    removed: *removed,
                });
            }
            kind => {
                self.apply_to_service(kind);
                self.apply_to_proxies(kind);
                self.apply_to_site(kind);
            }
        }
    }

    fn service(&mut self, name: &ServiceName) -> &mut ServiceView {
        let index = self
            .services
            .iter()
            .position(|service| service.name == *name)
            .unwrap_or_else(|| {
                self.services.push(ServiceView {
                    name: name.clone(),
                    oneshot: false,
                    phase: ServicePhase::Pending,
                    pid: None,
                    detail: String::new(),
                    restarts: 0,
                    since: 0.0,
                    status: None,
                    log: None,
                });
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

    fn apply_to_service(&mut self, kind: &EventKind) {
        match kind {
            EventKind::ServiceStarting { service, attempt: _ } => {
                self.enter(service, ServicePhase::Starting).detail.clear();
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
                self.enter(service, ServicePhase::Unhealthy).detail.clone_from(reason);
            }
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
                view.restarts += 1;
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
            _ => {}
        }
    }

    fn apply_to_proxies(&mut self, kind: &EventKind) {
        let now = self.elapsed;
        let proxies = &mut self.proxies;
        match kind {
            EventKind::ProxiesCounted {
                file: _,
                total,
                usable,
                min_usable,
                problem,
            } => {
                proxies.count = Some(ProxyCount {
                    total: *total,
                    usable: *usable,
                    min_usable: *min_usable,
                    problem: problem.clone(),
                });
            }
            EventKind::ProxyRefreshStarted { .. } => {
                *proxies = ProxiesView {
                    count: proxies.count.take(),
                    refreshes: proxies.refreshes.saturating_add(1),
                    refreshing: true,
                    since: Some(now),
                    ..ProxiesView::default()
                };
            }
            EventKind::ProxyRefreshDispatched { total_chunks, .. } => proxies.total = *total_chunks,
            EventKind::ProxyStageEntered { stage, reason: _ } => proxies.stage = Some(*stage),
            EventKind::ProxyRefreshProgressed { done, total } => {
                proxies.done = *done;
                proxies.total = total.or(proxies.total);
            }
            EventKind::ProxyRefreshFinished { .. } => proxies.refreshing = false,
            EventKind::ProxyRefreshFailed { reason, will_retry: _ } => {
                proxies.refreshing = false;
                proxies.failure = Some(reason.clone());
            }
            _ => {}
        }
    }

    fn site(&mut self, name: &SiteName) -> &mut SiteView {
        let index = self
            .sites
            .iter()
            .position(|site| site.name == *name)
            .unwrap_or_else(|| {
                self.sites.push(SiteView {
                    name: name.clone(),
                    phase: SitePhase::Waiting,
                    job_id: None,
                    attempt: 0,
                    stage: None,
                    counts: SiteCounts::default(),
                    source: None,
                    started: None,
                    finished: None,
                    reason: None,
                });
                self.sites.len() - 1
            });
        &mut self.sites[index]
    }

    fn apply_to_site(&mut self, kind: &EventKind) {
        let now = self.elapsed;
        match kind {
            EventKind::SiteQueued { site } => self.site(site).phase = SitePhase::Queued,
            EventKind::SiteDispatched {
                site,
                attempt,
                task_id: _,
            } => {
                let view = self.site(site);
                view.phase = SitePhase::Dispatching;
                view.attempt = *attempt;
                view.started.get_or_insert(now);
                view.counts = SiteCounts::default();
                view.reason = None;
            }
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
            EventKind::SiteChordCompleted { .. } => {}
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
                elapsed_ms: _,
                reason,
            } => {
                let view = self.site(site);
                view.phase = match status {
                    SiteStatus::Complete => SitePhase::Complete,
                    SiteStatus::Failed => SitePhase::Failed,
                    SiteStatus::Cancelled => SitePhase::Cancelled,
                };
                view.counts = counts.or(view.counts);
                view.finished = Some(now);
                view.reason.clone_from(reason);
            }
            _ => {}
        }
    }
}

impl SiteCounts {
    /// These counts, and where they say nothing those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            total_urls: self.total_urls.or(other.total_urls),
            total_chunks: self.total_chunks.or(other.total_chunks),
            completed_chunks: self.completed_chunks.or(other.completed_chunks),
            results: self.results.or(other.results),
            errors: self.errors.or(other.errors),
        }
    }
}
