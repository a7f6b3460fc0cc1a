//! Orphans of others: as PID 1 of a container, orch is re-parented whatever loses its parent there, and must reap it.

use std::sync::{Mutex, PoisonError};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::sys;

/// Held by whoever reaps, and by whoever signals children by their pids: those are theirs only until they are reaped.
pub static REAPING: Mutex<()> = Mutex::new(());

/// Reaps every child of this process that has ended, but for the guard: its end is its owner's to take.
pub fn reap_strangers(guard: i32) {
    let _turn = REAPING.lock().unwrap_or_else(PoisonError::into_inner);
    // Looked at first, taken only if it is a stranger. A guard that has ended is reaped at once by its owner, and what is
    // behind it by the next signal.
    while let Ok(Some(death)) = sys::look_at_death()
        && death.pid != guard
    {
        waitpid(Pid::from_raw(death.pid), Some(WaitPidFlag::WNOHANG)).ok();
    }
}
