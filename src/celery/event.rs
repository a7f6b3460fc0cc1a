//! Events that workers publish, as typed values (Celery wire, observed on 5.2 to 5.7).
//!
//! An event of a kind that is not known here passes through with all its fields, as do unknown fields of known kinds.
//! How they are read is in `event_decode`.

use std::time::Instant;

use serde_json::{Map, Value};

use super::{NodeName, TaskId};

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
    /// Fields that are not known here. `utcoffset` is left out: the timestamp does not
    /// depend on it.
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
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEvent {
    Online(WorkerLoad),
    Heartbeat(WorkerLoad),
    Offline(WorkerLoad),
}

/// What a worker says of itself in each of its events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerLoad {
    /// Tasks running; absent in the answer to a `heartbeat` request.
    pub active: Option<u64>,
    /// Tasks run since its start; absent in the answer to a `heartbeat` request.
    pub processed: Option<u64>,
    /// Load of its machine over 1, 5 and 15 minutes; absent in the answer to a `heartbeat` request.
    pub load_average: Option<[f64; 3]>,
    /// Seconds between two heartbeats.
    pub heartbeat_seconds: Option<f64>,
    /// What runs there, such as `py-celery`.
    pub software: Option<String>,
    /// Its version, such as `5.7.0`.
    pub software_version: Option<String>,
    /// Its operating system, such as `Linux`.
    pub system: Option<String>,
}
