//! The snapshot of a run: what all events so far add up to, as [`RunState::apply`] folds them. Views draw this and
//! nothing else; `summary.json` is the last one.

use std::path::PathBuf;

use serde::Serialize;

use super::end_cause::EndCause;
use super::event::{Command, ExitStatus, FollowStage, Outcome, ProgressSource, SiteCounts, SiteStatus, StopReason};
use super::health::SiteHealth;
use super::ids::{JobId, RunId, ServiceName, SiteName};
use super::left_out::LeftOutProxies;
use super::totals::Totals;

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
    /// Where each stands among them: an event looks for one of thousands.
    #[serde(skip)]
    pub(super) site_places: foldhash::HashMap<SiteName, usize>,
    /// What they add up to.
    pub totals: Totals,
    /// When the last site should have ended, in seconds of run time; `None`: nothing tells it.
    pub expected_end: Option<f64>,
    pub warnings: u64,
    pub errors: u64,
    pub stop: Option<StopView>,
    pub outcome: Option<Outcome>,
    pub exit_code: Option<u8>,
    /// Why it did not succeed, as the user sees it.
    pub error: Option<String>,
}

impl RunState {
    /// The site of this name, once an event has told of it.
    pub fn site_named(&self, name: &SiteName) -> Option<&SiteView> {
        self.sites.get(*self.site_places.get(name)?)
    }
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
    /// The run that this one continues.
    pub resumes: Option<RunId>,
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
    /// Why it was unhealthy, since its last start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
}

impl ServiceView {
    /// Planned, and nothing more.
    pub(super) fn pending(name: ServiceName) -> Self {
        Self {
            name,
            oneshot: false,
            phase: ServicePhase::Pending,
            pid: None,
            detail: String::new(),
            restarts: 0,
            since: 0.0,
            status: None,
            log: None,
            unhealthy: None,
        }
    }
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
    /// Refreshes that have been begun.
    pub refreshes: u32,
    /// Those of them that have failed.
    pub failed_refreshes: u32,
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
    pub left_out: LeftOutProxies,
    pub problem: Option<String>,
}

/// Where a site is in its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SitePhase {
    #[default]
    Waiting,
    Queued,
    Dispatching,
    Running,
    Retrying,
    Complete,
    Degraded,
    Failed,
    Unknown,
    Cancelled,
    Skipped,
}

impl From<SiteStatus> for SitePhase {
    fn from(status: SiteStatus) -> Self {
        match status {
            SiteStatus::Complete => SitePhase::Complete,
            SiteStatus::Degraded => SitePhase::Degraded,
            SiteStatus::Failed => SitePhase::Failed,
            SiteStatus::Unknown => SitePhase::Unknown,
            SiteStatus::Cancelled => SitePhase::Cancelled,
            SiteStatus::Skipped => SitePhase::Skipped,
        }
    }
}

impl SitePhase {
    /// Whether nothing further will happen to it.
    pub fn is_final(self) -> bool {
        match self {
            SitePhase::Complete
            | SitePhase::Degraded
            | SitePhase::Failed
            | SitePhase::Unknown
            | SitePhase::Cancelled
            | SitePhase::Skipped => true,
            SitePhase::Waiting
            | SitePhase::Queued
            | SitePhase::Dispatching
            | SitePhase::Running
            | SitePhase::Retrying => false,
        }
    }
}

/// What became of a site of the run that this one continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumed {
    /// It was complete and is not done again.
    Kept,
    /// Its job went on living in Redis and was followed to its end.
    PickedUp,
    /// It was dispatched anew, since it had failed, or nothing of its job was left, or it had not begun.
    Dispatched,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteView {
    pub name: SiteName,
    pub phase: SitePhase,
    /// Sites that it depends on, as long as it waits for them; some may have ended.
    pub waits_for: Vec<SiteName>,
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
    /// Of one that has ended: how long all its attempts took, seconds.
    pub lasted: Option<f64>,
    pub reason: Option<String>,
    /// How well it does, or did at its end.
    pub health: SiteHealth,
    /// What is wrong with it, unless it is healthy.
    pub ailment: Option<String>,
    /// The worst that it has been, over all attempts.
    pub worst: SiteHealth,
    /// Of a skipped site: the one by whose end that was decided.
    pub dependency: Option<SiteName>,
    /// Of one that has ended: what that tells the runs after it.
    pub cause: Option<EndCause>,
    /// `None` in a run that continues no other, and before it is known.
    pub resumed: Option<Resumed>,
}

impl SiteView {
    /// Planned, and nothing more.
    pub(super) fn waiting(name: SiteName) -> Self {
        Self {
            name,
            phase: SitePhase::Waiting,
            waits_for: Vec::new(),
            job_id: None,
            attempt: 0,
            stage: None,
            counts: SiteCounts::default(),
            source: None,
            started: None,
            finished: None,
            lasted: None,
            reason: None,
            health: SiteHealth::Healthy,
            ailment: None,
            worst: SiteHealth::Healthy,
            dependency: None,
            cause: None,
            resumed: None,
        }
    }
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
