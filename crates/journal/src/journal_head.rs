//! Reading the start of a run's journal only: the identity of the run, and whether the run did anything.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use crate::event_values::RunCommand;
use crate::ids::RunId;
use crate::journal_line::kind_of;
use crate::journal_segment::MAX_LINE_LENGTH;
use orch_base::files::regular;

/// Data of the first line of a run's journal, without the names of its sites.
#[derive(Deserialize)]
pub struct JournalHead {
    pub at: f64,
    pub run_id: RunId,
    pub command: RunCommand,
    pub resumes: Option<ResumedRun>,
}

#[derive(Deserialize)]
pub struct ResumedRun {
    pub run_id: RunId,
}

impl JournalHead {
    /// Reads the first line; returns `None` if the line is incomplete or unknown to this version.
    pub fn read(journal: &Path) -> Option<Self> {
        let mut line = Vec::new();
        let mut bounded = BufReader::new(regular::open(journal).ok()?).take(MAX_LINE_LENGTH);
        bounded.read_until(b'\n', &mut line).ok()?;
        serde_json::from_slice(&line).ok()
    }
}

/// Decides whether a run has begun any site, or followed the job of an earlier run further.
pub fn has_begun(journal: &Path) -> bool {
    has_early_event(journal, &["site_dispatched", "site_picked_up"]).unwrap_or(false)
}

/// Number of bytes after the first line in which an early event is searched for.
const SEARCHED_BYTES: u64 = 1 << 20;

/// Decides whether an event of these kinds is among the first of a journal. A journal that is longer than the searched
/// part counts as having one, because a run that did nothing writes little.
///
/// # Errors
/// The file cannot be read.
fn has_early_event(path: &Path, kinds: &[&str]) -> io::Result<bool> {
    let mut reader = BufReader::new(regular::open(path)?);
    // The first line has the names of all sites of the run.
    reader.skip_until(b'\n')?;
    let (mut bounded, mut line) = (reader.take(SEARCHED_BYTES), Vec::new());
    loop {
        line.clear();
        if bounded.read_until(b'\n', &mut line)? == 0 {
            return Ok(bounded.limit() == 0);
        }
        if kind_of(&line).is_some_and(|named| kinds.iter().any(|kind| named == kind.as_bytes())) {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_event_is_found_without_reading_the_whole_journal() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let has = |text: &str| {
            std::fs::write(&path, text).expect("written");
            has_early_event(&path, &["site_dispatched", "site_picked_up"]).expect("readable")
        };
        let start = "{\"seq\":1,\"event\":\"run_started\",\"sites\":[\"site_dispatched\"]}\n";
        let other = "{\"seq\":2,\"event\":\"noticed\",\"message\":\"\\\"event\\\":\\\"site_dispatched\\\"\"}\n";
        let wanted = "{\"seq\":3,\"event\":\"site_picked_up\"}\n";
        for (text, found) in [
            (String::new(), false),
            (start.to_owned(), false),
            (format!("{start}{other}"), false),
            (format!("{start}{other}{wanted}"), true),
            // Torn, but the kind is complete.
            (format!("{start}{}", &wanted[..wanted.len() - 3]), true),
            (
                format!(
                    "{start}{}",
                    other.repeat((SEARCHED_BYTES as usize).div_ceil(other.len()))
                ),
                true,
            ),
        ] {
            assert_eq!(has(&text), found, "{} bytes", text.len());
        }
        assert!(has_early_event(Path::new("/nowhere"), &[]).is_err());
    }
}
