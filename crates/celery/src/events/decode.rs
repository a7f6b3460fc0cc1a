//! Decoder of events: converts a message directly into typed events (Celery wire, observed on 5.2 to 5.7).
//!
//! A tree of JSON values as an intermediate step would cost more than everything else. The decoder borrows most fields
//! from the message until `type` (which comes last) determines the kind of event.

use std::time::Instant;

use serde::de::MapAccess;
use serde_json::{Map, Value};

use super::body::{EVENT_NAME, EventReader, EventsRead};
use super::event::{Event, EventKind, TaskEvent, TaskOrigin, WorkerEvent, WorkerLoad};
use crate::error::Result;
use crate::wire::envelope;
use crate::wire::ids::{LONGEST_NAME, NodeName, TaskId};
use crate::wire::json;
use crate::wire::scalar_value::ScalarValue;

impl Event {
    /// Reads a message of an event channel (one event or a list of events) and appends the events to `events`. Returns
    /// the number of list items that cannot be read. `space` holds the decoded body; reuse the buffer to save
    /// allocations.
    pub(crate) fn decode(
        message: &[u8],
        received_at: Instant,
        events: &mut Vec<Self>,
        space: &mut Vec<u8>,
    ) -> Result<u64> {
        let before = events.len();
        let read = envelope::with_body(message, EVENT_NAME, space, |body| {
            json::parse_with(body, EVENT_NAME, |body| {
                // Remove the events of a failed first attempt.
                events.truncate(before);
                let body = serde_json::Deserializer::from_slice(body);
                EventsRead::read(body, &mut EventList { received_at, events })
            })
        });
        if read.is_err() {
            events.truncate(before);
        }
        read?.malformed()
    }
}

/// List to which events are appended.
struct EventList<'a> {
    received_at: Instant,
    events: &'a mut Vec<Event>,
}

impl EventReader for EventList<'_> {
    fn read<'de, A: MapAccess<'de>>(&mut self, mut entries: A) -> Result<bool, A::Error> {
        let mut fields = EventFields::default();
        while let Some(json::BorrowedText(name)) = entries.next_key()? {
            match KnownField::named(&name) {
                Some(known) => fields.known[known as usize] = Some(entries.next_value()?),
                None => {
                    fields.unknown.insert(name.into_owned(), entries.next_value()?);
                }
            }
        }
        let event = fields.event(self.received_at);
        let is_event = event.is_some();
        self.events.extend(event);
        Ok(is_event)
    }
}

/// Value of an event field.
type EventField<'de> = ScalarValue<'de, Value>;

