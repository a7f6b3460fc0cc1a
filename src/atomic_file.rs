//! Files that are replaced whole or not at all: a temporary file beside it, synced, renamed, and the rename synced.
//!
//! A crash leaves the old file or the new one, and at worst a temporary file, which [`writer_of`] knows by its name.
//! Not here: what is appended to (journals, records, logs), and the lock files, which are written in place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Between a file's name and the pid of the writer in a temporary file's name.
const MARK: &str = ".being-written-by-";

/// Replaces `path`, or makes it, with these contents, readable by its owner alone.
///
/// # Errors
/// The disk is full or failing, or the directory is not there; `path` is as it was, or already the new one if only the
/// last sync has failed.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    rename_over(path, contents, File::sync_all)?;
    // Without this a crash of the machine may bring the old file back; one of orch cannot.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Replaces the file as [`replace`] does, without the sync of the rename: a crash of the machine may bring the old file back, or none.
///
/// # Errors
/// As [`replace`].
pub fn replace_with_late_rename(path: &Path, contents: &[u8]) -> io::Result<()> {
    rename_over(path, contents, File::sync_all)
}

/// The same without any sync, which takes milliseconds: a crash of the machine, unlike one of orch, may leave no file or an
/// empty one.
///
/// # Errors
/// As [`replace`].
pub fn replace_unsynced(path: &Path, contents: &[u8]) -> io::Result<()> {
    rename_over(path, contents, |_| Ok(()))
}

fn rename_over(path: &Path, contents: &[u8], sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = write(&temporary, contents)
        .and_then(|file| sync(&file))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    Ok(())
}

/// The pid of the writer, if this is the name of a file that is being written, or that a writer which died has left.
pub fn writer_of(name: &str) -> Option<i32> {
    let (_, pid) = name.rsplit_once(MARK)?;
    pid.parse().ok()
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())))?;
    let mut temporary = name.to_owned();
    temporary.push(format!("{MARK}{}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write(temporary: &Path, contents: &[u8]) -> io::Result<File> {
    // A leftover of a dead process that had our pid; whatever it is, it is not written through.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(contents)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_new_one_is_whole_private_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        for text in ["first", "second, longer", "3"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("a"), directory.path().join("target"));
        fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        std::os::unix::fs::symlink(&target, temporary(&path).unwrap()).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
        assert!(!path.is_symlink());
    }

    #[test]
    fn what_cannot_be_replaced_stays_and_nothing_is_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert!(replace(Path::new("/"), b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn temporary_names_are_known() {
        let name = temporary(Path::new("/x/instance.json")).unwrap();
        let writer = writer_of(name.file_name().unwrap().to_str().unwrap());
        assert_eq!(writer, Some(std::process::id().cast_signed()));
        assert_eq!(
            (writer_of("instance.json"), writer_of("a.being-written-by-x")),
            (None, None)
        );
    }
}
