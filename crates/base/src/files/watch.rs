//! Waiting until a file appears or changes, with inotify on the directory.
//!
//! The directory is watched and not the file, because files are replaced by renaming and may not exist yet.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use super::inotify::InotifyWatches;

/// Watch on one file name in one directory.
pub struct FileWatch {
    inotify: AsyncFd<InotifyWatches>,
    name: OsString,
}

impl FileWatch {
    /// Starts to watch. Read the file **after** this call, or a change in between is lost.
    ///
    /// # Errors
    /// The directory does not exist or cannot be watched (limits of the user). Needs a tokio runtime.
    pub fn new(path: &Path) -> io::Result<Self> {
        Self::begin(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB)
    }

    /// Starts to watch a file that its writer closes after each change. In a directory where other files are written
    /// all the time, those writes wake nobody.
    pub fn of_closed_file(path: &Path) -> io::Result<Self> {
        Self::begin(path, AddWatchFlags::empty())
    }

    fn begin(path: &Path, further: AddWatchFlags) -> io::Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?
            .to_owned();
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut watches = InotifyWatches::new()?;
        let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        watches.add(directory, changes | further)?;
        #[expect(
            deprecated,
            reason = "the replacement is `unsafe` because a type may return a wrong descriptor; this type owns its descriptor"
        )]
        let inotify = AsyncFd::new(watches)?;
        Ok(Self { inotify, name })
    }

    /// Waits until the file has changed since the watch began or since the last call.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().read() {
                Ok(events) => {
                    // An event without a name (such as a queue overflow) may concern the file: the caller reads the
                    // file again.
                    if events
                        .iter()
                        .any(|event| event.name.as_ref().is_none_or(|name| *name == self.name))
                    {
                        return Ok(());
                    }
                }
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn sees_creation_and_replacement_of_its_file_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.json");
        let mut watch = FileWatch::new(&path).unwrap();
        std::fs::write(directory.path().join("other"), "x").unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
        assert!(nothing.is_err(), "another file's change was reported");
        std::fs::write(directory.path().join("temporary"), "x").unwrap();
        std::fs::rename(directory.path().join("temporary"), &path).unwrap();
        tokio::time::timeout(Duration::from_secs(5), watch.changed())
            .await
            .unwrap()
            .unwrap();
    }
}
