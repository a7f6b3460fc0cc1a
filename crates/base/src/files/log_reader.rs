//! Reader of a log that another process writes: it goes on after the log was truncated, replaced by a new file, or has
//! lost its head.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::lines_from_end::MAX_LINE_LENGTH;
use super::regular;

/// Number of bytes of one read.
const BLOCK: usize = 64 << 10;
/// Number of bytes before the position that are compared to find out if the content has moved.
const COMPARED: usize = 256;
/// Smallest unit in which the head of a file is removed: the block of the file system.
const HEAD_UNIT: u64 = 4096;
/// Number of places at which the content is searched for after it has moved.
const MAX_PLACES: u64 = 1 << 16;

/// Reader of one log.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: File,
    /// Position up to which the file is read.
    position: u64,
    /// Last bytes before the position.
    compared: Vec<u8>,
    /// Bytes that are read; the first `returned` of them belong to returned lines.
    buffer: Vec<u8>,
    returned: usize,
    /// Position up to which the file is read at most.
    end: Option<u64>,
}

/// Change of a log other than by appended lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogChange {
    Truncated,
    /// The path names another file, which is read from the start.
    Replaced,
}

impl LogReader {
    /// Opens a log.
    ///
    /// # Errors
    /// The file cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: regular::open(path)?,
            position: 0,
            compared: Vec::new(),
            buffer: Vec::new(),
            returned: 0,
            end: None,
        })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Continues at this position of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn go_to(&mut self, position: u64) -> io::Result<()> {
        self.position = position;
        (self.buffer, self.returned) = (Vec::new(), 0);
        let length = position.min(COMPARED as u64);
        self.compared = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut self.compared, position - length)
    }

    /// Limits the reader to this position, or removes the limit.
    pub fn limit(&mut self, end: Option<u64>) {
        self.end = end;
    }

    /// Returns the next complete line without the line break, or a part of a line that is too long; `None` if there is
    /// none at present.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(self.returned..).unwrap_or_default();
            if let Some(place) = memchr::memchr(b'\n', rest.get(searched..).unwrap_or_default()) {
                let line = rest.get(..searched + place).unwrap_or_default().to_vec();
                self.returned += line.len() + 1;
                return Ok(Some(line));
            }
            if rest.len() >= MAX_LINE_LENGTH {
                return Ok(self.take_rest());
            }
            searched = rest.len();
            if !self.read_block()? {
                return Ok(None);
            }
        }
    }

    /// Returns the start of a line that has no line break yet, if there is one.
    pub fn take_rest(&mut self) -> Option<Vec<u8>> {
        let rest = self.buffer.split_off(self.returned);
        (self.buffer, self.returned) = (Vec::new(), 0);
        Some(rest).filter(|rest| !rest.is_empty())
    }

    /// Reads further bytes; returns false if there are none, or if the content has moved.
    fn read_block(&mut self) -> io::Result<bool> {
        let room = self.end.map_or(BLOCK as u64, |end| end.saturating_sub(self.position));
        let room = usize::try_from(room).unwrap_or(BLOCK).min(BLOCK);
        // One read of the compared bytes and the further ones: nothing of a new content is read at the old position.
        let start = self.position.saturating_sub(self.compared.len() as u64);
        let mut block = vec![0; self.compared.len() + room];
        let length = self.file.read_at(&mut block, start)?;
        block.truncate(length);
        let Some(further) = block
            .strip_prefix(self.compared.as_slice())
            .filter(|further| !further.is_empty())
        else {
            return Ok(false);
        };
        self.position += further.len() as u64;
        self.buffer.drain(..self.returned);
        self.returned = 0;
        self.buffer.extend_from_slice(further);
        let surplus = block.len().saturating_sub(COMPARED);
        block.drain(..surplus);
        self.compared = block;
        Ok(true)
    }

    /// Looks whether the content has moved or the path names another file, and continues there. Call after
    /// [`LogReader::next_line`] has returned `None`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn follow_changes(&mut self) -> io::Result<Option<LogChange>> {
        if !self.is_in_place(self.position)? {
            // The rest of a line belongs to the content that has gone.
            let moved = self.moved_position()?;
            return match moved {
                Some(position) => {
                    self.position = position;
                    Ok(None)
                }
                None => {
                    self.go_to(0)?;
                    Ok(Some(LogChange::Truncated))
                }
            };
        }
        let own = self.file.metadata()?;
        let is_other = |named: &fs::Metadata| (named.dev(), named.ino()) != (own.dev(), own.ino());
        if own.len() > self.position || !fs::metadata(&self.path).is_ok_and(|named| is_other(&named)) {
            return Ok(None);
        }
        // The new file may have been removed again.
        let Ok(file) = regular::open(&self.path) else {
            return Ok(None);
        };
        self.file = file;
        self.go_to(0)?;
        Ok(Some(LogChange::Replaced))
    }

    /// Decides whether the compared bytes stand before this position.
    fn is_in_place(&self, position: u64) -> io::Result<bool> {
        let Some(start) = position.checked_sub(self.compared.len() as u64) else {
            return Ok(false);
        };
        let mut found = vec![0; self.compared.len()];
        match self.file.read_exact_at(&mut found, start) {
            Ok(()) => Ok(found == self.compared),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Finds the position after the head of the file was removed.
    fn moved_position(&self) -> io::Result<Option<u64>> {
        let size = self.file.metadata()?.len();
        // The smallest number of units that leaves the position within the file.
        let least = self.position.saturating_sub(size).div_ceil(HEAD_UNIT).max(1);
        for units in least..least.saturating_add(MAX_PLACES) {
            let Some(position) = self.position.checked_sub(units.saturating_mul(HEAD_UNIT)) else {
                return Ok(None);
            };
            if self.is_in_place(position)? {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    struct LogScene {
        directory: tempfile::TempDir,
    }

    impl LogScene {
        fn new(text: &str) -> Self {
            let scene = Self {
                directory: tempfile::tempdir().unwrap(),
            };
            fs::write(scene.path(), text).unwrap();
            scene
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("web.log")
        }

        fn append(&self, text: &str) {
            let mut file = OpenOptions::new().append(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
    }

    /// Reads all lines, through changes.
    fn read(reader: &mut LogReader) -> (Vec<String>, Vec<LogChange>) {
        let (mut lines, mut changes) = (Vec::new(), Vec::new());
        loop {
            while let Some(line) = reader.next_line().unwrap() {
                lines.push(String::from_utf8(line).unwrap());
            }
            match reader.follow_changes().unwrap() {
                Some(change) => changes.push(change),
                None if reader.file.metadata().unwrap().len() <= reader.position => return (lines, changes),
                None => {}
            }
        }
    }

    #[test]
    fn appended_lines_come_once_and_a_rest_waits_for_its_end() {
        let scene = LogScene::new("one\ntw");
        let mut reader = LogReader::open(&scene.path()).unwrap();
        assert_eq!(read(&mut reader), (vec!["one".to_owned()], vec![]));
        scene.append("o\nthree\n");
        assert_eq!(read(&mut reader).0, ["two", "three"]);
        scene.append("rest");
        assert_eq!(read(&mut reader).0, [""; 0]);
        assert_eq!(reader.take_rest().as_deref(), Some(&b"rest"[..]));
    }

    #[test]
    fn a_truncated_log_is_read_from_its_start_even_if_it_has_grown_again() {
        for text in ["new\n", "a new text that is longer than the old one\nnew\n"] {
            let scene = LogScene::new("one\ntwo\n");
            let mut reader = LogReader::open(&scene.path()).unwrap();
            assert_eq!(read(&mut reader).0.len(), 2);
            OpenOptions::new()
                .write(true)
                .open(scene.path())
                .unwrap()
                .set_len(0)
                .unwrap();
            scene.append(text);
            let (lines, changes) = read(&mut reader);
            assert_eq!(lines.last().unwrap(), "new");
            assert_eq!(
                (lines.len(), changes),
                (text.lines().count(), vec![LogChange::Truncated])
            );
        }
    }

    #[test]
    fn a_rotated_log_is_read_to_its_end_and_then_the_new_one() {
        let scene = LogScene::new("one\n");
        let mut reader = LogReader::open(&scene.path()).unwrap();
        assert_eq!(read(&mut reader).0, ["one"]);
        scene.append("two\n");
        let old = scene.directory.path().join("web.log.1");
        fs::rename(scene.path(), old).unwrap();
        assert_eq!(read(&mut reader), (vec!["two".to_owned()], vec![]));
        fs::write(scene.path(), "three\n").unwrap();
        assert_eq!(read(&mut reader), (vec!["three".to_owned()], vec![LogChange::Replaced]));
    }

    #[test]
    fn no_line_is_lost_or_repeated_when_the_head_is_removed() {
        let line = |number: usize| format!("line {number:05} {}\n", "x".repeat(50));
        let text: String = (0..1000).map(line).collect();
        let scene = LogScene::new(&text);
        let mut reader = LogReader::open(&scene.path()).unwrap();
        assert_eq!(read(&mut reader).0.len(), 1000);
        // As FALLOC_FL_COLLAPSE_RANGE does, which not all file systems offer.
        let kept = format!("{}{}", &text[5 * 4096..], line(1000));
        fs::write(scene.path(), kept).unwrap();
        let (lines, changes) = read(&mut reader);
        assert_eq!((lines.len(), changes), (1, vec![]));
        assert!(lines[0].starts_with("line 01000 "));
    }

    #[test]
    fn a_limit_holds_back_later_lines() {
        let scene = LogScene::new("one\ntwo\nthree\n");
        let mut reader = LogReader::open(&scene.path()).unwrap();
        reader.limit(Some(8));
        assert_eq!(reader.next_line().unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(reader.next_line().unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(reader.next_line().unwrap(), None);
        reader.limit(None);
        assert_eq!(reader.next_line().unwrap().as_deref(), Some(&b"three"[..]));
        reader.go_to(4).unwrap();
        assert_eq!(reader.next_line().unwrap().as_deref(), Some(&b"two"[..]));
    }
}
