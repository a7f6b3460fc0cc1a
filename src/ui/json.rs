//! `--output json`: the events themselves, one object a line.

use crate::run::Event;

/// The line of one event.
pub fn line(event: &Event) -> String {
    // An event is plain data: only a failing writer could fail, and a string does not.
    serde_json::to_string(event).unwrap_or_default()
}
