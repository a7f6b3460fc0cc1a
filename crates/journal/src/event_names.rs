//! Names of all kinds of events in the journal, from the type of the events itself.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapDeserializer;

use crate::event::EventKind;

/// Returns the names of all kinds of events, in the order of [`EventKind`].
pub fn event_names() -> &'static [&'static str] {
    // The derived decoder lists the names that it knows in the error about a name that it does not know.
    let unknown = std::iter::once(("event", ""));
    let decoded = EventKind::deserialize(MapDeserializer::<_, KnownNames>::new(unknown));
    decoded.err().map_or(&[], |known| known.0)
}

/// Error of the decoder, reduced to the names that it knows.
#[derive(Debug)]
struct KnownNames(&'static [&'static str]);

impl fmt::Display for KnownNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "known names: {}", self.0.join(", "))
    }
}

impl std::error::Error for KnownNames {}

impl serde::de::Error for KnownNames {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_name: &str, known: &'static [&'static str]) -> Self {
        Self(known)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_event::any_event;

    proptest! {
        #[test]
        fn every_event_has_one_of_the_names(event in any_event()) {
            let written = serde_json::to_value(&event).expect("plain data");
            let name = written["event"].as_str().expect("a name");
            prop_assert!(event_names().contains(&name), "{name}");
        }
    }
}
