//! A descriptor of inotify whose end holds up nobody.
//!
//! The kernel closes such a descriptor only when all of its processors are known to have let go of what was watched, which
//! takes 5 to 20 ms; where that was ended some milliseconds before, the close takes none. So the end of a descriptor ends
//! its watches at once, and its close is left to a later one, or to the end of the process.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::Result;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// A close takes no time when the watches have been ended for so long.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Descriptors without a watch that are not closed yet, and since when.
static ENDED: Mutex<Vec<(Instant, Inotify)>> = Mutex::new(Vec::new());

/// Watches on directories; not blocking, closed by an execution.
pub struct Watches {
    /// Moved to [`ENDED`] by the drop.
    inotify: Option<Inotify>,
    watches: Vec<WatchDescriptor>,
}

impl Watches {
    /// Opens a descriptor without a watch.
    ///
    /// # Errors
    /// The user has as many as is allowed.
    pub fn new() -> Result<Self> {
        close_the_settled(Instant::now());
        let init = || Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = init().or_else(|error| match error {
            // Those that are not closed yet count.
            Errno::EMFILE => {
                ended().clear();
                init()
            }
            error => Err(error),
        })?;
        Ok(Self {
            inotify: Some(inotify),
            watches: Vec::new(),
        })
    }

    /// Begins to watch a directory.
    ///
    /// # Errors
    /// It does not exist, or the user has as many watches as is allowed.
    pub fn add(&mut self, directory: &Path, changes: AddWatchFlags) -> Result<()> {
        let watch = self.open()?.add_watch(directory, changes)?;
        self.watches.push(watch);
        Ok(())
    }

    /// Reads what has happened; `EAGAIN` where nothing has.
    ///
    /// # Errors
    /// See above.
    pub fn read(&self) -> Result<Vec<InotifyEvent>> {
        self.open()?.read_events()
    }

    /// The descriptor, which is there until the drop.
    fn open(&self) -> Result<&Inotify> {
        self.inotify.as_ref().ok_or(Errno::EBADF)
    }
}

/// `AsyncFd` wants it.
impl AsRawFd for Watches {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_ref().map_or(-1, |inotify| inotify.as_fd().as_raw_fd())
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        let Some(inotify) = self.inotify.take() else { return };
        for watch in &self.watches {
            // Fails where it is gone already: its directory was removed, or was added twice.
            inotify.rm_watch(*watch).ok();
        }
        let now = Instant::now();
        close_the_settled(now);
        ended().push((now, inotify));
    }
}

fn ended() -> MutexGuard<'static, Vec<(Instant, Inotify)>> {
    ENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close_the_settled(now: Instant) {
    ended().retain(|(since, _)| now.saturating_duration_since(*since) < SETTLED_AFTER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_closed_once_its_watches_have_been_ended_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let mut watches = Watches::new().unwrap();
        watches.add(directory.path(), AddWatchFlags::IN_CREATE).unwrap();
        let descriptor = watches.as_raw_fd();
        let is_listed = || {
            ended()
                .iter()
                .any(|(_, inotify)| inotify.as_fd().as_raw_fd() == descriptor)
        };
        drop(watches);
        assert!(is_listed(), "it is not closed at once");
        std::fs::write(directory.path().join("new"), "").unwrap();
        close_the_settled(Instant::now() + SETTLED_AFTER);
        assert!(!is_listed());
    }
}
