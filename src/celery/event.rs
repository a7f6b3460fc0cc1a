//! Events that workers publish, as typed values (Celery wire, observed on 5.2 to 5.7).
//!
//! An event of a kind that is not known here passes through with all its fields, as do unknown fields of known kinds.

use std::time::Instant;

use serde_json::{Map, Value};

use super::envelope::Incoming;
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
        match Incoming::decode(message, what)?.body(what)? {
            Value::Array(several) => {
                let total = several.len();
                let events: Vec<Self> = several
                    .into_iter()
                    .filter_map(|event| Self::read(event, received_at))
                    .collect();
                let malformed = (total - events.len()) as u64;
                Ok((events, malformed))
            }
            one => match Self::read(one, received_at) {
                Some(event) => Ok((vec![event], 0)),
                None => Err(Error::Malformed {
                    what: what.to_owned(),
                    reason: "it lacks a field".to_owned(),
                }),
            },
        }
    }

    fn read(event: Value, received_at: Instant) -> Option<Self> {
        let Value::Object(fields) = event else { return None };
        let mut fields = Fields(fields);
        let name = fields.text("type")?;
        let node = NodeName::from(fields.text("hostname")?);
        let timestamp = fields.number("timestamp").unwrap_or_default();
        let clock = fields.count("clock").unwrap_or_default();
        let pid = fields.count("pid").and_then(|pid| u32::try_from(pid).ok());
        let kind = fields.kind(name)?;
        Some(Self {
            kind,
            node,
            timestamp,
            clock,
            pid,
            extra: fields.0,
            received_at,
        })
    }
}

/// The fields of an event that are not yet taken.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&mut self, name: &str) -> Option<String> {
        match self.0.remove(name)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        self.0.remove(name)?.as_f64()
    }

    fn count(&mut self, name: &str) -> Option<u64> {
        self.0.remove(name)?.as_u64()
    }

    fn flag(&mut self, name: &str) -> bool {
        self.0.remove(name).and_then(|flag| flag.as_bool()).unwrap_or_default()
    }

    fn id(&mut self, name: &str) -> Option<TaskId> {
        self.text(name).map(TaskId::from)
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
                queue: self.text("queue"),
            },
            "task-received" => TaskEvent::Received(self.origin()),
            "task-started" => TaskEvent::Started,
            "task-succeeded" => TaskEvent::Succeeded {
                result: self.text("result"),
                runtime_seconds: self.number("runtime"),
            },
            "task-failed" => TaskEvent::Failed {
                exception: self.text("exception"),
                traceback: self.text("traceback"),
            },
            "task-retried" => TaskEvent::Retried {
                exception: self.text("exception"),
                traceback: self.text("traceback"),
            },
            "task-revoked" => TaskEvent::Revoked {
                terminated: self.flag("terminated"),
                signum: self.0.remove("signum").and_then(|signum| signum.as_i64()),
                expired: self.flag("expired"),
            },
            "task-rejected" => TaskEvent::Rejected {
                requeue: self.flag("requeue"),
            },
            _ => return Some(EventKind::Other { name }),
        };
        Some(EventKind::Task {
            id: self.id("uuid")?,
            event,
        })
    }

    fn origin(&mut self) -> TaskOrigin {
        TaskOrigin {
            name: self.text("name"),
            args: self.text("args"),
            kwargs: self.text("kwargs"),
            root_id: self.id("root_id"),
            parent_id: self.id("parent_id"),
            retries: self.count("retries").unwrap_or_default(),
        }
    }

    fn load(&mut self) -> WorkerLoad {
        WorkerLoad {
            active: self.count("active"),
            processed: self.count("processed"),
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
