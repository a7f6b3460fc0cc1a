//! What a site's end hands on to later runs, as data in its event. Not here: what those make of it (`sites::Standing`).

use serde::{Deserialize, Serialize};

/// What a site's end tells the runs after it, beside its status: what they could else only guess from those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum EndCause {
    /// Degraded: fewer results than `least`.
    TooFewResults {
        least: u64,
        /// The usual number, that of complete runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        median: Option<u64>,
    },
    /// Failed, so many runs in a row with this one.
    Failure {
        in_a_row: u32,
        /// The usual number of results, as in a degraded end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        median: Option<u64>,
    },
    /// Failed without having begun, since its lease could not be had: another run had it, or the broker was out of reach.
    Refused,
    /// Complete, degraded or not, by the work of another run that had its lease meanwhile.
    ByAnotherRun,
    /// Skipped after so many failures in a row; with this one so many runs have passed without it.
    SkippedAfterFailures {
        failures: u32,
        runs: u32,
        /// As above.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        median: Option<u64>,
    },
}

impl EndCause {
    /// The usual number of results that is handed on.
    pub fn median(self) -> Option<u64> {
        match self {
            EndCause::TooFewResults { median, .. }
            | EndCause::Failure { median, .. }
            | EndCause::SkippedAfterFailures { median, .. } => median,
            EndCause::Refused | EndCause::ByAnotherRun => None,
        }
    }
}
