//! Final status of a site.

use serde::{Deserialize, Serialize};

/// Final status of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteStatus {
    /// Everything that was dispatched has been processed.
    Complete,
    /// Complete, with fewer results than required.
    Degraded,
    /// The job ended with an error, or could not be followed to the end.
    Failed,
    /// Not known whether the work was done: nothing of the job is left, and evidence is missing.
    Unknown,
    /// Given up by orch: Ctrl+C or a stop of the run.
    Cancelled,
    /// Never begun: a dependency has not succeeded, or the site has failed too often in the last runs.
    Skipped,
}

impl SiteStatus {
    /// Decides whether the site has done the work: complete, degraded or not.
    pub fn is_success(self) -> bool {
        match self {
            SiteStatus::Complete | SiteStatus::Degraded => true,
            SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Cancelled | SiteStatus::Skipped => false,
        }
    }
}
