//! What a subcommand prints: data on standard output, talk on standard error, and nothing that a terminal obeys.
//!
//! Not here: the views of a run, which are painted (`ui`).

use std::io::Write;

use serde::Serialize;

use super::stderr;
use crate::config::ConfigErrors;
use crate::printable;
use crate::redaction::redacted;

/// Talk goes to standard error; if that is closed there is nobody to tell.
pub fn say(text: &str) {
    stderr::write(format!("{}\n", printable::text(&redacted(text))));
}

/// The same, of texts that are safe already and may be coloured.
pub fn say_errors(errors: &ConfigErrors) {
    stderr::write(format!("{errors}\n"));
}

/// Data goes to standard output; a closed pipe is nobody's fault.
pub fn print(text: &str) {
    print_on(text);
}

/// The same as one line of JSON.
pub fn print_json(value: &impl Serialize) {
    print(&printable::json(value));
}

/// [`print`] of what goes on for as long as anybody reads it: whether somebody does.
pub fn print_on(text: &str) -> bool {
    writeln!(std::io::stdout(), "{}", printable::text(text)).is_ok()
}
