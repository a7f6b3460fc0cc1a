//! What the begin of a run's journal says of it, without reading the rest: which run it was, and whether it did anything.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use super::event::Command;
use super::ids::RunId;
use super::journal::{LONGEST_LINE, kind_of};
use crate::regular_file;

/// What the first line of a run's journal says of it; the names of its sites are not kept.
#[derive(Deserialize)]
pub struct RunStart {
    pub at: f64,
    pub run_id: RunId,
    pub command: Command,
    #[serde(default)]
    pub resumes: Option<Resumed>,
}

#[derive(Deserialize)]
pub struct Resumed {
    pub run_id: RunId,
}

impl RunStart {
    /// Reads it; `None` where there is no whole one that this version knows.
    pub fn read(journal: &Path) -> Option<Self> {
        let mut line = Vec::new();
        let mut bounded = BufReader::new(regular_file::open(journal).ok()?).take(LONGEST_LINE);
        bounded.read_until(b'\n', &mut line).ok()?;
        serde_json::from_slice(&line).ok()
    }
}

/// Tells whether a run has begun any site, or followed the job of an earlier run further.
pub fn has_begun(journal: &Path) -> bool {
    has_early(journal, &["site_dispatched", "site_picked_up"]).unwrap_or(false)
}

/// Bytes behind the first line in which an early event is looked for.
const EARLY: u64 = 1 << 20;

/// Whether an event of these kinds is among the first of a journal. One that is longer than what is looked at counts as having
/// one: a run that did nothing writes little.
///
/// # Errors
/// The file cannot be read.
fn has_early(path: &Path, kinds: &[&str]) -> io::Result<bool> {
    let mut reader = BufReader::new(regular_file::open(path)?);
    // It names all sites of the run.
    reader.skip_until(b'\n')?;
    let (mut bounded, mut line) = (reader.take(EARLY), Vec::new());
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
            has_early(&path, &["site_dispatched", "site_picked_up"]).expect("readable")
        };
        let start = "{\"seq\":1,\"event\":\"run_started\",\"sites\":[\"site_dispatched\"]}\n";
        let other = "{\"seq\":2,\"event\":\"noticed\",\"message\":\"\\\"event\\\":\\\"site_dispatched\\\"\"}\n";
        let wanted = "{\"seq\":3,\"event\":\"site_picked_up\"}\n";
        for (text, found) in [
            (String::new(), false),
            (start.to_owned(), false),
            (format!("{start}{other}"), false),
            (format!("{start}{other}{wanted}"), true),
            // Torn: the kind is there.
            (format!("{start}{}", &wanted[..wanted.len() - 3]), true),
            (
                format!("{start}{}", other.repeat((EARLY as usize).div_ceil(other.len()))),
                true,
            ),
        ] {
            assert_eq!(has(&text), found, "{} bytes", text.len());
        }
        assert!(has_early(Path::new("/nowhere"), &[]).is_err());
    }
}
