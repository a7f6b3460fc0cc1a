//! Reading events off the wire (Celery wire, observed on 5.2 to 5.7): straight from the message into the typed event.
//!
//! A tree of JSON values in between would cost more than all else: most fields are borrowed until it is known, by
//! `type` (which comes last), whose they are.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::envelope;
use super::event::{Event, EventKind, TaskEvent, TaskOrigin, WorkerEvent, WorkerLoad};
use super::{Error, NodeName, Result, TaskId, json};

pub(super) const WHAT: &str = "an event";

/// Bytes of an id, of a task's or a node's name: Celery's ids have 36, a host's name has 255. They are what is remembered of
/// events, by the hundred thousand; a longer one is not believed.
pub(super) const LONGEST_NAME: usize = 512;

impl Event {
    /// Reads a message of an event channel, one event or a list of them, and puts what it holds at the end of
    /// `events`. Gives the number of list items that cannot be read. `space` is for the decoded body, and worth keeping.
    pub(super) fn decode(
        message: &[u8],
        received_at: Instant,
        events: &mut Vec<Self>,
        space: &mut Vec<u8>,
    ) -> Result<u64> {
        let before = events.len();
        let read = envelope::with_body(message, WHAT, space, |body| {
            json::parse_with(body, WHAT, |body| {
                // What a failed attempt has left.
                events.truncate(before);
                let mut reader = serde_json::Deserializer::from_slice(body);
                let read = Body { received_at, events }.deserialize(&mut reader)?;
                reader.end()?;
                Ok(read)
            })
        });
        match read {
            Ok(BodyRead::Several { malformed }) => Ok(malformed),
            Ok(BodyRead::One) => Ok(0),
            Ok(BodyRead::Malformed) => Err(Error::Malformed {
                what: WHAT.to_owned(),
                reason: "it lacks a field".to_owned(),
            }),
            Err(error) => {
                events.truncate(before);
                Err(error)
            }
        }
    }
}

/// What the body of a message was.
enum BodyRead {
    One,
    Several { malformed: u64 },
    Malformed,
}

