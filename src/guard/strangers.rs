//! Orphans of others: as PID 1 of a container, orch is re-parented whatever loses its parent there, and must reap it.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};

/// Reaps every child of this process that has ended, but for the guard: its end is its owner's to take.
pub fn reap_strangers(guard: i32) {
    loop {
        // WNOWAIT: looked at first, taken only if it is a stranger.
        match waitid(
            Id::All,
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
        ) {
            Ok(WaitStatus::StillAlive) => return,
            Ok(status) => match status.pid() {
                Some(pid) if pid.as_raw() != guard => {
                    waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok();
                }
                // A guard that has ended is reaped at once, and what is behind it by the next signal.
                Some(_) | None => return,
            },
            Err(Errno::EINTR) => {}
            Err(_none_left) => return,
        }
    }
}
