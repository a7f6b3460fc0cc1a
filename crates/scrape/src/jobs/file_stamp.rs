//! Detection that the pool file was written since the refresh was published.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Properties of a file that change when the file is written: replaced (inode), or rewritten in place (time, size).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileStamp {
    /// Reads the stamp of a file; `None` if the file does not exist or cannot be inspected.
    pub fn of(file: &Path) -> Option<Self> {
        let facts = fs::metadata(file).ok()?;
        Some(Self {
            inode: facts.ino(),
            size: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
        })
    }

    /// Returns whether the file exists and has another stamp than `before`.
    pub fn has_changed(before: Option<Self>, file: &Path) -> bool {
        Self::of(file).is_some_and(|now| before != Some(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_and_replacement_are_changes_and_removal_is_none() {
        let directory = tempfile::tempdir().expect("could not create a temporary directory");
        let file = directory.path().join("pool.json");
        assert!(!FileStamp::has_changed(None, &file));
        fs::write(&file, "[]").expect("could not write the file");
        assert!(FileStamp::has_changed(None, &file));
        let before = FileStamp::of(&file);
        assert!(!FileStamp::has_changed(before, &file));
        fs::write(directory.path().join("new"), "[]").expect("could not write the file");
        fs::rename(directory.path().join("new"), &file).expect("could not replace the file");
        assert!(FileStamp::has_changed(before, &file));
        fs::remove_file(&file).expect("could not remove the file");
        assert!(!FileStamp::has_changed(before, &file));
    }
}