/// Reads a body; the events go into the list.
struct Body<'a> {
    received_at: Instant,
    events: &'a mut Vec<Event>,
}

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = BodyRead;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<BodyRead, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// All that is neither a list nor an object.
macro_rules! visit_scalars {
    ($value:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

pub(super) use visit_scalars;

impl<'de> Visitor<'de> for Body<'_> {
    type Value = BodyRead;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event or a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<BodyRead, A::Error> {
        let received_at = self.received_at;
        let mut malformed = 0;
        while let Some(event) = items.next_element_seed(Item { received_at })? {
            match event {
                Some(event) => self.events.push(event),
                None => malformed += 1,
            }
        }
        Ok(BodyRead::Several { malformed })
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<BodyRead, A::Error> {
        let received_at = self.received_at;
        Ok(match (Item { received_at }).visit_map(fields)? {
            Some(event) => {
                self.events.push(event);
                BodyRead::One
            }
            None => BodyRead::Malformed,
        })
    }

    visit_scalars!(BodyRead::Malformed);
}

/// Reads one event; `None` when it is none.
struct Item {
    received_at: Instant,
}

impl<'de> DeserializeSeed<'de> for Item {
    type Value = Option<Event>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Event>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item {
    type Value = Option<Event>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Event>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Event>, A::Error> {
        let mut fields = Fields::default();
        while let Some(json::Text(name)) = entries.next_key()? {
            match Known::named(&name) {
                Some(known) => fields.known[known as usize] = Some(entries.next_value()?),
                None => {
                    fields.unknown.insert(name.into_owned(), entries.next_value()?);
                }
            }
        }
        Ok(fields.event(self.received_at))
    }

    visit_scalars!(None);
}

/// What a field holds.
enum Field<'de> {
    Text(Cow<'de, str>),
    Other(Value),
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Field<'de>, E> {
                Ok(Field::Other(Value::from(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Field<'de>, E> {
                Ok(Field::Other(Value::from(value)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Field<'de>, E> {
                Ok(Field::Other(Value::from(value)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Field<'de>, E> {
                Ok(Field::Other(Value::from(value)))
            }

            fn visit_unit<E>(self) -> Result<Field<'de>, E> {
                Ok(Field::Other(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field<'de>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Field::Other(Value::Array(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Field<'de>, A::Error> {
                let mut object = Map::new();
                while let Some((name, value)) = entries.next_entry()? {
                    object.insert(name, value);
                }
                Ok(Field::Other(Value::Object(object)))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl Field<'_> {
    fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Other(value) => value,
        }
    }
}

/// The fields that some event has, each with its place in [`Fields`] and its name on the wire.
macro_rules! known_fields {
    ($($variant:ident $name:literal,)*) => {
        #[derive(Clone, Copy)]
        enum Known {
            $($variant,)*
        }

        const NAMES: &[&str] = &[$($name,)*];

        impl Known {
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

known_fields! {
    Type "type",
    Hostname "hostname",
    Timestamp "timestamp",
    Clock "clock",
    Pid "pid",
    UtcOffset "utcoffset",
    Uuid "uuid",
    Name "name",
    Args "args",
    Kwargs "kwargs",
    RootId "root_id",
    ParentId "parent_id",
    Retries "retries",
    Eta "eta",
    Expires "expires",
    Queue "queue",
    Result "result",
    Runtime "runtime",
    Exception "exception",
    Traceback "traceback",
    Terminated "terminated",
    Signum "signum",
    Expired "expired",
    Requeue "requeue",
    Active "active",
    Processed "processed",
    LoadAverage "loadavg",
    Frequency "freq",
    Software "sw_ident",
    SoftwareVersion "sw_ver",
    System "sw_sys",
}

/// The fields of one event; those that are taken are gone.
#[derive(Default)]
struct Fields<'de> {
    known: [Option<Field<'de>>; NAMES.len()],
    unknown: Map<String, Value>,
}

impl Fields<'_> {
    /// `None` when a field without which the event means nothing is missing.
    fn event(mut self, received_at: Instant) -> Option<Event> {
        let Some(Field::Text(name)) = self.known[Known::Type as usize].take() else {
            return None;
        };
        let node = NodeName::from(self.name(Known::Hostname)?);
        let timestamp = self.number(Known::Timestamp).unwrap_or_default();
        let clock = self.count(Known::Clock).unwrap_or_default();
        let pid = self.count(Known::Pid).and_then(|pid| u32::try_from(pid).ok());
        // Of the publisher's clock; the timestamp does not depend on it.
        self.known[Known::UtcOffset as usize] = None;
        let kind = self.kind(&name)?;
        Some(Event {
            kind,
            node,
            timestamp,
            clock,
            pid,
            extra: self.rest(),
            received_at,
        })
    }

    fn rest(self) -> Map<String, Value> {
        let mut extra = self.unknown;
        for (name, field) in NAMES.iter().zip(self.known) {
            if let Some(field) = field {
                extra.insert((*name).to_owned(), field.into_value());
            }
        }
        extra
    }

    fn text(&mut self, known: Known) -> Option<String> {
        match self.known[known as usize].take()? {
            Field::Text(text) => Some(text.into_owned()),
            Field::Other(_) => None,
        }
    }

    /// What is remembered: nothing that is too long for it.
    fn name(&mut self, known: Known) -> Option<String> {
        self.text(known).filter(|text| text.len() <= LONGEST_NAME)
    }

    fn value(&mut self, known: Known) -> Option<Value> {
        match self.known[known as usize].take()? {
            Field::Text(_) => None,
            Field::Other(value) => Some(value),
        }
    }

    fn number(&mut self, known: Known) -> Option<f64> {
        self.value(known)?.as_f64()
    }

    fn count(&mut self, known: Known) -> Option<u64> {
        self.value(known)?.as_u64()
    }

    fn flag(&mut self, known: Known) -> bool {
        self.value(known).and_then(|flag| flag.as_bool()).unwrap_or_default()
    }

    fn id(&mut self, known: Known) -> Option<TaskId> {
        self.name(known).map(TaskId::from)
    }

    fn kind(&mut self, name: &str) -> Option<EventKind> {
        let event = match name {
            "worker-online" => return Some(EventKind::Worker(WorkerEvent::Online(self.load()))),
            "worker-heartbeat" => return Some(EventKind::Worker(WorkerEvent::Heartbeat(self.load()))),
            "worker-offline" => return Some(EventKind::Worker(WorkerEvent::Offline(self.load()))),
            "task-sent" => TaskEvent::Sent {
                task: self.origin(),
                queue: self.text(Known::Queue),
            },
            "task-received" => TaskEvent::Received(self.origin()),
            "task-started" => TaskEvent::Started,
            "task-succeeded" => TaskEvent::Succeeded {
                result: self.text(Known::Result),
                runtime_seconds: self.number(Known::Runtime),
            },
            "task-failed" => TaskEvent::Failed {
                exception: self.text(Known::Exception),
                traceback: self.text(Known::Traceback),
            },
            "task-retried" => TaskEvent::Retried {
                exception: self.text(Known::Exception),
                traceback: self.text(Known::Traceback),
            },
            "task-revoked" => TaskEvent::Revoked {
                terminated: self.flag(Known::Terminated),
                signum: self.value(Known::Signum).and_then(|signum| signum.as_i64()),
                expired: self.flag(Known::Expired),
            },
            "task-rejected" => TaskEvent::Rejected {
                requeue: self.flag(Known::Requeue),
            },
            _ => return Some(EventKind::Other { name: name.to_owned() }),
        };
        Some(EventKind::Task {
            id: self.id(Known::Uuid)?,
            event,
        })
    }

    fn origin(&mut self) -> TaskOrigin {
        TaskOrigin {
            name: self.name(Known::Name),
            args: self.text(Known::Args),
            kwargs: self.text(Known::Kwargs),
            root_id: self.id(Known::RootId),
            parent_id: self.id(Known::ParentId),
            retries: self.count(Known::Retries).unwrap_or_default(),
            eta: self.text(Known::Eta),
            expires: self.text(Known::Expires),
        }
    }

    fn load(&mut self) -> WorkerLoad {
        let load_average = self.value(Known::LoadAverage);
        WorkerLoad {
            active: self.count(Known::Active),
            processed: self.count(Known::Processed),
            load_average: load_average.and_then(|load| serde_json::from_value(load).ok()),
            heartbeat_seconds: self.number(Known::Frequency),
            software: self.text(Known::Software),
            software_version: self.text(Known::SoftwareVersion),
            system: self.text(Known::System),
        }
    }
}

#[cfg(test)]
#[path = "event_decode_tests.rs"]
mod tests;
