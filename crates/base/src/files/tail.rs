//! The end of a file, limited in bytes; of a log also in lines, and safe to print in a terminal.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::regular;
use crate::text::printable::one_line;

/// Number of bytes that are read from the end of a log at most.
const WINDOW: u64 = 16 * 1024;
/// Number of characters after which a line is cut.
const LINE: usize = 300;

/// Reads at most `limit` bytes from `start` on.
///
/// # Errors
/// The file cannot be read.
pub fn bytes_from(file: &mut File, start: u64, limit: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads from `start` on, and of more than `limit` bytes the last ones; returns the position of the first byte, too.
///
/// # Errors
/// The file cannot be read.
pub fn last_bytes(file: &mut File, start: u64, limit: u64) -> io::Result<(u64, Vec<u8>)> {
    let start = start.max(file.metadata()?.len().saturating_sub(limit));
    Ok((start, bytes_from(file, start, limit)?))
}

/// Returns the last `count` lines that are not empty, oldest first; none when the file cannot be read.
///
/// Control characters are replaced, since other programs write the log and the lines appear in messages.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let Ok((_, bytes)) = regular::open(path).and_then(|mut file| last_bytes(&mut file, 0, WINDOW)) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(count)
        .map(shown)
        .collect();
    lines.reverse();
    lines
}

fn shown(line: &str) -> String {
    let kept: String = line.trim_end().chars().take(LINE).collect();
    one_line(&kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_than_the_limit_the_last_bytes_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "0123456789").unwrap();
        let mut file = File::open(&path).unwrap();
        for (start, limit, expected) in [(0, 20, "0123456789"), (0, 3, "789"), (8, 3, "89"), (20, 3, "")] {
            let (first, bytes) = last_bytes(&mut file, start, limit).unwrap();
            assert_eq!(bytes, expected.as_bytes());
            assert!(first == start || first + limit == 10, "{start} {limit}");
        }
        assert_eq!(bytes_from(&mut file, 2, 3).unwrap(), b"234");
    }

    #[test]
    fn keeps_the_end_and_neutralises_escapes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "one\n\n\x1b[31mtwo\u{202e}\nthree\n").unwrap();
        assert_eq!(last_lines(&path, 2), ["\u{fffd}[31mtwo\u{fffd}", "three"]);
        assert!(last_lines(&directory.path().join("absent"), 2).is_empty());
    }
}
