//! The guard as a child process of orch: start, first message, kill and wait.

use std::fs::OpenOptions;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::options::GuardFiles;
use crate::control_group::HeldGroup;
use crate::protocol::{GUARD_ARGUMENT, HelloMessage};
use orch_linux::spawn_in_group::spawn_into;
use orch_linux::sys;

/// The running program.
const PROGRAM: &str = "/proc/self/exe";

/// The guard's process: a child of orch until orch has reaped the process.
#[derive(Debug)]
pub struct GuardProcess {
    pid: Pid,
    waited: bool,
}

impl GuardProcess {
    /// Starts `/proc/self/exe guard` with one end of the socket as standard input, in the run's control group if there
    /// is one. Sets the group to `None` if no process can be started there.
    ///
    /// # Errors
    /// The kernel refuses to start a process.
    pub fn start(socket: UnixStream, group: &mut Option<HeldGroup>) -> io::Result<Self> {
        if let Some(made) = group.take() {
            match spawn_in_cgroup(&made, &socket) {
                Ok(pid) => {
                    *group = Some(made);
                    return Ok(Self::of(pid));
                }
                Err(error) => {
                    tracing::debug!(%error, group = %made.group().path().display(), "could not start the guard in the control group");
                    made.remove();
                }
            }
        }
        let pid = spawn_plain(socket)?;
        Ok(Self::of(pid))
    }

    fn of(pid: i32) -> Self {
        Self {
            pid: Pid::from_raw(pid),
            waited: false,
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Kills the guard, unless the guard was reaped: then the pid may belong to another process.
    pub fn kill(&self) {
        if !self.waited {
            kill(self.pid, Signal::SIGKILL).ok();
        }
    }

    /// Waits for the end of the guard.
    pub fn wait(&mut self) {
        while !self.waited && waitpid(self.pid, None) == Err(Errno::EINTR) {}
        self.waited = true;
    }
}

/// Starts the guard with the standard library, in the control group of this process.
#[expect(clippy::disallowed_methods, reason = "the one process that orch spawns: its guard")]
fn spawn_plain(socket: UnixStream) -> io::Result<i32> {
    let mut command = Command::new(PROGRAM);
    command
        .arg(GUARD_ARGUMENT)
        // The guard needs none of the caller's variables, and the order of a service contains the service's variables.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::start_in_new_session(&mut command);
    Ok(command.spawn()?.id().cast_signed())
}

/// Starts the guard in a control group. The standard library cannot do that, and a later move of the process would take
/// tens of milliseconds.
fn spawn_in_cgroup(group: &HeldGroup, socket: &UnixStream) -> io::Result<i32> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    spawn_into(
        group.as_fd(),
        &[PROGRAM, GUARD_ARGUMENT],
        [socket.as_fd(), null.as_fd(), null.as_fd()],
    )
}

/// Sends the first line, together with the descriptors of the log and of the locks.
///
/// # Errors
/// The log cannot be opened, or the guard is gone.
pub fn greet(socket: &UnixStream, run_id: &str, files: &GuardFiles, group: Option<&HeldGroup>) -> io::Result<()> {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&files.log)
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("could not open its log {}: {error}", files.log.display()),
            )
        })?;
    let hello = HelloMessage {
        run_id: run_id.to_owned(),
        state_dir: files.state_dir.clone(),
        group: group.map(|group| group.group().path().to_owned()),
        has_log: true,
    };
    let mut line = serde_json::to_vec(&hello)?;
    line.push(b'\n');
    let locks = files.lock.iter().map(AsRawFd::as_raw_fd);
    let descriptors: Vec<RawFd> = std::iter::once(log.as_raw_fd()).chain(locks).collect();
    let sent = sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(&line)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )?;
    let mut socket = socket;
    socket.write_all(line.get(sent..).unwrap_or_default())
}
