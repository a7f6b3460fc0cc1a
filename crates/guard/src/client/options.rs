//! The values with which a guard is started.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The options with which the guard's process is started.
pub struct GuardOptions {
    /// `ORCH_RUN_ID` of every descendant.
    pub run_id: String,
    /// This program starts nothing but the guard: when the guard has died, every process below this one belonged to the
    /// guard and is ended, with or without the run id in its environment. False for a program with children of its own.
    pub owns_all_children: bool,
}

/// The files of the guard: records, log and locks.
pub struct GuardFiles {
    pub state_dir: PathBuf,
    /// The guard's own log.
    pub log: PathBuf,
    /// Lock descriptors that the guard holds as long as it lives; services do not get them.
    pub lock: Vec<OwnedFd>,
}
