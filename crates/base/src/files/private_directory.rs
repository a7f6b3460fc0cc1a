//! A directory of this user, closed to other users, for lock files that every orch of the user must see wherever its
//! state directory is: reserved ports, and owners of state directories that may have been removed.
//!
//! A file in this directory is valid while locked. The next orch removes unlocked files.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::libc::O_NOFOLLOW;

use super::regular;

/// Directories in which every user may create entries and nobody may remove another user's, best first: `/dev/shm` is
/// in memory and so is emptied by a reboot.
const SHARED_DIRECTORIES: [&str; 2] = ["/dev/shm", "/tmp"];

/// Returns the path of the directory; `None` if another user has created one of this name or no directory can be
/// created.
pub fn path() -> Option<&'static Path> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIRECTORY.get_or_init(create).as_deref()
}

fn create() -> Option<PathBuf> {
    let me = nix::unistd::geteuid().as_raw();
    let found = SHARED_DIRECTORIES.iter().find_map(|parent| {
        let path = Path::new(parent).join(format!("orch-{me}"));
        DirBuilder::new().mode(0o700).create(&path).ok();
        // Any process may have created the directory: orch uses a directory that belongs to this user and is closed to
        // others.
        let metadata = fs::symlink_metadata(&path).ok()?;
        (metadata.is_dir() && metadata.uid() == me && metadata.mode() & 0o077 == 0).then_some(path)
    });
    if let Some(directory) = &found {
        remove_unlocked(directory);
    }
    found
}

/// Removes the files that dead processes have left.
fn remove_unlocked(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Ok(Some(_lock)) = try_lock(&path, false) {
            fs::remove_file(&path).ok();
        }
    }
}

/// Opens and locks a file; returns `None` when another process holds the lock. Dropping the file releases the lock.
///
/// # Errors
/// The file cannot be opened or locked.
pub fn try_lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    loop {
        let mut options = OpenOptions::new();
        options.write(true).create(create).truncate(false).mode(0o600);
        let file = regular::open_with(&mut options, O_NOFOLLOW, path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file.metadata()?, path) => return Ok(Some(file)),
            // The file was removed between the open and the lock.
            Ok(()) if create => {}
            Ok(()) => return Err(io::ErrorKind::NotFound.into()),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Decides whether `path` names the file with these metadata.
pub fn is_at(file: &Metadata, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_locked_files_stay() {
        let directory = path().expect("a private directory");
        assert_eq!(fs::metadata(directory).unwrap().mode() & 0o777, 0o700);
        let own = tempfile::tempdir().unwrap();
        let (used, left) = (own.path().join("used"), own.path().join("left"));
        let lock = try_lock(&used, true).unwrap().unwrap();
        drop(try_lock(&left, true).unwrap().unwrap());
        // A program that another test is starting inherits the closed file until its exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while left.exists() {
            assert!(std::time::Instant::now() < deadline, "an unlocked file is removed");
            remove_unlocked(own.path());
        }
        assert!(used.exists());
        assert!(try_lock(&used, false).unwrap().is_none(), "the file is locked");
        assert!(try_lock(&left, false).is_err(), "no file is created");
        drop(lock);
    }
}
