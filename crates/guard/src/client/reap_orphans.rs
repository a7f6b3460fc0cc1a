//! Orphans of other programs: orch as PID 1 of a container adopts every orphan, and must reap the orphans.

use std::sync::{Mutex, PoisonError};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use orch_linux::sys;

/// Lock for reaping children and for signalling children by pid: a pid belongs to a child only until the child is
/// reaped.
pub static REAP_LOCK: Mutex<()> = Mutex::new(());

/// Reaps every child of this process that has ended, except the guard, which is reaped by its owner.
pub fn reap_orphans(guard: i32) {
    let _turn = REAP_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // Each child is looked at first, and reaped only if the child is not the guard. An ended guard is soon reaped by
    // the owner; the children after it are reaped at the next signal.
    while let Ok(Some(death)) = sys::peek_ended_child()
        && death.pid != guard
    {
        waitpid(Pid::from_raw(death.pid), Some(WaitPidFlag::WNOHANG)).ok();
    }
}
