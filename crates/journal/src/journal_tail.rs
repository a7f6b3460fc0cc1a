//! Reader that follows a journal while a run writes it, from one segment to the next.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::event::Event;
use crate::journal_line::JournalLine;
use crate::journal_segment::MAX_LINE_LENGTH;
use orch_base::files::regular;

/// Reader that follows a journal from the start while a run writes it; holds at most one line.
#[derive(Debug)]
pub struct JournalTail {
    path: PathBuf,
    reader: BufReader<File>,
    /// Start of a line that is not completely written yet.
    line: Vec<u8>,
    /// Sequence number of the last event.
    seen: u64,
}

impl JournalTail {
    /// Opens the journal.
    ///
    /// # Errors
    /// The journal cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::new(regular::open(path)?),
            line: Vec::new(),
            seen: 0,
        })
    }

    /// Returns the next event; `None` if there is none at present. Unknown events are left out. After a new segment of
    /// the journal has begun, the next event may be a snapshot of the events between.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        while let Some(line) = self.next_line()? {
            let event = line.event();
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Returns the next line as it was written, each one once; `None` if there is none at present.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<JournalLine>> {
        loop {
            if let Some(line) = self.next_new_line()? {
                return Ok(Some(line));
            }
            let Some(next) = self.next_segment()? else {
                return Ok(None);
            };
            // The last events before the change; nobody writes to this segment any more.
            if let Some(line) = self.next_new_line()? {
                return Ok(Some(line));
            }
            self.reader = BufReader::new(next);
            self.line.clear();
        }
    }

    /// Returns the next line of this segment that was not returned before: a segment begins with the first event of the
    /// run and a snapshot of the earlier ones.
    fn next_new_line(&mut self) -> io::Result<Option<JournalLine>> {
        while let Some(line) = self.next_of_segment()? {
            match line.seq() {
                Some(seq) if seq <= self.seen => {}
                seq => {
                    self.seen = seq.unwrap_or(self.seen);
                    return Ok(Some(line));
                }
            }
        }
        Ok(None)
    }

    fn next_of_segment(&mut self) -> io::Result<Option<JournalLine>> {
        let room = MAX_LINE_LENGTH.saturating_sub(self.line.len() as u64);
        (&mut self.reader).take(room).read_until(b'\n', &mut self.line)?;
        if self.line.pop_if(|byte| *byte == b'\n').is_some() {
            return Ok(Some(JournalLine::new(std::mem::take(&mut self.line))));
        }
        match self.line.len() as u64 >= MAX_LINE_LENGTH {
            true => Err(io::Error::other("the journal has a line that is too long")),
            false => Ok(None),
        }
    }

    /// Returns the segment that has replaced this one.
    fn next_segment(&self) -> io::Result<Option<File>> {
        let inode = |file: &File| file.metadata().map(|file| (file.dev(), file.ino()));
        let next = match regular::open(&self.path) {
            // The run was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            next => next?,
        };
        Ok((inode(&next)? != inode(self.reader.get_ref())?).then_some(next))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

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
