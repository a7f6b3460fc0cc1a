//! Segments of a journal, which bound the journal of a run that lasts for months.
//!
//! A journal that has become too large is renamed to `journal.jsonl.1`, which replaces the one before, and a new
//! `journal.jsonl` begins with the first event of the run and a snapshot of the state. All readers of the state go on
//! working: the events of `journal.jsonl` always add up to the state of the run. At each moment there is a complete
//! `journal.jsonl`, also after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use orch_base::files::regular;

/// Size from which on a new segment begins, in bytes.
pub(crate) const SEGMENT_SIZE: u64 = 8 << 20;

/// Length of the longest line of a journal, in bytes. A run's first event has the names of all sites of its
/// configuration, a snapshot has their states; all other events are short.
pub(crate) const MAX_LINE_LENGTH: u64 = 16 << 20;

/// Returns the path of the earlier segment of a journal.
pub fn earlier_segment(journal: &Path) -> PathBuf {
    with_suffix(journal, ".1")
}

fn with_suffix(journal: &Path, suffix: &str) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Begins a new segment with the first line of the journal and `snapshot`. Returns the file, which is locked as the one
/// before, and its size.
///
/// # Errors
/// A file cannot be read, written or renamed; the journal is as before.
pub(crate) fn begin_segment(journal: &Path, snapshot: &str) -> io::Result<(File, u64)> {
    let fresh = with_suffix(journal, ".new");
    let begun = write_head(journal, &fresh, snapshot).and_then(|begun| {
        keep_segment(journal)?;
        fs::rename(&fresh, journal)?;
        Ok(begun)
    });
    begun.inspect_err(|_| drop(fs::remove_file(&fresh)))
}

fn write_head(journal: &Path, fresh: &Path, snapshot: &str) -> io::Result<(File, u64)> {
    let mut head = Vec::new();
    let mut bounded = BufReader::new(regular::open(journal)?).take(MAX_LINE_LENGTH);
    bounded.read_until(b'\n', &mut head)?;
    if head.last() != Some(&b'\n') {
        return Err(io::Error::other("the journal has no complete first line"));
    }
    head.extend_from_slice(snapshot.as_bytes());
    head.push(b'\n');
    remove_if_there(fresh)?;
    let mut file = regular::open_own(OpenOptions::new().append(true).create_new(true), fresh)?;
    if let Err(error) = file.try_lock() {
        tracing::debug!(%error, path = %fresh.display(), "could not lock the journal");
    }
    file.write_all(&head)?;
    // Otherwise a crash of the machine could leave an empty journal in place of a full one.
    file.sync_data()?;
    Ok((file, head.len() as u64))
}

/// Gives the journal a second name, which it keeps.
fn keep_segment(journal: &Path) -> io::Result<()> {
    let earlier = earlier_segment(journal);
    remove_if_there(&earlier)?;
    // On a file system without hard links.
    fs::hard_link(journal, &earlier).or_else(|_| fs::copy(journal, &earlier).map(drop))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
#[path = "journal_segment_tests.rs"]
mod tests;
