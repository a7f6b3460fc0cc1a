//! Reads logs by positions in the stream of all bytes that were written to a log, whether they are still in the live file
//! or in a piece. What was removed is left out.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::log_origin::{LogOrigin, with_origin};
use super::{log_pieces, regular, tail};
use crate::text::printable::one_line;

/// Number of bytes that are read from the end of a log at most.
const WINDOW: u64 = 16 * 1024;
/// Number of characters after which a line is cut.
const LINE: usize = 300;

/// Returns the position of the end of a log; 0 if there is none.
pub fn length(log: &Path) -> u64 {
    with_origin(log, |origin| {
        let size = std::fs::metadata(log).map_or(0, |metadata| metadata.len());
        origin.start + size.saturating_sub(origin.hole)
    })
}

/// Reads at most `limit` bytes from this position on; from the first byte that exists if those before were removed.
///
/// # Errors
/// The log cannot be read.
pub fn bytes_from(log: &Path, position: u64, limit: u64) -> io::Result<Vec<u8>> {
    with_origin(log, |origin| {
        let mut parts = LogParts::open(log, origin)?;
        let start = position.max(parts.start());
        parts.read(start, limit)
    })
}

/// Reads from this position on, and of more than `limit` bytes the last ones; returns the position of the first byte,
/// too.
///
/// # Errors
/// The log cannot be read.
pub fn last_bytes(log: &Path, position: u64, limit: u64) -> io::Result<(u64, Vec<u8>)> {
    with_origin(log, |origin| {
        let mut parts = LogParts::open(log, origin)?;
        let start = position.max(parts.start()).max(parts.end()?.saturating_sub(limit));
        // The service may write while this reads.
        Ok((start, parts.read(start, limit)?))
    })
}

/// Returns whether all bytes from this position on still exist.
pub fn has(log: &Path, position: u64) -> bool {
    with_origin(log, |origin| {
        LogParts::open(log, origin).is_ok_and(|parts| parts.start() <= position)
    })
}

/// Returns the last `count` lines that are not empty, oldest first; none when the file cannot be read.
///
/// Control characters are replaced, since other programs write the log and the lines appear in messages.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let Ok((_, bytes)) = last_bytes(path, 0, WINDOW) else {
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

/// The live file of a log, and its pieces if a head was cut off.
struct LogParts {
    live: File,
    origin: LogOrigin,
    /// Pieces, the oldest first, each with the position of its first byte and its size.
    pieces: Vec<(PathBuf, u64, u64)>,
}

impl LogParts {
    fn open(log: &Path, origin: LogOrigin) -> io::Result<Self> {
        let live = regular::open(log)?;
        let mut pieces = Vec::new();
        let mut start = origin.start;
        // Without a cut in this process, files with such names are others.
        if origin != LogOrigin::default() {
            for (path, size) in log_pieces::list(log) {
                start = start.saturating_sub(size);
                pieces.insert(0, (path, start, size));
            }
        }
        Ok(Self { live, origin, pieces })
    }

    /// Returns the position of the first byte that exists.
    fn start(&self) -> u64 {
        self.pieces.first().map_or(self.origin.start, |(_, start, _)| *start)
    }

    /// Returns the position of the end.
    fn end(&self) -> io::Result<u64> {
        Ok(self.origin.start + self.live.metadata()?.len().saturating_sub(self.origin.hole))
    }

    fn read(&mut self, position: u64, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut position = position;
        let left = |bytes: &[u8]| limit.saturating_sub(bytes.len() as u64);
        for (path, start, size) in &self.pieces {
            let offset = position.saturating_sub(*start);
            if offset < *size && left(&bytes) > 0 {
                let more = left(&bytes).min(size - offset);
                bytes.extend(tail::bytes_from(&mut regular::open(path)?, offset, more)?);
                position = start + size;
            }
        }
        if left(&bytes) > 0 {
            let offset = position.saturating_sub(self.origin.start) + self.origin.hole;
            bytes.extend(tail::bytes_from(&mut self.live, offset, left(&bytes))?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "log_stream_tests.rs"]
mod tests;
