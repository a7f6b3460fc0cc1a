//! Texts for people and terminals: durations, sizes, redaction, printable output.

pub mod bytes;
pub mod counted;
pub mod duration;
pub mod duration_text;
pub mod glob;
mod id;
pub mod large_integer;
pub mod percent;
pub mod printable;
pub mod redaction;
pub mod secret;
pub mod signal_name;
pub mod size_text;
pub mod url_authority;
