//! The journal: one event a line, appended by one `write` each, so that a crash tears at most the last.
//!
//! Not here: what the events mean ([`super::RunState`]) and who writes them ([`super::Recorder`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::event::{Event, EventKind};

/// Version of the journal's format, in its first event.
pub const JOURNAL_FORMAT: u32 = 1;

/// The writing end.
#[derive(Debug)]
pub struct JournalWriter {
    file: File,
    /// Kept between lines, so that a line costs no allocation.
    line: Vec<u8>,
}

impl JournalWriter {
    /// Makes the file, private from its creation.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file, line: Vec::new() })
    }

    /// Appends one event by a single `write`.
    ///
    /// # Errors
    /// The disk is full or failing; the journal then has a torn line at most.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)?;
        self.line.push(b'\n');
        self.file.write_all(&self.line)
    }
}

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Journal {
    pub events: Vec<Event>,
    /// The last line is cut off: its writer was killed in the middle, or the disk was full.
    pub torn: bool,
    /// Lines of kinds that this version does not know.
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

/// Reads a journal, tolerating a torn last line and kinds of a newer minor version.
///
/// # Errors
/// The file cannot be read, or has a format of a newer version.
pub fn read_journal(path: &Path) -> Result<Journal, JournalError> {
    let shown = || path.display().to_string();
    let text = std::fs::read(path).map_err(|source| JournalError::Io { path: shown(), source })?;
    let mut journal = Journal::default();
    let mut lines = text.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let last = lines.peek().is_none();
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Event>(line) {
            Ok(event) => {
                if let EventKind::RunStarted { format, .. } = &event.kind
                    && *format > JOURNAL_FORMAT
                {
                    return Err(JournalError::TooNew {
                        path: shown(),
                        format: *format,
                    });
                }
                journal.events.push(event);
            }
            Err(_) if last => journal.torn = true,
            Err(_) => journal.unknown += 1,
        }
    }
    Ok(journal)
}
