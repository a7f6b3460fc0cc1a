//! Job of a proxy refresh, as its dispatch task has described the job.

use serde::{Deserialize, Serialize};

use crate::ids::JobId;

/// Job of a proxy refresh, as its dispatch task has described the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyRefreshJob {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chord_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_chunks: Option<u64>,
    /// Dynamic timeout of the chord, milliseconds.
    pub timeout_ms: u64,
}
