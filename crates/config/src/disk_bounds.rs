//! Bounds of the disk space of a state directory: of its logs and of its runs.

use orch_base::files::log_bound::LogBound;

/// Written keys of `log = { max, keep }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialLogBound {
    pub max: Option<u64>,
    pub keep: Option<u32>,
}

impl PartialLogBound {
    /// Returns the bound with the other keys of `default`.
    pub fn or(self, default: LogBound) -> LogBound {
        LogBound {
            max: self.max.unwrap_or(default.max),
            keep: self.keep.unwrap_or(default.keep),
        }
    }
}

/// `keep = { runs, days, size }`: the runs that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepConfig {
    /// Number of the last runs of each kind. Default 20.
    pub runs: usize,
    /// Age in days up to which more nights are kept. Default 30.
    pub days: u64,
    /// Bytes that all ended runs may use; 0: no limit. Default 2GiB.
    pub size: u64,
}
