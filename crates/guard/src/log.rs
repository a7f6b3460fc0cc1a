//! The guard's own log: one line per message, on standard error.

use std::io::{self, Write};

use orch_base::text::printable::one_line;

/// Writes a line with the time in seconds since 1970.
pub fn log(text: &str) {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let text = one_line(text);
    writeln!(io::stderr(), "{}.{:03} {text}", since.as_secs(), since.subsec_millis()).ok();
}
