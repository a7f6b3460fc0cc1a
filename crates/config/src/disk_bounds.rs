//! Bounds of the disk space of a state directory: of its logs.

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
