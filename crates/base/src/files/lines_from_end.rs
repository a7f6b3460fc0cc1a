//! Lines of a file from the last one backwards, in time and memory that depend on the lines and not on the size of the
//! file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};

/// Number of bytes of one read.
const BLOCK: u64 = 64 << 10;
/// Length at which a line is cut, in bytes.
pub const MAX_LINE_LENGTH: usize = 64 << 10;
/// Number of parts with data of a sparse file that are looked at.
const MAX_EXTENTS: usize = 4096;

/// Reader of lines from the end of a file.
pub struct LinesFromEnd<'f> {
    file: &'f File,
    /// Position of the first byte of `buffer` in the file.
    start: u64,
    /// Bytes that are read and belong to no returned line.
    buffer: Vec<u8>,
    /// First byte of the file that may be read.
    first: u64,
    /// Line break after the next line.
    ends_with_break: bool,
}

/// Line with the position of its first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineAt {
    pub start: u64,
    /// Bytes without the line break; of a longer line only a part.
    pub text: Vec<u8>,
}

impl<'f> LinesFromEnd<'f> {
    /// Starts at this position, at most the size of the file. The head of a file that is a hole is not read.
    pub fn new(file: &'f File, end: u64) -> Self {
        Self {
            file,
            start: end,
            buffer: Vec::new(),
            first: last_data(file, end),
            ends_with_break: false,
        }
    }

    /// Returns the line before the last returned one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<LineAt>> {
        loop {
            if self.buffer.last() == Some(&b'\n') && !self.ends_with_break {
                self.buffer.pop();
                self.ends_with_break = true;
            }
            if let Some(place) = memchr::memrchr(b'\n', &self.buffer) {
                return Ok(Some(self.take(place + 1)));
            }
            if self.start == self.first {
                let is_over = self.buffer.is_empty() && !self.ends_with_break;
                return Ok((!is_over).then(|| self.take(0)));
            }
            if self.buffer.len() >= MAX_LINE_LENGTH {
                return Ok(Some(self.take(0)));
            }
            self.read_block()?;
        }
    }

    /// Removes the line that begins at this place of the buffer.
    fn take(&mut self, place: usize) -> LineAt {
        let text = self.buffer.split_off(place);
        self.ends_with_break = false;
        LineAt {
            start: self.start + place as u64,
            text,
        }
    }

    fn read_block(&mut self) -> io::Result<()> {
        let length = BLOCK.min(self.start - self.first);
        let mut block = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut block, self.start - length)?;
        block.append(&mut self.buffer);
        self.buffer = block;
        self.start -= length;
        Ok(())
    }
}

/// Returns the position of the first byte after the last hole before `end`; 0 for a file without holes. Where a log has lost
/// its head, the head is a hole.
pub fn last_data(file: &File, end: u64) -> u64 {
    let mut at = 0;
    for _ in 0..MAX_EXTENTS {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data follows: the file ends with a hole.
            Err(rustix::io::Errno::NXIO) => return end,
            // The file system does not report holes.
            Err(_) => return 0,
        };
        match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) if hole < end => at = hole,
            // The end of the file counts as a hole.
            Ok(_) => return data.min(end),
            Err(_) => return 0,
        }
    }
    at.min(end)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn lines(text: &[u8]) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let mut from_end = LinesFromEnd::new(&file, text.len() as u64);
        let mut found = Vec::new();
        while let Some(line) = from_end.next_line().unwrap() {
            let end = usize::try_from(line.start).unwrap() + line.text.len();
            assert_eq!(&text[end - line.text.len()..end], line.text);
            found.push(line.text);
        }
        found.reverse();
        found
    }

    #[test]
    fn the_last_line_may_have_no_line_break() {
        for (text, expected) in [
            ("", vec![]),
            ("a", vec!["a"]),
            ("a\n", vec!["a"]),
            ("\n", vec![""]),
            ("a\n\nb\n", vec!["a", "", "b"]),
            ("\n\na", vec!["", "", "a"]),
        ] {
            let found: Vec<String> = lines(text.as_bytes())
                .into_iter()
                .map(|line| String::from_utf8(line).unwrap())
                .collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn the_end_of_a_huge_log_is_read_at_once() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first\n").unwrap();
        let begun = Instant::now();
        file.seek(io::SeekFrom::Start(10 << 30)).unwrap();
        file.write_all(b"one\ntwo\n").unwrap();
        let size = file.metadata().unwrap().len();
        let mut from_end = LinesFromEnd::new(&file, size);
        let mut next = || {
            from_end
                .next_line()
                .unwrap()
                .map(|line| String::from_utf8(line.text).unwrap())
        };
        assert_eq!(next().as_deref(), Some("two"));
        assert!(next().unwrap().trim_start_matches('\0') == "one");
        assert_eq!(next(), None, "the hole is not read");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let text = [&vec![b'x'; 5 * MAX_LINE_LENGTH / 2][..], b"\nlast\n"].concat();
        let found = lines(&text);
        assert_eq!(found.last().unwrap(), b"last");
        assert!(found.len() > 2 && found.iter().all(|line| line.len() <= 2 * MAX_LINE_LENGTH));
        assert_eq!(found.concat().len(), text.len() - 2);
    }

    proptest! {
        #[test]
        fn all_lines_are_found(parts in proptest::collection::vec("[a-z]{0,9}", 0..20), breaks in any::<bool>()) {
            let text = parts.join("\n") + if breaks { "\n" } else { "" };
            let expected: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(lines(text.as_bytes()), expected);
        }
    }
}
