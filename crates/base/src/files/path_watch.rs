//! Waiting until one of several paths changes, with inotify on exactly these paths.
//!
//! [`FileWatch`](super::watch::FileWatch) watches one name in a directory, and each write to a file of that directory
//! wakes it. In the directory of a run services write logs all the time, so this watch is on the files themselves.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use super::inotify::InotifyWatches;

/// Watch on files and directories.
pub struct PathWatch {
    inotify: AsyncFd<InotifyWatches>,
}

impl PathWatch {
    /// Starts a watch without paths.
    ///
    /// # Errors
    /// The user has reached the limit of inotify descriptors. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "the replacement is `unsafe` because a type may return a wrong descriptor; this type owns its descriptor"
        )]
        let inotify = AsyncFd::new(InotifyWatches::new()?)?;
        Ok(Self { inotify })
    }

    /// Adds an existing file: its content changes, a writer closes it (which the death of a writer does, too), or it is
    /// removed or replaced. A path that was added before may be added again.
    ///
    /// # Errors
    /// The file does not exist, or the user has reached the limit of watches.
    pub fn add_file(&mut self, path: &Path) -> io::Result<()> {
        let changes = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        Ok(self.inotify.get_mut().add(path, changes)?)
    }

    /// Adds a directory: files in it appear, but writes to them do not count.
    ///
    /// # Errors
    /// The directory does not exist, or the user has reached the limit of watches.
    pub fn add_directory(&mut self, path: &Path) -> io::Result<()> {
        let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF;
        Ok(self.inotify.get_mut().add(path, changes)?)
    }

    /// Waits until a path has changed since the watch on it began or since the last call.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().read() {
                Ok(events) if events.is_empty() => {}
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    async fn is_changed(watch: &mut PathWatch, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn only_the_added_paths_wake() {
        const LONG_TIMEOUT: Duration = Duration::from_secs(10);
        let directory = tempfile::tempdir().unwrap();
        let (wanted, other) = (directory.path().join("wanted"), directory.path().join("other"));
        fs::write(&wanted, "").unwrap();
        fs::write(&other, "").unwrap();
        let mut watch = PathWatch::new().unwrap();
        watch.add_file(&wanted).unwrap();
        watch.add_directory(directory.path()).unwrap();
        let append = |path: &Path| OpenOptions::new().append(true).open(path).unwrap();
        append(&other).write_all(b"x").unwrap();
        assert!(
            !is_changed(&mut watch, Duration::from_millis(20)).await,
            "another file's change was reported"
        );
        let mut file = append(&wanted);
        file.write_all(b"x").unwrap();
        assert!(is_changed(&mut watch, LONG_TIMEOUT).await);
        drop(file);
        assert!(
            is_changed(&mut watch, LONG_TIMEOUT).await,
            "a writer has closed the file"
        );
        fs::write(directory.path().join("new"), "").unwrap();
        assert!(is_changed(&mut watch, LONG_TIMEOUT).await);
        assert!(watch.add_file(&directory.path().join("missing")).is_err());
    }
}
