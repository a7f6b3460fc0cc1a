//! The guard as a child of orch: how it is started, greeted, killed and waited for.

use std::fs::{File, OpenOptions};
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

use super::cgroup::HeldGroup;
use super::{GUARD_ARGUMENT, GuardOptions, Hello, sys};

/// The running program.
const PROGRAM: &str = "/proc/self/exe";

/// The guard's process: ours until it is waited for.
#[derive(Debug)]
pub struct GuardProcess {
    pid: Pid,
    waited: bool,
}

impl GuardProcess {
    /// Starts `/proc/self/exe guard`, its end of the socket as standard input, in the run's control group if there is one.
    /// The group is given back as `None` if nothing can be born in it.
    ///
    /// # Errors
    /// Its log cannot be opened, or the kernel refuses.
    pub fn start(options: &GuardOptions, socket: UnixStream, group: &mut Option<HeldGroup>) -> io::Result<Self> {
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&options.log)
            .map_err(|error| {
                io::Error::new(error.kind(), format!("open its log {}: {error}", options.log.display()))
            })?;
        if let Some(made) = group.take() {
            match born_in(&made, &socket, &log) {
                Ok(pid) => {
                    *group = Some(made);
                    return Ok(Self::of(pid));
                }
                Err(error) => {
                    tracing::debug!(%error, group = %made.group().path().display(), "no process can be born in it");
                    made.remove();
                }
            }
        }
        let pid = born_beside(socket, log)?;
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

    /// Kills it, unless it has been waited for and the pid may be another's.
    pub fn kill(&self) {
        if !self.waited {
            kill(self.pid, Signal::SIGKILL).ok();
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        while !self.waited && waitpid(self.pid, None) == Err(Errno::EINTR) {}
        self.waited = true;
    }
}

/// By the library, into the group of this process.
#[expect(clippy::disallowed_methods, reason = "the one process that orch spawns: its guard")]
fn born_beside(socket: UnixStream, log: File) -> io::Result<i32> {
    let mut command = Command::new(PROGRAM);
    command
        .arg(GUARD_ARGUMENT)
        // None of the caller's variables is the guard's business, and its services are told theirs.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(log);
    sys::in_own_session(&mut command);
    Ok(command.spawn()?.id().cast_signed())
}

/// Into a group, which the library does not offer: moving a process there later would cost it tens of milliseconds.
fn born_in(group: &HeldGroup, socket: &UnixStream, log: &File) -> io::Result<i32> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    sys::spawn_into(
        group.as_fd(),
        &[PROGRAM, GUARD_ARGUMENT],
        [socket.as_fd(), null.as_fd(), log.as_fd()],
    )
}

/// The first line, with the lock's descriptors beside it.
///
/// # Errors
/// The guard is gone.
pub fn greet(socket: &UnixStream, options: &GuardOptions, group: Option<&HeldGroup>) -> io::Result<()> {
    let hello = Hello {
        run_id: options.run_id.clone(),
        state_dir: options.state_dir.clone(),
        group: group.map(|group| group.group().path().to_owned()),
    };
    let mut line = serde_json::to_vec(&hello)?;
    line.push(b'\n');
    let descriptors: Vec<RawFd> = options.lock.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(&line)],
        control,
        MsgFlags::empty(),
        None,
    )?;
    let mut socket = socket;
    socket.write_all(line.get(sent..).unwrap_or_default())
}
