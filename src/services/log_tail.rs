//! The end of a log file, bounded in lines and bytes, safe to print in a terminal.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::printable::one_line;
use crate::regular_file;

/// Bytes read from the end of a log at most.
const WINDOW: u64 = 16 * 1024;
/// A longer line is cut.
const LINE: usize = 300;

/// The last `count` lines that are not empty, oldest first; empty when the file cannot be read.
///
/// What a terminal would obey is replaced, since a log is written by others and goes into messages.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let Ok(mut file) = regular_file::open(path) else {
        return Vec::new();
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let start = length.saturating_sub(WINDOW);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(start)).is_err() || file.take(WINDOW).read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
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
    fn keeps_the_end_and_neutralises_escapes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "one\n\n\x1b[31mtwo\u{202e}\nthree\n").unwrap();
        assert_eq!(last_lines(&path, 2), ["\u{fffd}[31mtwo\u{fffd}", "three"]);
        assert!(last_lines(&directory.path().join("absent"), 2).is_empty());
    }
}
