//! The journal: one event a line, appended by one `write` each, so that a crash tears at most the last.
//!
//! Its writer holds a lock on the file for as long as it lives, which tells a living run from a dead one.
//! Not here: what the events mean ([`super::RunState`]) and who writes them ([`super::Recorder`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

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
        let file = regular_file::open_own(OpenOptions::new().append(true), path)?;
        // A file system without locks costs the sign of life, not the run.
        if let Err(error) = file.try_lock() {
            tracing::debug!(%error, path = %path.display(), "lock the journal");
        }
        Ok(Self::to(file))
    }

    pub(super) fn to(file: File) -> Self {
        Self {
            file,
            torn: false,
            line: Vec::new(),
        }
    }

    /// Appends an event's line by a single `write`.
    ///
    /// # Errors
    /// The disk is full or failing; the journal then lacks this event, and has a torn line at most.
    pub fn append_line(&mut self, line: &str) -> io::Result<()> {
        self.line.clear();
        if self.torn {
            // What follows a torn line must not become a part of it.
            self.line.push(b'\n');
        }
        self.line.extend_from_slice(line.as_bytes());
        self.line.push(b'\n');
        let written = self.file.write_all(&self.line);
        self.torn = written.is_err();
        written
    }
}

/// An event as a line, without the line break; safe to print, since journals are looked at in terminals.
///
/// # Errors
/// It cannot be JSON: a path in it is no text.
pub fn line(event: &Event) -> io::Result<String> {
    Ok(printable::escaped(serde_json::to_string(event)?))
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

/// Reads a journal into memory; see [`each_event`].
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn read_journal(path: &Path) -> Result<Journal, JournalError> {
    let mut events = Vec::new();
    let journal = each_event(path, |event| events.push(event))?;
    Ok(Journal { events, ..journal })
}

/// Bytes of a line that is read. A run's first event names every site of its configuration, all others are short.
pub(super) const LONGEST_LINE: u64 = 16 << 20;

/// Hands on each event of a journal, tolerating a torn last line and kinds of a newer minor version. No more than a line is
/// in memory at a time; a longer one than any run writes counts as unknown. What is given back has no events.
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn each_event(path: &Path, each: impl FnMut(Event)) -> Result<Journal, JournalError> {
    let file = regular_file::open(path).map_err(|source| JournalError::Io {
        path: path.display().to_string(),
        source,
    })?;
    each_event_of(BufReader::new(file), path, each)
}

/// Begin of a line in which the kind of its event stands, bytes.
const KIND_WITHIN: usize = 160;

/// Hands on each line of these kinds of events (`site_finished`), as far as the caller wants to know of it. Other lines are not
/// parsed, which is many times as fast; what is given back counts nothing of them.
///
/// # Errors
/// As [`each_event`].
pub fn each_line_told<T: DeserializeOwned>(
    path: &Path,
    kinds: &[&str],
    each: impl FnMut(T),
) -> Result<Journal, JournalError> {
    let file = regular_file::open(path).map_err(|source| JournalError::Io {
        path: path.display().to_string(),
        source,
    })?;
    let is_wanted = |line: &[u8]| {
        let named = kind_of(line).unwrap_or_default();
        // The first line of every journal says its format.
        named == b"run_started" || kinds.iter().any(|kind| named == kind.as_bytes())
    };
    read_lines(BufReader::new(file), path, is_wanted, each)
}

/// The kind of event that a line tells, without parsing it.
pub(super) fn kind_of(line: &[u8]) -> Option<&[u8]> {
    let begin = &line[..line.len().min(KIND_WITHIN)];
    let key = b"\"event\":\"";
    let at = memchr::memmem::find(begin, key)?;
    begin[at + key.len()..].split(|byte| *byte == b'"').next()
}

/// The same of a text; `path` is what errors name.
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
        let mut bounded = (&mut reader).take(LONGEST_LINE);
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
        // Before the event itself: a newer format may have changed it.
        if let Ok(Start::RunStarted { format }) = serde_json::from_slice(&line)
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

/// Follows a journal while its run writes it, from its begin; holds a line at most.
#[derive(Debug)]
pub struct JournalTail {
    reader: BufReader<File>,
    /// The begin of a line whose end is not written yet.
    line: Vec<u8>,
}

impl JournalTail {
    /// # Errors
    /// The journal cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            reader: BufReader::new(regular_file::open(path)?),
            line: Vec::new(),
        })
    }

    /// The next event that is there; `None` for now when there is none. What this version does not know is left out.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let room = LONGEST_LINE.saturating_sub(self.line.len() as u64);
            (&mut self.reader).take(room).read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                if self.line.len() as u64 >= LONGEST_LINE {
                    return Err(io::Error::other("a line is longer than any that orch writes"));
                }
                return Ok(None);
            }
            let event = serde_json::from_slice(&self.line).ok();
            self.line.clear();
            if event.is_some() {
                return Ok(event);
            }
        }
    }
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
        append(&mut writer, &event(1)).expect("appended");
        // As a full disk leaves it: the beginning of a line.
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
    fn of_a_huge_journal_no_more_than_a_line_is_in_memory() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        let good = "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n";
        // A line of 128 MiB of which nothing is on the disk, between two that are good.
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
        assert_eq!(error.to_string(), "read the journal /nowhere/journal.jsonl");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_read_to_their_end(text in proptest::collection::vec(any_bytes(), 0..40)) {
            let text = text.concat();
            match read(&text) {
                Ok(journal) => {
                    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
                    let told = journal.events.len() + journal.unknown + usize::from(journal.torn);
                    prop_assert_eq!(told, lines);
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

    /// Noise, and parts of journals.
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

    /// Whether the text ends with a whole line, its line break included or not.
    fn lines_end_at(lines: &[String], cut: usize) -> bool {
        let mut end = 0;
        lines.iter().any(|line| {
            end += line.len() + 1;
            end == cut || end - 1 == cut
        })
    }

    #[test]
    fn a_tail_gives_each_event_once_and_waits_for_the_end_of_a_line() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        std::fs::write(&path, "").expect("written");
        let mut tail = JournalTail::open(&path).expect("it is there");
        let add = |text: &str| {
            let file = OpenOptions::new().append(true).open(&path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .expect("written");
        };
        let mut next = || tail.next_event().expect("readable").map(|event| event.seq);
        assert_eq!(next(), None);
        add("{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\nunknown\n{\"seq\":2,\"at\":0,");
        assert_eq!((next(), next()), (Some(1), None));
        add("\"elapsed\":0,\"event\":\"stop_hurried\"}\n");
        assert_eq!((next(), next()), (Some(2), None));
    }
}
