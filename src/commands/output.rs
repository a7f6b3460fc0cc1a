//! Output of the subcommands: data goes to standard output, messages go to standard error, both without control
//! characters.
//!
//! The views of a run are in [`orch_views`].

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use super::stderr;
use orch_base::text::printable;
use orch_base::text::redaction::redacted;
use orch_config::ConfigErrors;

/// Prints a message to standard error, without secrets and control characters. A closed standard error is ignored.
pub fn print_message(text: &str) {
    stderr::write(format!("{}\n", printable::text(&redacted(text))));
}

/// Prints configuration errors to standard error. The text is already safe and may contain colours.
pub fn print_config_errors(errors: &ConfigErrors) {
    stderr::write(format!("{errors}\n"));
}

/// Prints data to standard output. A closed pipe is ignored.
pub fn print(text: &str) {
    print_until_closed(text);
}

/// Prints a value to standard output as one line of JSON.
pub fn print_json(value: &impl Serialize) {
    print(&printable::json(value));
}

/// Formats a JSON value as text: a string without quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Prints data like [`print()`] and returns whether the pipe is still open, so that an endless output can end.
pub fn print_until_closed(text: &str) -> bool {
    writeln!(std::io::stdout(), "{}", printable::text(text)).is_ok()
}
