//! Leftovers of dead runs in Redis.

use serde::{Deserialize, Serialize};

/// Leftovers of dead runs in Redis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RedisLeftovers {
    /// Messages on the consumed queues, all priorities.
    pub queued: u64,
    /// Messages that a dead worker had taken and not acknowledged.
    pub unacked: u64,
    /// Chord, control-reply and progress keys of dead jobs.
    pub keys: u64,
    /// Removed (owned Redis), or kept (any other Redis).
    pub removed: bool,
}
