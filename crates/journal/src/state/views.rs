//! Parts of a snapshot: services, proxies, sites, leftovers and the stop.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error_view::ErrorView;
use crate::end_cause::EndCause;
use crate::event_values::{FollowStage, ProgressSource, StopReason};
use crate::exit_status::ExitStatus;
use crate::health::SiteHealth;
use crate::ids::{JobId, ServiceName, SiteName};
use crate::left_out::LeftOutProxies;
use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;

/// Phase of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl ServicePhase {
    /// Decides whether the service can be used, or has done its work.
    pub fn is_up(self) -> bool {
        matches!(
            self,
            ServicePhase::Ready | ServicePhase::Reused | ServicePhase::Completed
        )
    }

    /// Decides whether the service is on the way to another phase.
    pub fn is_in_progress(self) -> bool {
        match self {
            ServicePhase::Starting | ServicePhase::Unhealthy | ServicePhase::Restarting | ServicePhase::Stopping => {
                true
            }
            ServicePhase::Pending
            | ServicePhase::Ready
            | ServicePhase::Reused
            | ServicePhase::Completed
            | ServicePhase::Stopped
            | ServicePhase::Failed => false,
        }
    }
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    pub name: ServiceName,
    pub oneshot: bool,
    pub phase: ServicePhase,
    pub pid: Option<i32>,
    /// Description of the running service, or of the problem.
    pub detail: String,
    pub restarts: u32,
    /// Run time at which this phase began, seconds.
    pub since: f64,
    pub status: Option<ExitStatus>,
    pub log: Option<PathBuf>,
    /// Reason of the last unhealthy phase since the last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
}

impl ServiceView {
    /// Creates a service that is only planned.
    pub(crate) fn pending(name: ServiceName) -> Self {
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

/// Leftovers of dead runs in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoversView {
    pub queued: u64,
    pub unacked: u64,
    pub keys: u64,
    pub removed: bool,
}

/// State of the proxy pool and the refresh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxiesView {
    /// `None`: not counted (yet).
    pub count: Option<ProxyCount>,
    /// Number of refreshes that have begun.
    pub refreshes: u32,
    /// Number of refreshes that have failed.
    pub failed_refreshes: u32,
    /// A refresh is active.
    pub refreshing: bool,
    /// Run time at which the last refresh began, seconds.
    pub since: Option<f64>,
    pub stage: Option<FollowStage>,
    pub done: u64,
    pub total: Option<u64>,
    /// Reason of the last refresh's failure.
    pub failure: Option<String>,
}

/// Counts of the pool file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCount {
    pub total: u64,
    pub usable: u64,
    pub min_usable: u64,
    pub left_out: LeftOutProxies,
    pub problem: Option<String>,
}

/// Phase of a site in the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SitePhase {
    #[default]
    Waiting,
    Queued,
    Dispatching,
    Running,
    Retrying,
    /// Written as the status alone.
    #[serde(untagged)]
    Ended(SiteStatus),
}

impl SitePhase {
    /// Decides whether the phase is final.
    pub fn is_final(self) -> bool {
        matches!(self, SitePhase::Ended(_))
    }
}

/// Treatment of a site of the run that this one continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResumedSite {
    /// Complete in that run, so not done again.
    Kept,
    /// The job still existed in Redis and was followed to the end.
    PickedUp,
    /// Dispatched again: the site had failed or not begun, or nothing of the job was left.
    Dispatched,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteView {
    pub name: SiteName,
    pub phase: SitePhase,
    /// Dependencies of a waiting site; some may have ended.
    pub waits_for: Vec<SiteName>,
    pub job_id: Option<JobId>,
    pub attempt: u32,
    pub stage: Option<FollowStage>,
    pub counts: SiteCounts,
    /// Source of the counts.
    pub source: Option<ProgressSource>,
    /// Run time of the first dispatch, seconds.
    pub started: Option<f64>,
    /// Run time of the end, seconds.
    pub finished: Option<f64>,
    /// Duration of all attempts of a site that has ended, seconds.
    pub lasted: Option<f64>,
    pub reason: Option<String>,
    /// Failed tasks, the most frequent signature first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorView>,
    /// Health now, or at the end of the site.
    pub health: SiteHealth,
    /// Problem of a site that is not healthy.
    pub ailment: Option<String>,
    /// Worst health over all attempts.
    pub worst: SiteHealth,
    /// For a skipped site: the site whose end decided that.
    pub dependency: Option<SiteName>,
    /// Cause of the end, for later runs.
    pub cause: Option<EndCause>,
    /// `None` in a run that continues no other, and until known.
    pub resumed: Option<ResumedSite>,
}

impl SiteView {
    /// Creates a site that is only planned.
    pub(crate) fn waiting(name: SiteName) -> Self {
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
            errors: Vec::new(),
            health: SiteHealth::Healthy,
            ailment: None,
            worst: SiteHealth::Healthy,
            dependency: None,
            cause: None,
            resumed: None,
        }
    }
}

/// Stop that is in progress or over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopView {
    pub reason: StopReason,
    pub bound_ms: u64,
    /// Run time of the start, seconds.
    pub since: f64,
    pub hurried: bool,
    /// `None`: not over.
    pub elapsed_ms: Option<u64>,
}