/// Defines the known event fields, each with an index and a name on the wire.
macro_rules! known_fields {
    ($($variant:ident $name:literal,)*) => {
        #[derive(Clone, Copy)]
        enum KnownField {
            $($variant,)*
        }

        const NAMES: &[&str] = &[$($name,)*];

        impl KnownField {
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

/// Fields of one event. A field that has been taken is `None`.
#[derive(Default)]
struct EventFields<'de> {
    known: [Option<EventField<'de>>; NAMES.len()],
    unknown: Map<String, Value>,
}

impl<'de> EventFields<'de> {
    /// Returns `None` when a required field is missing.
    fn event(mut self, received_at: Instant) -> Option<Event> {
        let Some(EventField::Text(name)) = self.known[KnownField::Type as usize].take() else {
            return None;
        };
        let node = NodeName::from(self.name(KnownField::Hostname)?);
        let timestamp = self.number(KnownField::Timestamp).unwrap_or_default();
        let clock = self.count(KnownField::Clock).unwrap_or_default();
        let pid = self.count(KnownField::Pid).and_then(|pid| u32::try_from(pid).ok());
        // This is the publisher's UTC offset; the timestamp does not depend on it.
        self.known[KnownField::UtcOffset as usize] = None;
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
                let value = match field {
                    EventField::Text(text) => Value::String(text.into_owned()),
                    EventField::Flag(flag) => Value::Bool(flag),
                    EventField::Number(number) => Value::Number(number),
                    EventField::Other(value) => value,
                };
                extra.insert((*name).to_owned(), value);
            }
        }
        extra
    }

    fn take(&mut self, known: KnownField) -> Option<EventField<'de>> {
        self.known[known as usize].take()
    }

    fn text(&mut self, known: KnownField) -> Option<String> {
        match self.take(known)? {
            EventField::Text(text) => Some(text.into_owned()),
            EventField::Flag(_) | EventField::Number(_) | EventField::Other(_) => None,
        }
    }

    /// Takes a text that is kept after the event. Returns `None` for a text that is too long.
    fn name(&mut self, known: KnownField) -> Option<String> {
        self.text(known).filter(|text| text.len() <= LONGEST_NAME)
    }

    fn number(&mut self, known: KnownField) -> Option<f64> {
        self.take(known)?.number()?.as_f64()
    }

    fn count(&mut self, known: KnownField) -> Option<u64> {
        self.take(known)?.number()?.as_u64()
    }

    fn flag(&mut self, known: KnownField) -> bool {
        self.take(known).is_some_and(|field| field.is_set())
    }

    fn id(&mut self, known: KnownField) -> Option<TaskId> {
        self.name(known).map(TaskId::from)
    }

    fn kind(&mut self, name: &str) -> Option<EventKind> {
        let event = match name {
            "worker-online" => return Some(EventKind::Worker(WorkerEvent::Online(self.load()))),
            "worker-heartbeat" => return Some(EventKind::Worker(WorkerEvent::Heartbeat(self.load()))),
            "worker-offline" => return Some(EventKind::Worker(WorkerEvent::Offline(self.load()))),
            "task-sent" => TaskEvent::Sent {
                task: self.origin(),
                queue: self.text(KnownField::Queue),
            },
            "task-received" => TaskEvent::Received(self.origin()),
            "task-started" => TaskEvent::Started,
            "task-succeeded" => TaskEvent::Succeeded {
                result: self.text(KnownField::Result),
                runtime_seconds: self.number(KnownField::Runtime),
            },
            "task-failed" => TaskEvent::Failed {
                exception: self.text(KnownField::Exception),
                traceback: self.text(KnownField::Traceback),
            },
            "task-retried" => TaskEvent::Retried {
                exception: self.text(KnownField::Exception),
                traceback: self.text(KnownField::Traceback),
            },
            "task-revoked" => TaskEvent::Revoked {
                terminated: self.flag(KnownField::Terminated),
                signum: self
                    .take(KnownField::Signum)
                    .and_then(|signum| signum.number()?.as_i64()),
                expired: self.flag(KnownField::Expired),
            },
            "task-rejected" => TaskEvent::Rejected {
                requeue: self.flag(KnownField::Requeue),
            },
            _ => return Some(EventKind::Other { name: name.to_owned() }),
        };
        Some(EventKind::Task {
            id: self.id(KnownField::Uuid)?,
            event,
        })
    }

    fn origin(&mut self) -> TaskOrigin {
        TaskOrigin {
            name: self.name(KnownField::Name),
            args: self.text(KnownField::Args),
            kwargs: self.text(KnownField::Kwargs),
            root_id: self.id(KnownField::RootId),
            parent_id: self.id(KnownField::ParentId),
            retries: self.count(KnownField::Retries).unwrap_or_default(),
            eta: self.text(KnownField::Eta),
            expires: self.text(KnownField::Expires),
        }
    }

    fn load(&mut self) -> WorkerLoad {
        let load_average = match self.take(KnownField::LoadAverage) {
            Some(EventField::Other(load)) => serde_json::from_value(load).ok(),
            _ => None,
        };
        WorkerLoad {
            active: self.count(KnownField::Active),
            processed: self.count(KnownField::Processed),
            load_average,
            heartbeat_seconds: self.number(KnownField::Frequency),
            software: self.text(KnownField::Software),
            software_version: self.text(KnownField::SoftwareVersion),
            system: self.text(KnownField::System),
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
