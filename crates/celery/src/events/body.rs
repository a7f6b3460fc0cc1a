//! Body of a message of an event channel: one event or a list of events.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::wire::scalar_value::visit_scalars;

pub(crate) const EVENT_NAME: &str = "an event";

/// Reader of single events.
pub(crate) trait EventReader {
    /// Reads the fields of one event. Returns false when a required field is missing.
    fn read<'de, A: MapAccess<'de>>(&mut self, fields: A) -> Result<bool, A::Error>;
}

/// Kind of a message body.
pub(crate) enum EventsRead {
    One,
    Several { malformed: u64 },
    Malformed,
}

impl EventsRead {
    /// Reads a body and passes each event to the reader.
    pub(crate) fn read<'de, S: serde_json::de::Read<'de>>(
        mut body: serde_json::Deserializer<S>,
        reader: &mut impl EventReader,
    ) -> serde_json::Result<Self> {
        let read = EventsBody { reader, is_item: false }.deserialize(&mut body)?;
        body.end()?;
        Ok(read)
    }

    /// Returns the number of list items that cannot be read.
    pub(crate) fn malformed(self) -> Result<u64> {
        match self {
            Self::Several { malformed } => Ok(malformed),
            Self::One => Ok(0),
            Self::Malformed => Err(Error::malformed(EVENT_NAME, "a required field is missing")),
        }
    }
}

/// One event or a list of events.
struct EventsBody<'a, R> {
    reader: &'a mut R,
    /// This is an item of a list, so another list is not an event.
    is_item: bool,
}

impl<'de, R: EventReader> DeserializeSeed<'de> for EventsBody<'_, R> {
    type Value = EventsRead;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<EventsRead, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: EventReader> Visitor<'de> for EventsBody<'_, R> {
    type Value = EventsRead;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event or a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<EventsRead, A::Error> {
        if self.is_item {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(EventsRead::Malformed);
        }
        let mut malformed = 0;
        loop {
            let item = EventsBody {
                reader: &mut *self.reader,
                is_item: true,
            };
            match items.next_element_seed(item)? {
                Some(EventsRead::One) => {}
                Some(_) => malformed += 1,
                None => return Ok(EventsRead::Several { malformed }),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<EventsRead, A::Error> {
        Ok(if self.reader.read(fields)? {
            EventsRead::One
        } else {
            EventsRead::Malformed
        })
    }

    visit_scalars!(EventsRead::Malformed);
}
