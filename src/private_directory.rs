//! A directory of this user for locked files that several orch must see wherever their state directories are: reserved
//! ports, and who holds a state directory that may have been removed. Nobody else can look into it.
//!
//! A file in it is true while it is locked. The next orch removes those that are not.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::libc::O_NOFOLLOW;

use crate::regular_file;

/// Where everybody may make a directory and nobody another's away, the best first: what is in memory ends with the machine.
const SHARED_DIRECTORIES: [&str; 2] = ["/dev/shm", "/tmp"];

/// Its path; `None` where another user was first to make one of this name, or no directory can be made.
pub fn path() -> Option<&'static Path> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIRECTORY.get_or_init(make).as_deref()
}

fn make() -> Option<PathBuf> {
    let me = nix::unistd::geteuid().as_raw();
    let found = SHARED_DIRECTORIES.iter().find_map(|parent| {
        let path = Path::new(parent).join(format!("orch-{me}"));
        DirBuilder::new().mode(0o700).create(&path).ok();
        // Whoever made it first: it is used if it is ours and closed to others.
        let metadata = fs::symlink_metadata(&path).ok()?;
        (metadata.is_dir() && metadata.uid() == me && metadata.mode() & 0o077 == 0).then_some(path)
    });
    if let Some(directory) = &found {
        remove_unlocked(directory);
    }
    found
}

/// Removes what dead processes have left.
fn remove_unlocked(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Ok(Some(_lock)) = try_lock(&path, false) {
            fs::remove_file(&path).ok();
        }
    }
}

/// The locked file; `None` when another process holds it. Locked until it is dropped.
///
/// # Errors
/// It cannot be opened or locked.
pub fn try_lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    loop {
        let mut options = OpenOptions::new();
        options.write(true).create(create).truncate(false).mode(0o600);
        let file = regular_file::open_with(&mut options, O_NOFOLLOW, path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file.metadata()?, path) => return Ok(Some(file)),
            // It was removed between our open and our lock.
            Ok(()) if create => {}
            Ok(()) => return Err(io::ErrorKind::NotFound.into()),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether this path names the file of these metadata.
pub fn is_at(file: &Metadata, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_what_is_in_use_stays() {
        let directory = path().expect("a private directory");
        assert_eq!(fs::metadata(directory).unwrap().mode() & 0o777, 0o700);
        let own = tempfile::tempdir().unwrap();
        let (used, left) = (own.path().join("used"), own.path().join("left"));
        let lock = try_lock(&used, true).unwrap().unwrap();
        drop(try_lock(&left, true).unwrap().unwrap());
        // A program that another test starts just now has what we have closed until its exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while left.exists() {
            assert!(std::time::Instant::now() < deadline, "what nobody holds is removed");
            remove_unlocked(own.path());
        }
        assert!(used.exists());
        assert!(try_lock(&used, false).unwrap().is_none(), "it is held");
        assert!(try_lock(&left, false).is_err(), "it is not made");
        drop(lock);
    }
}
