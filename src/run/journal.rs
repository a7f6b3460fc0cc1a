//! The journal: one event a line, appended by one `write` each, so that a crash tears at most the last.
//!
//! Its writer holds a lock on the file for as long as it lives, which tells a living run from a dead one.
//! Not here: what the events mean ([`super::RunState`]) and who writes them ([`super::Recorder`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;

use super::event::Event;
use crate::{printable, regular_file};

/// Version of the journal's format, in its first event.
pub const JOURNAL_FORMAT: u32 = 1;

/// The writing end.
#[derive(Debug)]
pub struct JournalWriter {
    file: File,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    /// Kept between lines.
    line: Vec<u8>,
}

impl JournalWriter {
    /// Makes the file, private from its creation.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        // A file system without locks costs the sign of life, not the run.
        if let Err(error) = file.try_lock() {
            tracing::debug!(%error, path = %path.display(), "lock the journal");
        }
        Ok(Self {
            file,
            torn: false,
            line: Vec::new(),
        })
    }

    /// Appends one event by a single `write`.
    ///
    /// # Errors
    /// The disk is full or failing; the journal then lacks this event, and has a torn line at most.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        self.line.clear();
        if self.torn {
            // What follows a torn line must not become a part of it.
            self.line.push(b'\n');
        }
        // Journals are looked at in terminals.
        let event = printable::escaped(serde_json::to_string(event)?);
        self.line.extend_from_slice(event.as_bytes());
        self.line.push(b'\n');
        let written = self.file.write_all(&self.line);
        self.torn = written.is_err();
        written
    }
}

/// Whether the journal's writer is alive.
pub fn is_being_written(journal: &Path) -> bool {
    let locked = regular_file::open(journal).map(|file| file.try_lock_shared());
    matches!(locked, Ok(Err(TryLockError::WouldBlock)))
}

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Journal {
    pub events: Vec<Event>,
    /// The last line is cut off: its writer was killed in the middle, or the disk was full.
    pub torn: bool,
    /// Lines of kinds that this version does not know, and lines torn by a disk that was full for a while.
    pub unknown: usize,
}

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("read the journal {path}")]
    Io { path: String, source: io::Error },
    #[error(
        "the journal {path} has format {format}, this version of orch reads up to {JOURNAL_FORMAT}: use a newer orch"
    )]
    TooNew { path: String, format: u32 },
}

/// What every version's first event has.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Start {
    RunStarted { format: u32 },
}

/// A longer line is not an event of ours: the first one of a run with ten thousand sites has two megabytes.
const LONGEST_LINE: u64 = 64 << 20;

/// Reads one line with its end; `None` at the end of the file. A line that is too long is cut there, and its rest is
/// skipped.
fn read_line<'l>(file: &mut impl BufRead, line: &'l mut Vec<u8>) -> io::Result<Option<&'l [u8]>> {
    line.clear();
    if file.by_ref().take(LONGEST_LINE).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if !line.ends_with(b"\n") && line.len() as u64 == LONGEST_LINE {
        file.skip_until(b'\n')?;
        // Whatever it was, it is no event any more.
        line.truncate(1);
        line.push(b'\n');
    }
    Ok(Some(line))
}

/// The first event of a journal; `None` where it has no whole one that this version knows.
pub fn first_event(path: &Path) -> Option<Event> {
    let mut line = Vec::new();
    let line = read_line(&mut BufReader::new(regular_file::open(path).ok()?), &mut line).ok()??;
    serde_json::from_slice(line).ok()
}

/// Hands the events of a journal over one by one, however many they are; tolerates a torn last line and kinds of a newer
/// minor version.
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn replay_journal(path: &Path, mut each: impl FnMut(Event)) -> Result<(), JournalError> {
    replay(path, |read| {
        if let Ok(event) = read {
            each(event);
        }
    })
}

/// Reads a journal into memory, as [`replay_journal`] does.
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn read_journal(path: &Path) -> Result<Journal, JournalError> {
    let mut journal = Journal::default();
    replay(path, |read| match read {
        Ok(event) => journal.events.push(event),
        Err(Unreadable::Torn) => journal.torn = true,
        Err(Unreadable::Unknown) => journal.unknown += 1,
    })?;
    Ok(journal)
}

/// What a line is that is no event.
enum Unreadable {
    /// The last one, cut off.
    Torn,
    Unknown,
}

