//! Waits for events of the kernel: the end of a process (a pidfd), changes of files (inotify).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Changes of a directory after which a condition about its files is evaluated again.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY);

/// Waits for the end of a child; returns `None` when it still runs after `timeout`.
pub fn exit(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    // A child that is not reaped keeps its pid.
    if let Some(status) = child.try_wait().expect("a child of the test") {
        return Some(status);
    }
    ends(child.id().cast_signed(), timeout);
    child.try_wait().expect("a child of the test")
}

/// Waits until a process has ended, reaped or not; returns whether that was before `timeout`.
pub fn ends(pid: i32, timeout: Duration) -> bool {
    any_ends(&[pid], timeout)
}

/// Waits until one of these processes has ended, reaped or not; returns whether that was before `timeout`.
pub fn any_ends(pids: &[i32], timeout: Duration) -> bool {
    let processes: Option<Vec<OwnedFd>> = pids.iter().map(|pid| process(*pid)).collect();
    // A process without a descriptor has ended and been reaped.
    processes.is_none_or(|processes| {
        let processes: Vec<BorrowedFd<'_>> = processes.iter().map(AsFd::as_fd).collect();
        is_any_readable(&processes, Instant::now() + timeout)
    })
}

/// Opens a process; `None` when there is none with this pid.
fn process(pid: i32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid).expect("a pid");
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Some(process),
        Err(rustix::io::Errno::SRCH) => None,
        Err(error) => panic!("could not open process {pid}: {error}"),
    }
}

/// Waits until one of these descriptors is readable; returns whether that was before the deadline.
fn is_any_readable(descriptors: &[BorrowedFd<'_>], deadline: Instant) -> bool {
    loop {
        let mut polled: Vec<PollFd<'_>> = descriptors
            .iter()
            .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN))
            .collect();
        // Rounded up: poll counts whole milliseconds.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() < deadline => {}
            Ok(number) => return number > 0,
            Err(Errno::EINTR) => {}
            Err(error) => panic!("could not poll: {error}"),
        }
    }
}

/// Watch on directories and, where one is given, on the end of a process.
pub struct Watch {
    inotify: Inotify,
    process: Option<OwnedFd>,
}

/// Reason why a condition was not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    ProcessEnded,
    TimedOut,
}

impl Watch {
    pub fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("an inotify descriptor");
        Self { inotify, process: None }
    }

    /// Starts a watch that also ends when this child of the test ends.
    pub fn with_child(child: &Child) -> Self {
        let process = process(child.id().cast_signed()).expect("a child that is not reaped");
        Self {
            process: Some(process),
            ..Self::new()
        }
    }

    /// Waits until `condition` returns a value. Evaluates it now, again after each change in one of the directories, and for
    /// the last time after the end of the process. Directories that do not exist yet are watched from the change in another
    /// one after which they exist: parents come first.
    ///
    /// # Errors
    /// The process has ended, or the time is over, and the condition has returned no value.
    pub fn until<T>(
        &self,
        timeout: Duration,
        directories: impl Fn() -> Vec<PathBuf>,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T, Unmet> {
        let deadline = Instant::now() + timeout;
        loop {
            // Watched before the condition is evaluated: a change in between wakes the poll below.
            for directory in directories() {
                self.inotify.add_watch(&directory, CHANGES).ok();
            }
            let process = self.process.as_ref().map(AsFd::as_fd);
            let has_ended = process.is_some_and(|process| is_any_readable(&[process], Instant::now()));
            if let Some(value) = condition() {
                return Ok(value);
            }
            if has_ended {
                return Err(Unmet::ProcessEnded);
            }
            let descriptors: Vec<BorrowedFd<'_>> =
                [Some(self.inotify.as_fd()), process].into_iter().flatten().collect();
            if !is_any_readable(&descriptors, deadline) {
                return Err(Unmet::TimedOut);
            }
            while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }
}

/// Waits until there is a file of this name.
///
/// # Panics
/// There is none before `timeout`, or its directory does not exist.
#[track_caller]
pub fn file(path: &Path, timeout: Duration) {
    let directory = path.parent().expect("a path with a directory");
    let found = Watch::new().until(timeout, || vec![directory.to_owned()], || path.exists().then_some(()));
    assert!(found.is_ok(), "not within {timeout:?}: {}", path.display());
}
