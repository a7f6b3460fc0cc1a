//! Where the live file of a log begins in the stream of all bytes that were written to the log.
//!
//! This process cuts heads off logs, and other parts of it remember positions in them. A position counts from the start
//! of the stream, so a cut does not change what a position means. A reader holds the lock while it reads, so that no
//! head is cut between the look at the origin and the read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Origin of a live file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOrigin {
    /// Position in the stream of the first byte that the live file has.
    pub start: u64,
    /// Offset of that byte in the file: the hole before it has no data.
    pub hole: u64,
}

/// Origins of the logs of which a head was cut off.
static ORIGINS: RwLock<BTreeMap<PathBuf, LogOrigin>> = RwLock::new(BTreeMap::new());

/// Calls `read` with the origin of a log; no head is cut until it returns.
pub(super) fn with_origin<T>(log: &Path, read: impl FnOnce(LogOrigin) -> T) -> T {
    let origins = ORIGINS.read().unwrap_or_else(PoisonError::into_inner);
    read(origins.get(log).copied().unwrap_or_default())
}

/// Calls `change` with the origin of a log; nobody reads a log until it returns.
pub(super) fn change_origin<T>(log: &Path, change: impl FnOnce(&mut LogOrigin) -> T) -> T {
    let mut origins = ORIGINS.write().unwrap_or_else(PoisonError::into_inner);
    change(origins.entry(log.to_owned()).or_default())
}
