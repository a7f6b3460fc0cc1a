//! Loss of chunks of a job, as events report it.

use serde::{Deserialize, Serialize};

/// Chunks that are lost or have failed, so that the chord's callback cannot run any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkLoss {
    /// Number of chunks that no worker will execute.
    pub lost: u64,
    pub failed: u64,
    /// Number of all chunks of the job.
    pub total_chunks: u64,
    /// Task ids of the first lost chunks.
    pub tasks: Vec<String>,
    /// Description of the loss.
    pub reason: String,
}
