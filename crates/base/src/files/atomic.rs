//! Atomic replacement of files: write a temporary file in the same directory, sync the file, rename the file, sync the
//! rename.
//!
//! A crash leaves either the old file or the new one, and at worst a temporary file, which [`writer_of`] recognises by
//! its name. Appended files (journals, records, logs) and lock files, which are written in place, do not use this
//! module.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Separator between the file's name and the writer's pid in the name of a temporary file.
const MARK: &str = ".being-written-by-";

/// Creates or replaces `path` with these contents, readable only by the owner.
///
/// # Errors
/// The disk is full or failing, or the directory does not exist. `path` keeps the old contents; only when the last sync
/// fails does it already have the new ones.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    rename_over(path, contents, File::sync_all)?;
    // Without this sync a crash of the machine, but not a crash of orch, may bring the old file back.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Replaces the file like [`replace`], without the sync of the rename: after a crash of the machine there may be the
/// old file or no file.
///
/// # Errors
/// See [`replace`].
pub fn replace_with_late_rename(path: &Path, contents: &[u8]) -> io::Result<()> {
    rename_over(path, contents, File::sync_all)
}

/// Replaces the file like [`replace`], without any sync, because a sync takes milliseconds: a crash of the machine, but
/// not a crash of orch, may leave no file or an empty one.
///
/// # Errors
/// See [`replace`].
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

/// Returns the pid of the writer if `name` is the name of a temporary file, in use or left by a writer that died.
pub fn writer_of(name: &str) -> Option<i32> {
    let (_, pid) = name.rsplit_once(MARK)?;
    pid.parse().ok()
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} has no file name", path.display()),
        )
    })?;
    let mut temporary = name.to_owned();
    temporary.push(format!("{MARK}{}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write(temporary: &Path, contents: &[u8]) -> io::Result<File> {
    // A dead process with the same pid may have left a file of this name; remove it, never write through it.
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
    fn the_new_file_is_complete_and_private_and_no_other_file_is_left() {
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
    fn a_symbolic_link_is_replaced_and_its_target_stays() {
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
    fn a_failed_replacement_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert!(replace(Path::new("/"), b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn temporary_names_are_recognised() {
        let name = temporary(Path::new("/x/instance.json")).unwrap();
        let writer = writer_of(name.file_name().unwrap().to_str().unwrap());
        assert_eq!(writer, Some(std::process::id().cast_signed()));
        assert_eq!(
            (writer_of("instance.json"), writer_of("a.being-written-by-x")),
            (None, None)
        );
    }
}
