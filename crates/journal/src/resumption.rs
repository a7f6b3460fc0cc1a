//! Remaining work of a run that ended early, as data. [`crate::resumption_fold`] reads it from the journal of that run.
//!
//! The first event of the new run contains the whole remaining work, so that a resumed run that dies too can be resumed
//! from its own journal alone. The code that picks up a job checks whether the job still exists in Redis.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, RunId, SiteName};
use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;

/// Run that is continued, with the progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// Id of the run that ended early.
    pub run_id: RunId,
    /// Sites, in the order of that run.
    pub sites: Vec<InterruptedSite>,
}

/// Progress of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptedSite {
    pub site: SiteName,
    #[serde(flatten)]
    pub progress: SiteRemainder,
}

/// Remaining work of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "so_far", rename_all = "snake_case")]
pub enum SiteRemainder {
    /// Complete, so nothing is done again.
    Kept {
        counts: SiteCounts,
        /// Reason why the site counts as degraded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shortfall: Option<String>,
    },
    /// A job was active: the new run picks up the job if the tasks still exist.
    InFlight(InterruptedJob),
    /// Never begun, or failed, or ended without required results: dispatched again.
    ToDo {
        /// Fencing token of the lease of the last attempt; `None` if there was none, and in journals of older versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fencing_token: Option<u64>,
    },
}

impl SiteRemainder {
    /// Returns the end of a site that is kept.
    pub fn kept(&self) -> Option<(SiteStatus, SiteCounts)> {
        match self {
            SiteRemainder::Kept {
                counts,
                shortfall: None,
            } => Some((SiteStatus::Complete, *counts)),
            SiteRemainder::Kept {
                counts,
                shortfall: Some(_),
            } => Some((SiteStatus::Degraded, *counts)),
            SiteRemainder::InFlight(_) | SiteRemainder::ToDo { .. } => None,
        }
    }

    /// Returns the fencing token of the run's last lease on the site.
    pub(crate) fn fencing_token(&self) -> Option<u64> {
        match self {
            SiteRemainder::InFlight(job) => job.fencing_token,
            SiteRemainder::ToDo { fencing_token } => *fencing_token,
            SiteRemainder::Kept { .. } => None,
        }
    }
}

/// Job that was active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptedJob {
    /// Number of the attempt, 1 for the first.
    pub attempt: u32,
    /// Id of the dispatch task, the root of all others.
    pub task_id: String,
    /// Job id that orch passed to the task, or that the task reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Fencing token of the site's lease for this job; `None` in journals of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
}

impl Resumption {
    /// Decides whether nothing is left to do.
    pub fn is_complete(&self) -> bool {
        self.sites
            .iter()
            .all(|so_far| matches!(so_far.progress, SiteRemainder::Kept { .. }))
    }

    /// Returns the ends of the kept sites.
    pub fn kept(&self) -> impl Iterator<Item = (SiteStatus, SiteCounts)> {
        self.sites.iter().filter_map(|so_far| so_far.progress.kept())
    }

    /// Returns the jobs that were active.
    pub fn jobs(&self) -> impl Iterator<Item = (&SiteName, &InterruptedJob)> {
        self.sites.iter().filter_map(|so_far| match &so_far.progress {
            SiteRemainder::InFlight(job) => Some((&so_far.site, job)),
            SiteRemainder::Kept { .. } | SiteRemainder::ToDo { .. } => None,
        })
    }

    /// Returns the fencing tokens of the run's last leases on the sites that are left to do.
    pub fn fencing_tokens(&self) -> impl Iterator<Item = (&SiteName, u64)> {
        let tokens = self.sites.iter();
        tokens.filter_map(|so_far| Some((&so_far.site, so_far.progress.fencing_token()?)))
    }
}
