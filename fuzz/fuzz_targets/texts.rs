//! Any bytes, given to every reader of files and texts that others write: `cargo +nightly fuzz run texts`.
//!
//! The same properties as `src/fuzzing.rs`, found by coverage instead of from pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orch::fuzzing::READERS;

fuzz_target!(|bytes: &[u8]| {
    for (_, read) in READERS {
        read(bytes);
    }
});
