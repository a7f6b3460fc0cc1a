//! Admission of sites: whether sites that have not begun may begin.

use serde::{Deserialize, Serialize};

/// Change of the admission of sites by a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionChange {
    pub admission: SiteAdmission,
}

/// Admission of the sites that have not begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteAdmission {
    /// Sites begin as the schedule decides.
    #[default]
    Open,
    /// No further site begins until a request opens the admission.
    Paused,
    /// No further site begins, and the run ends when the sites that have begun have ended.
    Draining,
}
