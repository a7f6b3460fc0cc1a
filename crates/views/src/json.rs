//! Formats `--output json`: the events themselves, one object per line.

use orch_base::text::printable;
use orch_journal::Event;

/// Formats one event.
pub fn line(event: &Event) -> String {
    printable::json(event)
}
