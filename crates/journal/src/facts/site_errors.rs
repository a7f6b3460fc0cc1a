//! Failed tasks of a site by signature, counted at the end of the site.

use serde::{Deserialize, Serialize};

use crate::ids::SiteName;

/// Failed tasks with one signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// Signature, as in the event of the first of these tasks.
    pub signature: String,
    /// Number of failed tasks.
    pub count: u64,
    /// Times at which orch learned of the first and the last failure, Unix seconds.
    pub first_at: f64,
    pub last_at: f64,
}

/// Failed tasks of all attempts at a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteErrors {
    pub site: SiteName,
    /// Most frequent signatures, the most frequent one first.
    pub errors: Vec<ErrorCount>,
    /// Number of failed tasks with other signatures.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
