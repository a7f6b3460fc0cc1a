//! The end of one process, identified by pid and start time. A pidfd holds the process during the check of the
//! identity, so a reused pid cannot lead to the end of an unrelated process.

use std::io;

use orch_base::system::processes;
use orch_base::system::processes::Process;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Sends SIGKILL to the process with this pid and start time. Returns false if the process has ended; the pid may be
/// reused.
///
/// # Errors
/// The process is alive and cannot be signalled, or the process cannot be looked up.
pub fn kill_exactly(pid: i32, start_time: u64) -> io::Result<bool> {
    let held = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(held)) => held,
        None | Some(Err(Errno::SRCH)) => return Ok(false),
        Some(Err(error)) => return Err(error.into()),
    };
    // From here on the pid may be reused, but the pidfd still refers to the same process.
    let same = |process: Process| process.start_time == start_time && !process.zombie;
    if !processes::look_up(pid)?.is_some_and(same) {
        return Ok(false);
    }
    match pidfd_send_signal(&held, Signal::KILL) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
