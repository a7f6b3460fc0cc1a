//! Passes random bytes to every decoder of external messages: `cargo +nightly fuzz run decoders`.
//!
//! `crates/celery/src/decoder_properties.rs` checks the same properties with changed copies of recorded messages; this
//! target searches inputs by code coverage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orch::celery::fuzzing::DECODERS;

fuzz_target!(|bytes: &[u8]| {
    for (_, decode) in DECODERS {
        decode(bytes);
    }
});
