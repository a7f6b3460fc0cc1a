//! Data of a site's end, part of the event, for the circuit breaker and the site health of later runs.

use serde::{Deserialize, Serialize};

/// Cause of a site's end for later runs, in addition to the status: facts that those could otherwise only infer from
/// earlier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum EndCause {
    /// Degraded: fewer results than `least`.
    TooFewResults {
        least: u64,
        /// Usual number of results, the median of complete runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        median: Option<u64>,
    },
    /// Failed, in this many consecutive runs including this one.
    Failure {
        in_a_row: u32,
        /// Usual number of results, as in a degraded end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        median: Option<u64>,
    },
    /// Failed before the start, because the lease was not available: another run held the lease, or the broker was
    /// unreachable.
    Refused,
    /// Complete, degraded or not, through the work of another run that held the lease during this time.
    ByAnotherRun,
    /// Skipped after `failures` consecutive failures; `runs` counts the runs that have skipped the site, including this
    /// one.
    SkippedAfterFailures {
        failures: u32,
        runs: u32,
        /// Usual number of results, as in a degraded end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        median: Option<u64>,
    },
}

impl EndCause {
    /// Returns the usual number of results for later runs.
    pub fn median(self) -> Option<u64> {
        match self {
            EndCause::TooFewResults { median, .. }
            | EndCause::Failure { median, .. }
            | EndCause::SkippedAfterFailures { median, .. } => median,
            EndCause::Refused | EndCause::ByAnotherRun => None,
        }
    }
}
