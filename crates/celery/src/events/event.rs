//! Events that workers publish, as typed values (Celery wire, observed on 5.2 to 5.7).
//!
//! An event of an unknown type is kept with all its fields. Unknown fields of known types are kept too.
//! [`decode`](super::decode) reads events.

use std::time::Instant;

use serde_json::{Map, Value};

use crate::wire::ids::{NodeName, TaskId};

/// Event of a worker or of a process that publishes tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    /// Publisher of the event: the node of a worker, or for `task-sent` the publishing process.
    pub node: NodeName,
    /// Time of the event in Unix seconds of the publisher's clock.
    pub timestamp: f64,
    /// Logical clock of the publisher. The clock orders only the events of one publisher.
    pub clock: u64,
    /// Process id of the publisher.
    pub pid: Option<u32>,
    /// Fields that this module does not know. `utcoffset` is left out because the timestamp does not depend on that
    /// field.
    pub extra: Map<String, Value>,
    /// Time at which this process received the event.
    pub received_at: Instant,
}

/// Type of an event, with the fields of that type.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    Task {
        id: TaskId,
        event: TaskEvent,
    },
    Worker(WorkerEvent),
    /// Event of another type, such as one that an app sends. The fields are in [`Event::extra`].
    Other {
        name: String,
    },
}

/// Change in the life of a task. The texts named `args`, `kwargs`, `result` and `exception` are in Python's `repr`
/// format.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    /// Sent by the publisher when `task_send_sent_event` is on. This event can arrive after `Received`.
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

/// Description of a task that only the first events of the task contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOrigin {
    pub name: Option<String>,
    pub args: Option<String>,
    pub kwargs: Option<String>,
    /// Id of the first task of the job.
    pub root_id: Option<TaskId>,
    pub parent_id: Option<TaskId>,
    pub retries: u64,
    /// Time in ISO 8601 before which the task must not start.
    pub eta: Option<String>,
    /// Time in ISO 8601 after which the task must not start.
    pub expires: Option<String>,
}

/// Change in the life of a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEvent {
    Online(WorkerLoad),
    Heartbeat(WorkerLoad),
    Offline(WorkerLoad),
}

/// Data that a worker sends about itself in each of its events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerLoad {
    /// Number of running tasks. Absent in the reply to a `heartbeat` command.
    pub active: Option<u64>,
    /// Number of tasks executed since the worker started. Absent in the reply to a `heartbeat` command.
    pub processed: Option<u64>,
    /// Load average of the worker's machine over 1, 5 and 15 minutes. Absent in the reply to a `heartbeat` command.
    pub load_average: Option<[f64; 3]>,
    /// Seconds between two heartbeats.
    pub heartbeat_seconds: Option<f64>,
    /// Software of the worker, such as `py-celery`.
    pub software: Option<String>,
    /// Version of the software, such as `5.7.0`.
    pub software_version: Option<String>,
    /// Operating system of the worker, such as `Linux`.
    pub system: Option<String>,
}
