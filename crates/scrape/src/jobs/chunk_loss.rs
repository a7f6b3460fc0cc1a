//! Conversion of a header's losses into the form of events.

use super::HeaderLoss;
use orch_celery::TaskId;
use orch_journal::ChunkLoss;

/// Number of lost tasks that an event names.
const MAX_NAMED_TASKS: usize = 10;

impl From<&HeaderLoss> for ChunkLoss {
    fn from(loss: &HeaderLoss) -> Self {
        Self {
            lost: loss.lost.len() as u64,
            failed: loss.failed,
            total_chunks: loss.size,
            tasks: loss.lost.iter().take(MAX_NAMED_TASKS).map(TaskId::to_string).collect(),
            reason: loss.reason(),
        }
    }
}
