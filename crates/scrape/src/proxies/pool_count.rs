//! Count of the proxies in a pool, or the reason why they cannot be counted.

use orch_journal::LeftOutProxies;

/// Result of one read of the pool file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCount {
    /// Entries of the list.
    pub total: u64,
    /// Entries with a host, a port and an `anonymity` that is not in the configured list, except those that are left
    /// out.
    pub usable: u64,
    /// Entries with a host and a port that are too old or marked as dead.
    pub left_out: LeftOutProxies,
    /// Reason why the count is not complete, as text for a person.
    pub problem: Option<String>,
    /// The file exists and is no readable pool; `problem` gives the reason. A missing file and an empty list are
    /// readable.
    pub is_unreadable: bool,
    /// The file may be in the middle of a write: another read may find more.
    pub(crate) half_written: bool,
}

impl PoolCount {
    pub(crate) fn unreadable(problem: impl Into<String>) -> Self {
        Self {
            problem: Some(problem.into()),
            is_unreadable: true,
            ..Self::default()
        }
    }

    pub(crate) fn half_written(problem: impl Into<String>) -> Self {
        Self {
            half_written: true,
            ..Self::unreadable(problem)
        }
    }

    pub(crate) fn missing() -> Self {
        Self {
            problem: Some("there is no such file".to_owned()),
            ..Self::default()
        }
    }
}
