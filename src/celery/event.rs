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
