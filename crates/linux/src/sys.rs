//! Raw system calls behind safe functions: subreaper, signals, ends of children.
//!
//! Not here: the starts of processes ([`prepared_process`](crate::prepared_process),
//! [`spawn_in_group`](crate::spawn_in_group)), which need unsafe code as well.
#![expect(unsafe_code, reason = "system calls that the libraries offer no safe form of")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

use crate::exit::ProcessExit;

/// Makes this process the subreaper of all descendants: orphans among them become its children.
///
/// # Errors
/// The kernel does not know the option (before 3.4).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one integer and touches no memory of this process.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Takes ownership of a descriptor that the kernel has received with a message.
pub fn own_descriptor(received: RawFd) -> OwnedFd {
    // SAFETY: the kernel opened the descriptor for this process in recvmsg, and the caller passes each one exactly
    // once.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Resets the signals that the caller ignores: with an ignored SIGCHLD the kernel would reap the children without a
/// report.
pub fn reset_signals() {
    // SIGPIPE stays ignored, as set by Rust's runtime: a write to a closed socket then returns an error.
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: SIG_DFL runs no code of this process; the calls for SIGKILL and SIGSTOP fail, as they should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // A write beyond the file size limit returns an error, too. Each service gets the default action back.
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Sends a signal. Real-time signals work too, which the library's typed form does not know.
///
/// # Errors
/// There is no such process, the process may not be signalled, or there is no such signal.
pub fn signal_process(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        // Such numbers name process groups, or all processes.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: kill takes two integers and touches no memory of this process.
    check(unsafe { libc::kill(pid, signal) })
}

/// The end of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedChild {
    pub pid: i32,
    pub ended: ProcessExit,
}

/// Returns one child that has ended, without a reap.
///
/// # Errors
/// There is no child (ECHILD), or the call was interrupted.
pub fn peek_ended_child() -> io::Result<Option<EndedChild>> {
    wait_for_any_child(libc::WNOWAIT)
}

/// Reaps one child that has ended.
///
/// # Errors
/// The errors of [`peek_ended_child`].
pub fn reap_child() -> io::Result<Option<EndedChild>> {
    wait_for_any_child(0)
}

/// Returns one child that has ended. Includes ends by real-time signals, which the library's typed form cannot
/// represent.
fn wait_for_any_child(options: libc::c_int) -> io::Result<Option<EndedChild>> {
    // SAFETY: siginfo_t is plain data, for which all zeroes is a valid value; waitid writes to `info` alone, and the
    // fields read below are those that waitid fills in for a child's end.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check(libc::waitid(
            libc::P_ALL,
            0,
            &raw mut info,
            libc::WEXITED | libc::WNOHANG | options,
        ))?;
        let (pid, status) = (info.si_pid(), info.si_status());
        if pid == 0 {
            return Ok(None);
        }
        let ended = match info.si_code {
            libc::CLD_EXITED => ProcessExit::Code(status),
            code => ProcessExit::Signal {
                signal: status,
                core_dumped: code == libc::CLD_DUMPED,
            },
        };
        Ok(Some(EndedChild { pid, ended }))
    }
}

/// Returns true if this process has any child, zombies included, according to the kernel.
pub fn has_children() -> bool {
    !matches!(peek_ended_child(), Err(error) if error.raw_os_error() == Some(libc::ECHILD))
}

/// Converts the result of a call to an error.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Starts the guard in a new session, so that a Ctrl+C of the terminal never reaches it.
pub fn start_in_new_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe { command.pre_exec(|| check(libc::setsid())) };
}
