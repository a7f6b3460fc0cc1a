//! Passes random bytes to every reader of files and texts that other programs write: `cargo +nightly fuzz run texts`.
//!
//! `src/fuzzing.rs` checks the same properties with texts built from pieces; this target searches
//! inputs by code coverage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orch::fuzzing::READERS;

fuzz_target!(|bytes: &[u8]| {
    for (_, read) in READERS {
        read(bytes);
    }
});
