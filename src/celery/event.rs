//! Events that workers publish, as typed values (Celery wire, observed on 5.2 to 5.7).
//!
//! An event of a kind that is not known here passes through with all its fields, as do unknown fields of known kinds.

use std::fmt;
use std::time::Instant;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::envelope::read_body;
use super::{Error, NodeName, Result, TaskId};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    /// Who published it: a worker's node, or for `task-sent` the publishing process.
    pub node: NodeName,
    /// Unix seconds of the publisher's clock.
    pub timestamp: f64,
    /// The publisher's logical clock: an order within one publisher only.
    pub clock: u64,
    /// The publisher's process.
    pub pid: Option<u32>,
    /// Fields that are not known here.
    pub extra: Map<String, Value>,
    /// When this process had it in hand.
    pub received_at: Instant,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    Task {
        id: TaskId,
        event: TaskEvent,
    },
    Worker(WorkerEvent),
    /// Another type, such as one an app sends itself; its fields are in [`Event::extra`].
    Other {
        name: String,
    },
}

/// What happened to a task. Texts named `args`, `kwargs`, `result` and `exception` are Python's `repr`.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    /// By the publisher, where `task_send_sent_event` is on; may come after `Received`.
    Sent {
        task: TaskOrigin,
        queue: Option<String>,
    },
    Received(TaskOrigin),
    Started,
    Succeeded {
        result: Option<String>,
        runtime_seconds: Option<f64>,
    },
    Failed {
        exception: Option<String>,
        traceback: Option<String>,
    },
    Retried {
        exception: Option<String>,
        traceback: Option<String>,
    },
    Revoked {
        terminated: bool,
        signum: Option<i64>,
        expired: bool,
    },
    Rejected {
        requeue: bool,
    },
}

/// What only the first events of a task tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOrigin {
    pub name: Option<String>,
    pub args: Option<String>,
    pub kwargs: Option<String>,
    /// First task of the job.
    pub root_id: Option<TaskId>,
    pub parent_id: Option<TaskId>,
    pub retries: u64,
    /// ISO 8601.
    pub eta: Option<String>,
    /// ISO 8601.
    pub expires: Option<String>,
}

/// What happened to a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WorkerEvent {
    Online(WorkerLoad),
    Heartbeat(WorkerLoad),
    Offline(WorkerLoad),
}

/// A worker's counters; absent in the answer to a `heartbeat` request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Tasks running.
    pub active: Option<u64>,
    /// Tasks run since its start.
    pub processed: Option<u64>,
}

impl Event {
    /// Reads a message of an event channel: one event, or a list of them. The number is that of list items that
    /// cannot be read.
    pub(super) fn decode(message: &[u8], received_at: Instant) -> Result<(Vec<Self>, u64)> {
        let what = "an event";
        let mut events = match read_body(message, what)? {
            Body::Several { events, malformed } => (events, malformed),
            Body::One(Some(event)) => (vec![*event], 0),
            Body::One(None) => {
                return Err(Error::Malformed {
                    what: what.to_owned(),
                    reason: "it lacks a field".to_owned(),
                });
            }
        };
        for event in &mut events.0 {
            event.received_at = received_at;
        }
        Ok(events)
    }
}

