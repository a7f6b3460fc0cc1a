//! Any bytes, given to every decoder of what comes from outside: `cargo +nightly fuzz run decoders`.
//!
//! The same properties as `src/celery/properties.rs`, found by coverage instead of from recorded messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orch::celery::fuzzing::DECODERS;

fuzz_target!(|bytes: &[u8]| {
    for (_, decode) in DECODERS {
        decode(bytes);
    }
});