fn replay(path: &Path, mut each: impl FnMut(Result<Event, Unreadable>)) -> Result<(), JournalError> {
    let shown = || path.display().to_string();
    let failed = |source| JournalError::Io { path: shown(), source };
    let mut file = BufReader::new(regular_file::open(path).map_err(failed)?);
    let mut buffer = Vec::new();
    while let Some(line) = read_line(&mut file, &mut buffer).map_err(failed)? {
        let whole = line.strip_suffix(b"\n");
        let line = whole.unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        // Before the event itself: a newer format may have changed it.
        if let Ok(Start::RunStarted { format }) = serde_json::from_slice(line)
            && format > JOURNAL_FORMAT
        {
            return Err(JournalError::TooNew { path: shown(), format });
        }
        each(serde_json::from_slice(line).map_err(|_| match whole {
            Some(_) => Unreadable::Unknown,
            None => Unreadable::Torn,
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::{RunState, any_event};

    fn read(text: &[u8]) -> Result<Journal, JournalError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        std::fs::write(&path, text).expect("the journal is written");
        read_journal(&path)
    }

    #[test]
    fn a_newer_format_is_refused_even_if_its_events_changed() {
        let line = r#"{"event":"run_started","format":2,"run":{"id":"x"}}"#;
        let error = read(format!("{line}\n").as_bytes()).expect_err("refused");
        assert!(matches!(error, JournalError::TooNew { format: 2, .. }), "{error}");
        assert!(error.to_string().contains("use a newer orch"), "{error}");
    }

    #[test]
    fn an_unknown_kind_and_a_foreign_line_are_counted() {
        let text = "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\",\"new_field\":1}\n\
                    {\"seq\":2,\"at\":0,\"elapsed\":0,\"event\":\"moon_rose\"}\nnot json\n";
        let journal = read(text.as_bytes()).expect("readable");
        assert_eq!((journal.events.len(), journal.unknown, journal.torn), (1, 2, false));
    }

    #[test]
    fn a_line_without_end_is_no_event_and_costs_a_bound() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let mut file = File::create(&path).expect("a file");
        // Sparse: zeros that no disk holds.
        file.set_len(LONGEST_LINE + (1 << 20)).expect("sparse");
        std::io::Seek::seek(&mut file, io::SeekFrom::End(0)).expect("the end");
        file.write_all(b"\n{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n")
            .expect("written");
        let journal = read_journal(&path).expect("readable");
        assert_eq!((journal.events.len(), journal.unknown, journal.torn), (1, 1, false));
        assert_eq!(first_event(&path), None);
    }

    #[test]
    fn what_follows_a_failed_write_is_readable() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let mut writer = JournalWriter::create(&path).expect("a journal");
        let event = |seq| Event {
            seq,
            at: 0.0,
            elapsed: 0.0,
            kind: crate::run::EventKind::StopHurried,
        };
        writer.append(&event(1)).expect("appended");
        // As a full disk leaves it: the beginning of a line.
        let disk = std::mem::replace(&mut writer.file, File::create("/dev/full").expect("the device"));
        writer.append(&event(2)).expect_err("no room");
        writer.file = disk;
        writer.file.write_all(b"{\"seq\":2,\"at\":").expect("written");
        writer.append(&event(3)).expect("appended");
        let journal = read_journal(&path).expect("readable");
        assert_eq!(journal.events, [event(1), event(3)]);
        assert_eq!((journal.unknown, journal.torn), (1, false));
    }

    #[test]
    fn a_living_writer_is_known() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        assert!(!is_being_written(&path));
        let writer = JournalWriter::create(&path).expect("a journal");
        assert!(is_being_written(&path));
        drop(writer);
        assert!(!is_being_written(&path));
    }

    #[test]
    fn a_missing_journal_is_an_error_that_names_it() {
        let error = read_journal(Path::new("/nowhere/journal.jsonl")).expect_err("missing");
        assert_eq!(error.to_string(), "read the journal /nowhere/journal.jsonl");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn events_survive_the_journal_and_fold_alike(events in proptest::collection::vec(any_event(), 1..12)) {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = directory.path().join("journal.jsonl");
            let mut writer = JournalWriter::create(&path).expect("a journal");
            let (mut live, mut replayed) = (RunState::default(), RunState::default());
            for event in &events {
                writer.append(event).expect("appended");
                live.apply(event);
            }
            let journal = read_journal(&path).expect("readable");
            prop_assert!(!journal.torn && journal.unknown == 0);
            prop_assert_eq!(&journal.events, &events);
            journal.events.iter().for_each(|event| replayed.apply(event));
            prop_assert_eq!(live, replayed);
        }

        #[test]
        fn a_tear_anywhere_loses_no_whole_line(
            events in proptest::collection::vec(any_event(), 1..8),
            place in any::<proptest::sample::Index>(),
        ) {
            let lines: Vec<String> = events
                .iter()
                .map(|event| serde_json::to_string(event).expect("an event is plain data"))
                .collect();
            let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            let cut = place.index(text.len() + 1);
            let journal = read(&text.as_bytes()[..cut]).expect("readable");
            // A line that lacks nothing but its end is whole.
            let mut end = 0;
            let whole = lines
                .iter()
                .take_while(|line| {
                    end += line.len() + 1;
                    end - 1 <= cut
                })
                .count();
            prop_assert_eq!(&journal.events[..], &events[..whole]);
            let torn = cut > 0 && !lines_end_at(&lines, cut);
            prop_assert_eq!(journal.torn, torn);
            prop_assert_eq!(journal.unknown, 0);
        }
    }

    /// Whether the text ends with a whole line, its line break included or not.
    fn lines_end_at(lines: &[String], cut: usize) -> bool {
        let mut end = 0;
        lines.iter().any(|line| {
            end += line.len() + 1;
            end == cut || end - 1 == cut
        })
    }
}
