//! An inotify descriptor that is closed without blocking the caller.
//!
//! The kernel closes such a descriptor only after all processors have released the removed watches, which takes 5 to 20
//! ms; if the watches were removed some milliseconds earlier, the close returns at once. Therefore the drop of a
//! descriptor removes its watches at once, and a later drop, or the end of the process, closes it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::Result;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Delay after which a close returns at once because the watches were removed this long ago.
const CLOSE_DELAY: Duration = Duration::from_millis(200);

/// Descriptors without watches that are not closed yet, each with the time of the drop.
static DROPPED: Mutex<Vec<(Instant, Inotify)>> = Mutex::new(Vec::new());

/// Watches on directories. The descriptor is non-blocking and close-on-exec.
pub struct InotifyWatches {
    /// Moved to [`DROPPED`] by the drop.
    inotify: Option<Inotify>,
    watches: Vec<WatchDescriptor>,
}

impl InotifyWatches {
    /// Opens a descriptor without watches.
    ///
    /// # Errors
    /// The user has reached the limit of inotify descriptors.
    pub fn new() -> Result<Self> {
        close_old(Instant::now());
        let init = || Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = init().or_else(|error| match error {
            // Descriptors that are not closed yet count towards the limit.
            Errno::EMFILE => {
                dropped().clear();
                init()
            }
            error => Err(error),
        })?;
        Ok(Self {
            inotify: Some(inotify),
            watches: Vec::new(),
        })
    }

    /// Starts to watch a directory.
    ///
    /// # Errors
    /// The directory does not exist, or the user has reached the limit of watches.
    pub fn add(&mut self, directory: &Path, changes: AddWatchFlags) -> Result<()> {
        let watch = self.open()?.add_watch(directory, changes)?;
        // The kernel answers with the same watch if the path is watched already.
        if !self.watches.contains(&watch) {
            self.watches.push(watch);
        }
        Ok(())
    }

    /// Watches a file until the first of these changes; returns the number that its event has.
    ///
    /// # Errors
    /// The file does not exist, or the user has reached the limit of watches.
    pub fn add_once(&self, file: &Path, changes: AddWatchFlags) -> Result<WatchDescriptor> {
        self.open()?.add_watch(file, changes | AddWatchFlags::IN_ONESHOT)
    }

    /// Removes a watch that [`InotifyWatches::add_once`] has returned and that has not reported a change.
    pub fn remove(&self, watch: WatchDescriptor) {
        if let Ok(inotify) = self.open() {
            // Fails if the kernel has removed the watch already.
            inotify.rm_watch(watch).ok();
        }
    }

    /// Returns the descriptor, for `poll`.
    ///
    /// # Errors
    /// Never before the drop.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.open()?.as_fd())
    }

    /// Reads the pending events.
    ///
    /// # Errors
    /// `EAGAIN` when there are none, or the descriptor cannot be read.
    pub fn read(&self) -> Result<Vec<InotifyEvent>> {
        self.open()?.read_events()
    }

    /// Returns the descriptor, which exists until the drop.
    fn open(&self) -> Result<&Inotify> {
        self.inotify.as_ref().ok_or(Errno::EBADF)
    }
}

/// Lets [`InotifyWatches`] be used in an `AsyncFd`.
impl AsRawFd for InotifyWatches {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_ref().map_or(-1, |inotify| inotify.as_fd().as_raw_fd())
    }
}

impl Drop for InotifyWatches {
    fn drop(&mut self) {
        let Some(inotify) = self.inotify.take() else { return };
        for watch in &self.watches {
            // Fails if the kernel has removed the watch already: the directory was removed or was added twice.
            inotify.rm_watch(*watch).ok();
        }
        let now = Instant::now();
        close_old(now);
        dropped().push((now, inotify));
    }
}

fn dropped() -> MutexGuard<'static, Vec<(Instant, Inotify)>> {
    DROPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close_old(now: Instant) {
    dropped().retain(|(since, _)| now.saturating_duration_since(*since) < CLOSE_DELAY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_closed_some_time_after_its_watches_were_removed() {
        let directory = tempfile::tempdir().unwrap();
        let mut watches = InotifyWatches::new().unwrap();
        watches.add(directory.path(), AddWatchFlags::IN_CREATE).unwrap();
        let descriptor = watches.as_raw_fd();
        let is_listed = || {
            dropped()
                .iter()
                .any(|(_, inotify)| inotify.as_fd().as_raw_fd() == descriptor)
        };
        drop(watches);
        assert!(is_listed(), "the descriptor is not closed at once");
        std::fs::write(directory.path().join("new"), "").unwrap();
        close_old(Instant::now() + CLOSE_DELAY);
        assert!(!is_listed());
    }
}