/// The body of a message, read without a tree in between.
enum Body {
    /// `None`: it is no event.
    One(Option<Box<Event>>),
    Several {
        events: Vec<Event>,
        malformed: u64,
    },
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event or a list of events")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Body, A::Error> {
        Ok(Body::One(Fields::read(map)?.event().map(Box::new)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Body, A::Error> {
        let (mut events, mut malformed) = (Vec::new(), 0);
        while let Some(Item(event)) = items.next_element()? {
            match event {
                Some(event) => events.push(event),
                None => malformed += 1,
            }
        }
        Ok(Body::Several { events, malformed })
    }
}

/// An item of a list of events; `None`: it is no event.
struct Item(Option<Event>);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
        Ok(Item(Fields::read(map)?.event()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Item, E> {
        Ok(Item(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Item, E> {
        Ok(Item(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Item, E> {
        Ok(Item(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Item, E> {
        Ok(Item(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Item, E> {
        Ok(Item(None))
    }

    fn visit_unit<E>(self) -> Result<Item, E> {
        Ok(Item(None))
    }
}

/// The names of fields that some event has, and their places in [`Fields`].
macro_rules! fields {
    ($($field:ident = $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field {
            $($field),*
        }

        impl Field {
            const NAMES: &[&str] = &[$($name),*];

            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Type = "type",
    Hostname = "hostname",
    Timestamp = "timestamp",
    Clock = "clock",
    Pid = "pid",
    UtcOffset = "utcoffset",
    Uuid = "uuid",
    Name = "name",
    Args = "args",
    Kwargs = "kwargs",
    RootId = "root_id",
    ParentId = "parent_id",
    Retries = "retries",
    Eta = "eta",
    Expires = "expires",
    Queue = "queue",
    Result = "result",
    Runtime = "runtime",
    Exception = "exception",
    Traceback = "traceback",
    Terminated = "terminated",
    Signum = "signum",
    Expired = "expired",
    Requeue = "requeue",
    Active = "active",
    Processed = "processed",
}

/// A name in an event: a known field's, or any other.
enum Name {
    Known(Field),
    Other(String),
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(match Field::named(name) {
            Some(field) => Name::Known(field),
            None => Name::Other(name.to_owned()),
        })
    }
}

/// The fields of an event that are not yet taken.
struct Fields {
    known: [Option<Value>; Field::NAMES.len()],
    other: Map<String, Value>,
}

impl Fields {
    fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut fields = Self {
            known: [const { None }; Field::NAMES.len()],
            other: Map::new(),
        };
        while let Some(name) = map.next_key()? {
            let value: Value = map.next_value()?;
            match name {
                Name::Known(field) => {
                    if let Some(place) = fields.known.get_mut(field as usize) {
                        *place = Some(value);
                    }
                }
                Name::Other(name) => {
                    fields.other.insert(name, value);
                }
            }
        }
        Ok(fields)
    }

    fn event(mut self) -> Option<Event> {
        let name = self.text(Field::Type)?;
        let node = NodeName::from(self.text(Field::Hostname)?);
        let timestamp = self.number(Field::Timestamp).unwrap_or_default();
        let clock = self.count(Field::Clock).unwrap_or_default();
        let pid = self.count(Field::Pid).and_then(|pid| u32::try_from(pid).ok());
        // Of the publisher's clock; the timestamp does not depend on it.
        self.take(Field::UtcOffset);
        let kind = self.kind(name)?;
        Some(Event {
            kind,
            node,
            timestamp,
            clock,
            pid,
            extra: self.rest(),
            received_at: Instant::now(),
        })
    }

    /// What is not taken, by name.
    fn rest(self) -> Map<String, Value> {
        let mut rest = self.other;
        for (name, value) in Field::NAMES.iter().zip(self.known) {
            if let Some(value) = value {
                rest.insert((*name).to_owned(), value);
            }
        }
        rest
    }

    fn take(&mut self, field: Field) -> Option<Value> {
        self.known.get_mut(field as usize)?.take()
    }

    fn text(&mut self, field: Field) -> Option<String> {
        match self.take(field)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn number(&mut self, field: Field) -> Option<f64> {
        self.take(field)?.as_f64()
    }

    fn count(&mut self, field: Field) -> Option<u64> {
        self.take(field)?.as_u64()
    }

    fn flag(&mut self, field: Field) -> bool {
        self.take(field).and_then(|flag| flag.as_bool()).unwrap_or_default()
    }

    fn id(&mut self, field: Field) -> Option<TaskId> {
        self.text(field).map(TaskId::from)
    }

    /// `None` when a field without which the event means nothing is missing.
    fn kind(&mut self, name: String) -> Option<EventKind> {
        let worker = match name.as_str() {
            "worker-online" => Some(WorkerEvent::Online(self.load())),
            "worker-heartbeat" => Some(WorkerEvent::Heartbeat(self.load())),
            "worker-offline" => Some(WorkerEvent::Offline(self.load())),
            _ => None,
        };
        if let Some(event) = worker {
            return Some(EventKind::Worker(event));
        }
        let event = match name.as_str() {
            "task-sent" => TaskEvent::Sent {
                task: self.origin(),
                queue: self.text(Field::Queue),
            },
            "task-received" => TaskEvent::Received(self.origin()),
            "task-started" => TaskEvent::Started,
            "task-succeeded" => TaskEvent::Succeeded {
                result: self.text(Field::Result),
                runtime_seconds: self.number(Field::Runtime),
            },
            "task-failed" => TaskEvent::Failed {
                exception: self.text(Field::Exception),
                traceback: self.text(Field::Traceback),
            },
            "task-retried" => TaskEvent::Retried {
                exception: self.text(Field::Exception),
                traceback: self.text(Field::Traceback),
            },
            "task-revoked" => TaskEvent::Revoked {
                terminated: self.flag(Field::Terminated),
                signum: self.take(Field::Signum).and_then(|signum| signum.as_i64()),
                expired: self.flag(Field::Expired),
            },
            "task-rejected" => TaskEvent::Rejected {
                requeue: self.flag(Field::Requeue),
            },
            _ => return Some(EventKind::Other { name }),
        };
        Some(EventKind::Task {
            id: self.id(Field::Uuid)?,
            event,
        })
    }

    fn origin(&mut self) -> TaskOrigin {
        TaskOrigin {
            name: self.text(Field::Name),
            args: self.text(Field::Args),
            kwargs: self.text(Field::Kwargs),
            root_id: self.id(Field::RootId),
            parent_id: self.id(Field::ParentId),
            retries: self.count(Field::Retries).unwrap_or_default(),
            eta: self.text(Field::Eta),
            expires: self.text(Field::Expires),
        }
    }

    fn load(&mut self) -> WorkerLoad {
        WorkerLoad {
            active: self.count(Field::Active),
            processed: self.count(Field::Processed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::frames;
    use super::*;

    fn decode(body: Value) -> Result<(Vec<Event>, u64)> {
        let envelope = json!({"body": body, "content-type": "application/json", "content-encoding": "utf-8",
                              "headers": {}, "properties": {"body_encoding": "base64"}});
        Event::decode(&frames::wire(&envelope), Instant::now())
    }

    #[test]
    fn every_event_of_every_version_is_known() {
        for version in frames::VERSIONS {
            for (name, envelope) in frames::load(version, "events").as_object().expect("frames by name") {
                let (events, malformed) = Event::decode(&frames::wire(envelope), Instant::now()).expect(name);
                assert_eq!(malformed, 0, "{version} {name}");
                for event in &events {
                    assert!(
                        !matches!(event.kind, EventKind::Other { .. }),
                        "{version} {name}: {event:?}"
                    );
                    assert!(
                        event.timestamp > 1.0e9 && event.clock > 0 && event.pid.is_some(),
                        "{version} {name}"
                    );
                }
                if let EventKind::Task {
                    event: TaskEvent::Received(task),
                    ..
                } = &events[0].kind
                {
                    assert!(task.name.is_some() && task.root_id.is_some(), "{version} {name}");
                }
            }
            let batch = frames::load(version, "events")["multi_batch"].clone();
            let (events, _) = Event::decode(&frames::wire(&batch), Instant::now()).expect("a batch");
            assert_eq!(
                events.len(),
                batch["body"].as_array().expect("a list").len(),
                "{version}"
            );
        }
    }

    #[test]
    fn what_is_unknown_passes_through() {
        let body = json!({"type": "page-scraped", "hostname": "w1@node", "url": "http://x", "timestamp": 2.5e11});
        let (events, _) = decode(body).expect("an event");
        assert_eq!(
            events[0].kind,
            EventKind::Other {
                name: "page-scraped".to_owned()
            }
        );
        assert_eq!(Value::Object(events[0].extra.clone()), json!({"url": "http://x"}));

        let body = json!({"type": "task-started", "hostname": "w1@node", "uuid": "t", "lane": 3});
        let (events, _) = decode(body).expect("an event");
        assert_eq!(
            events[0].kind,
            EventKind::Task {
                id: TaskId::from("t"),
                event: TaskEvent::Started
            }
        );
        assert_eq!(Value::Object(events[0].extra.clone()), json!({"lane": 3}));
    }

    #[test]
    fn broken_items_of_a_list_are_counted_and_the_rest_is_kept() {
        let good = json!({"type": "task-started", "hostname": "w1@node", "uuid": "t"});
        let without_id = json!({"type": "task-started", "hostname": "w1@node"});
        let (events, malformed) = decode(json!([good, 7, without_id, {}, good])).expect("a list");
        assert_eq!((events.len(), malformed), (2, 3));
        assert!(decode(json!({"type": "task-started"})).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            "[a-z-]{1,8}",
            Just("type".to_owned()),
            Just("uuid".to_owned()),
            Just("hostname".to_owned()),
            Just("clock".to_owned()),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop_oneof![Just("task-failed".to_owned()), ".{0,8}"].prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::hash_map(name.clone(), inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in any_json()) {
            let _outcome = decode(body);
        }
    }
}
