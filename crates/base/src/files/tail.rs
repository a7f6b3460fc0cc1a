//! Parts of a file, limited in bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

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
}
