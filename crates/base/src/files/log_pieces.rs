//! Pieces of a log: `NAME.log.1` is the newest former head of `NAME.log`, `NAME.log.2` the one before, and so on.
//!
//! The oldest piece, ..., `NAME.log.1` and `NAME.log`, one after the other, are exactly the bytes that the writers have
//! written since the head of the oldest piece. A line at a border may begin in one file and end in the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Largest number of pieces of a log.
pub const MAX_PIECES: u32 = 1000;

/// Returns the path of a piece, 1 for the newest.
pub fn path(log: &Path, number: u32) -> PathBuf {
    with_suffix(log, &number.to_string())
}

/// Returns the path of a piece that is not complete.
pub(super) fn incomplete_path(log: &Path) -> PathBuf {
    with_suffix(log, "part")
}

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Lists the pieces of a log with their sizes, the newest first.
pub fn list(log: &Path) -> Vec<(PathBuf, u64)> {
    let piece = |number| {
        let path = path(log, number);
        let metadata = fs::symlink_metadata(&path).ok()?;
        metadata.is_file().then_some((path, metadata.len()))
    };
    (1..=MAX_PIECES).map_while(piece).collect()
}

/// Makes a complete piece the newest one.
///
/// # Errors
/// A piece cannot be renamed.
pub(super) fn push(log: &Path, complete: &Path) -> io::Result<()> {
    let count = list(log).len() as u32;
    for number in (1..=count).rev() {
        fs::rename(path(log, number), path(log, number + 1))?;
    }
    fs::rename(complete, path(log, 1))
}

/// Removes the newest piece, of which the head could not be cut off the live file.
pub(super) fn pop(log: &Path) -> io::Result<()> {
    let count = list(log).len() as u32;
    fs::remove_file(path(log, 1))?;
    (2..=count).try_for_each(|number| fs::rename(path(log, number), path(log, number - 1)))
}

/// Removes the oldest piece.
///
/// # Errors
/// The piece cannot be removed.
pub fn remove_oldest(log: &Path) -> io::Result<()> {
    match list(log).pop() {
        Some((oldest, _)) => fs::remove_file(oldest),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_move_up_and_the_oldest_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("web.log");
        for text in ["a", "bb", "ccc"] {
            let part = incomplete_path(&log);
            fs::write(&part, text).unwrap();
            push(&log, &part).unwrap();
        }
        let sizes = |log: &Path| list(log).into_iter().map(|(_, size)| size).collect::<Vec<_>>();
        assert_eq!(sizes(&log), [3, 2, 1]);
        remove_oldest(&log).unwrap();
        assert_eq!(sizes(&log), [3, 2]);
        pop(&log).unwrap();
        assert_eq!(sizes(&log), [2]);
        assert_eq!(fs::read_to_string(path(&log, 1)).unwrap(), "bb");
        remove_oldest(&log).unwrap();
        remove_oldest(&log).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
