//! Reader that checks the bytes of a file to be UTF-8 and counts them, in little memory.

use std::io::{self, Read};

/// Number of bytes that are read at once.
const BLOCK: usize = 64 * 1024;

/// Reader that hands bytes on until the first byte that is not UTF-8, which is an error.
#[derive(Debug)]
pub struct Utf8Reader<R> {
    inner: R,
    block: Vec<u8>,
    /// Number of bytes of `block` that have been handed on, and number of those that may be.
    taken: usize,
    valid: usize,
    /// Offset of the block in the file.
    offset: u64,
    invalid: Option<InvalidUtf8>,
}

/// Place where a file stops being UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8 {
    pub offset: u64,
    pub byte: u8,
}

impl<R: Read> Utf8Reader<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            block: Vec::new(),
            taken: 0,
            valid: 0,
            offset: 0,
            invalid: None,
        }
    }

    /// Returns the number of bytes that have been handed on.
    pub fn position(&self) -> u64 {
        self.offset + self.taken as u64
    }

    /// Returns the byte that ended the reading, if there was one.
    pub fn invalid(&self) -> Option<InvalidUtf8> {
        self.invalid
    }

    /// Reads the next block; keeps the beginning of a character that the last block has cut.
    fn fill(&mut self) -> io::Result<()> {
        self.block.drain(..self.taken);
        self.offset += self.taken as u64;
        (self.taken, self.valid) = (0, 0);
        let rest = self.block.len();
        self.block.resize(BLOCK.max(rest), 0);
        let read = loop {
            match self.inner.read(&mut self.block[rest..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.block.truncate(rest);
                    return Err(error);
                }
                Ok(read) => break read,
            }
        };
        self.block.truncate(rest + read);
        let (valid, is_cut) = match std::str::from_utf8(&self.block) {
            Ok(text) => (text.len(), false),
            Err(error) => (error.valid_up_to(), error.error_len().is_none()),
        };
        self.valid = valid;
        // A cut character continues in the next block, unless there is none.
        if valid < self.block.len() && (!is_cut || read == 0) {
            self.invalid = Some(InvalidUtf8 {
                offset: self.offset + valid as u64,
                byte: self.block[valid],
            });
        }
        Ok(())
    }
}

impl<R: Read> Read for Utf8Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // The JSON reader asks for one byte after another.
        if let [only] = into
            && self.taken < self.valid
        {
            *only = self.block[self.taken];
            self.taken += 1;
            return Ok(1);
        }
        while self.taken == self.valid {
            if self.invalid.is_some() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"));
            }
            let before = self.block.len() - self.taken;
            self.fill()?;
            if self.block.len() == before && self.invalid.is_none() {
                return Ok(0);
            }
        }
        let count = into.len().min(self.valid - self.taken);
        into[..count].copy_from_slice(&self.block[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reader that hands on at most this number of bytes at once.
    struct SlowReader<'b>(&'b [u8], usize);

    impl Read for SlowReader<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    proptest! {
        #[test]
        fn it_hands_on_what_is_utf8_and_names_the_first_byte_that_is_not(
            parts in prop::collection::vec(prop_oneof![
                8 => ".{0,8}".prop_map(String::into_bytes),
                1 => prop::collection::vec(any::<u8>(), 0..3),
            ], 0..8),
            at_once in 1usize..9,
        ) {
            let bytes = parts.concat();
            let mut reader = Utf8Reader::new(SlowReader(&bytes, at_once));
            let mut read = Vec::new();
            let end = reader.read_to_end(&mut read);
            match std::str::from_utf8(&bytes) {
                Ok(_) => {
                    prop_assert!(end.is_ok());
                    prop_assert_eq!(&read, &bytes);
                    prop_assert_eq!(reader.invalid(), None);
                }
                Err(error) => {
                    let offset = error.valid_up_to();
                    prop_assert!(end.is_err());
                    prop_assert_eq!(&read, &bytes[..offset]);
                    prop_assert_eq!(reader.invalid(), Some(InvalidUtf8 { offset: offset as u64, byte: bytes[offset] }));
                }
            }
            prop_assert_eq!(reader.position(), read.len() as u64);
        }
    }
}
