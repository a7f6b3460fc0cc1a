//! Waiting for a file to appear or change, by inotify on its directory.
//!
//! The directory and not the file is watched: files are replaced by renaming, and may not exist yet.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use crate::inotify::Watches;

/// A watch on one file name in one directory.
pub struct FileWatch {
    inotify: AsyncFd<Watches>,
    name: OsString,
}

impl FileWatch {
    /// Begins to watch; look at the file **after** this, or a change in between is lost.
    ///
    /// # Errors
    /// The directory does not exist or cannot be watched (limits of the user). Needs a tokio runtime.
    pub fn new(path: &Path) -> io::Result<Self> {
        Self::begin(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB)
    }

    /// The same for a file that is not kept open by who writes it: in a directory where others write all the time, those
    /// wake nobody.
    pub fn of_closed_file(path: &Path) -> io::Result<Self> {
        Self::begin(path, AddWatchFlags::empty())
    }

    fn begin(path: &Path, further: AddWatchFlags) -> io::Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"))?
            .to_owned();
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut watches = Watches::new()?;
        let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        watches.add(directory, changes | further)?;
        #[expect(
            deprecated,
            reason = "the successor is `unsafe` for types that lie about their descriptor; this one owns it"
        )]
        let inotify = AsyncFd::new(watches)?;
        Ok(Self { inotify, name })
    }

    /// Waits until something has happened to the file since the watch began or since the last call.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().read() {
                Ok(events) => {
                    // An event without a name, or a lost one, may concern the file: look again.
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
