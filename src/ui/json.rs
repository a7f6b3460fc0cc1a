//! `--output json`: the events themselves, one object a line.

use crate::printable;
use crate::run::Event;

/// The line of one event.
pub fn line(event: &Event) -> String {
    printable::json(event)
}
