//! The journal file: one event per line, each appended with one `write`, so that a crash tears at most the last line.
//!
//! The writer holds a lock on the file until its drop or the death of the process; by the lock an active run is
//! distinguished from a dead one. [`crate::state::model::RunState`] folds the events, [`crate::recorder::Recorder`]
//! writes them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::event::{Event, JOURNAL_FORMAT};
use crate::journal_line::kind_of;
use crate::journal_segment::{MAX_LINE_LENGTH, begin_segment};
use orch_base::files::regular;
use orch_base::text::printable;

/// Name of the file in the directory of a run.
pub(crate) const JOURNAL_NAME: &str = "journal.jsonl";

/// Writer of a journal.
#[derive(Debug)]
pub struct JournalWriter {
    file: File,
    /// Number of bytes that were written.
    size: u64,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    /// Buffer, reused for every line.
    line: Vec<u8>,
}

impl JournalWriter {
    /// Creates the file with private permissions.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = regular::open_own(OpenOptions::new().append(true), path)?;
        // On a file system without locks the run continues, but is not recognised as active.
        if let Err(error) = file.try_lock() {
            tracing::debug!(%error, path = %path.display(), "could not lock the journal");
        }
        Ok(Self::to(file))
    }

    pub(crate) fn to(file: File) -> Self {
        Self {
            file,
            size: 0,
            torn: false,
            line: Vec::new(),
        }
    }

    /// Appends an event's line with a single `write`.
    ///
    /// # Errors
    /// The disk is full or failing; the journal then lacks this event, and has at most one torn line.
    pub fn append_line(&mut self, line: &str) -> io::Result<()> {
        self.line.clear();
        if self.torn {
            // The next line must not become a part of a torn line.
            self.line.push(b'\n');
        }
        self.line.extend_from_slice(line.as_bytes());
        self.line.push(b'\n');
        let written = self.file.write_all(&self.line);
        self.torn = written.is_err();
        self.size += self.line.len() as u64;
        written
    }

    /// Returns the number of bytes that were written to this segment.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Continues with the next segment, which begins with a snapshot. After a failure this segment grows further.
    ///
    /// # Errors
    /// The next segment cannot be created.
    pub(crate) fn begin_segment(&mut self, path: &Path, snapshot: &str) -> io::Result<()> {
        self.size = 0;
        (self.file, self.size) = begin_segment(path, snapshot)?;
        self.torn = false;
        Ok(())
    }
}

/// Formats an event as a line without the line break; the line is safe to print, since people view journals in
/// terminals.
///
/// # Errors
/// The event cannot be JSON: a path is not UTF-8.
pub fn line(event: &Event) -> io::Result<String> {
    Ok(printable::escaped(serde_json::to_string(event)?))
}

/// Decides whether the journal's writer is alive.
pub fn is_being_written(journal: &Path) -> bool {
    let locked = regular::open(journal).map(|file| file.try_lock_shared());
    matches!(locked, Ok(Err(TryLockError::WouldBlock)))
}

/// Contents of a journal.
#[derive(Debug, Default)]
pub struct Journal {
    pub events: Vec<Event>,
    /// The last line is cut off: the writer was killed in the middle, or the disk was full.
    pub torn: bool,
    /// Number of lines of kinds that this version does not know, and of lines torn by a disk that was full for a while.
    pub unknown: usize,
}

/// Reason why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("could not read the journal {path}")]
    Io { path: String, source: io::Error },
    #[error(
        "the journal {path} has format {format}, but this version of orch reads up to {JOURNAL_FORMAT}: use a newer orch"
    )]
    TooNew { path: String, format: u32 },
}

/// Part of the first event that all versions have in common.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum FormatHeader {
    RunStarted { format: u32 },
}

/// Reads a journal into memory; see [`each_event`].
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn read_journal(path: &Path) -> Result<Journal, JournalError> {
    let mut events = Vec::new();
    let journal = each_event(path, |event| events.push(event))?;
    Ok(Journal { events, ..journal })
}

/// Calls `each` for every event of a journal; accepts a torn last line and event kinds of a newer minor version. At
/// most one line is in memory at a time; a line that is too long counts as unknown. The returned journal has no events.
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn each_event(path: &Path, each: impl FnMut(Event)) -> Result<Journal, JournalError> {
    each_event_of(open(path)?, path, each)
}

fn open(path: &Path) -> Result<BufReader<File>, JournalError> {
    let file = regular::open(path).map_err(|source| JournalError::Io {
        path: path.display().to_string(),
        source,
    })?;
    Ok(BufReader::new(file))
}

/// Calls `each` for every line of these kinds of events (`site_finished`), parsed into the caller's type. Other lines
/// are not parsed, which is many times faster, and not counted in the returned journal.
///
/// # Errors
/// See [`each_event`].
pub fn each_line_of_kinds<T: DeserializeOwned>(
    path: &Path,
    kinds: &[&str],
    each: impl FnMut(T),
) -> Result<Journal, JournalError> {
    let is_wanted = |line: &[u8]| {
        let named = kind_of(line).unwrap_or_default();
        // The first line of every journal contains the format.
        named == b"run_started" || kinds.iter().any(|kind| named == kind.as_bytes())
    };
    read_lines(open(path)?, path, is_wanted, each)
}

/// Calls `each` for every event of a text; errors name `path`.
pub fn each_event_of(reader: impl BufRead, path: &Path, each: impl FnMut(Event)) -> Result<Journal, JournalError> {
    read_lines(reader, path, |_| true, each)
}

fn read_lines<T: DeserializeOwned>(
    mut reader: impl BufRead,
    path: &Path,
    is_wanted: impl Fn(&[u8]) -> bool,
    mut each: impl FnMut(T),
) -> Result<Journal, JournalError> {
    let shown = || path.display().to_string();
    let failed = |source| JournalError::Io { path: shown(), source };
    let (mut journal, mut line) = (Journal::default(), Vec::new());
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_LINE_LENGTH);
        if bounded.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(journal);
        }
        let last = line.pop_if(|byte| *byte == b'\n').is_none();
        if last && bounded.limit() == 0 {
            reader.skip_until(b'\n').map_err(failed)?;
            journal.unknown += 1;
            continue;
        }
        if line.is_empty() || !is_wanted(&line) {
            continue;
        }
        // Checked before the event itself, because a newer format may have changed the event.
        if let Ok(FormatHeader::RunStarted { format }) = serde_json::from_slice(&line)
            && format > JOURNAL_FORMAT
        {
            return Err(JournalError::TooNew { path: shown(), format });
        }
        match serde_json::from_slice::<T>(&line) {
            Ok(event) => each(event),
            Err(_) if last => journal.torn = true,
            Err(_) => journal.unknown += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_event::any_event;
    use crate::state::model::RunState;

    fn read(text: &[u8]) -> Result<Journal, JournalError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        std::fs::write(&path, text).expect("the journal is written");
        read_journal(&path)
    }

    fn append(writer: &mut JournalWriter, event: &Event) -> io::Result<()> {
        writer.append_line(&line(event)?)
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
    fn lines_after_a_failed_write_are_readable() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let mut writer = JournalWriter::create(&path).expect("a journal");
        let event = |seq| Event {
            seq,
            at: 0.0,
            elapsed: 0.0,
            kind: crate::event::EventKind::StopHurried,
        };
        append(&mut writer, &event(1)).expect("appended");
        // A full disk leaves the beginning of a line.
        let disk = std::mem::replace(&mut writer.file, File::create("/dev/full").expect("the device"));
        append(&mut writer, &event(2)).expect_err("no room");
        writer.file = disk;
        writer.file.write_all(b"{\"seq\":2,\"at\":").expect("written");
        append(&mut writer, &event(3)).expect("appended");
        let journal = read_journal(&path).expect("readable");
        assert_eq!(journal.events, [event(1), event(3)]);
        assert_eq!((journal.unknown, journal.torn), (1, false));
    }

    #[test]
    fn at_most_one_line_of_a_huge_journal_is_in_memory() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let good = "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n";
        // A sparse line of 128 MiB between two valid lines.
        std::fs::write(&path, good).expect("written");
        let mut file = OpenOptions::new().append(true).open(&path).expect("the journal");
        file.set_len(128 << 20).expect("a hole");
        file.write_all(format!("\n{good}").as_bytes()).expect("written");
        let mut events = 0;
        let journal = each_event(&path, |_| events += 1).expect("readable");
        assert_eq!((events, journal.unknown, journal.torn), (2, 1, false));
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert!(matches!(read_journal(&fifo), Err(JournalError::Io { .. })));
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
        assert_eq!(error.to_string(), "could not read the journal /nowhere/journal.jsonl");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_read_to_their_end(text in proptest::collection::vec(any_bytes(), 0..40)) {
            let text = text.concat();
            match read(&text) {
                Ok(journal) => {
                    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
                    let counted = journal.events.len() + journal.unknown + usize::from(journal.torn);
                    prop_assert_eq!(counted, lines);
                    let mut state = RunState::default();
                    journal.events.iter().for_each(|event| state.apply(event));
                }
                Err(error) => prop_assert!(matches!(error, JournalError::TooNew { .. }), "{}", error),
            }
        }

        #[test]
        fn events_survive_the_journal_and_fold_alike(events in proptest::collection::vec(any_event(), 1..12)) {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = directory.path().join("journal.jsonl");
            let mut writer = JournalWriter::create(&path).expect("a journal");
            let (mut live, mut replayed) = (RunState::default(), RunState::default());
            for event in &events {
                append(&mut writer, event).expect("appended");
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
            // A line that lacks only the line break is complete.
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

    /// Generates noise mixed with parts of journals.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        const PARTS: &[&str] = &[
            "\n",
            "{",
            "}",
            "[",
            "\"event\":",
            "\"run_started\"",
            "\"format\":",
            "1e999",
            "-9",
            "null",
            "\\ud800",
        ];
        let event = any_event().prop_map(|event| line(&event).expect("plain data").into_bytes());
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..8),
            proptest::sample::select(PARTS).prop_map(|part| part.as_bytes().to_vec()),
            event,
        ]
    }

    /// Decides whether the text ends with a complete line, with or without the line break.
    fn lines_end_at(lines: &[String], cut: usize) -> bool {
        let mut end = 0;
        lines.iter().any(|line| {
            end += line.len() + 1;
            end == cut || end - 1 == cut
        })
    }
}
