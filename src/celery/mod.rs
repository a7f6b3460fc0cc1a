//! Celery over Redis, spoken natively: publish, results, chord progress, remote control, events.
//!
//! Knows nothing of the rest of orch and could be a crate of its own. JSON serialisation only. Protocol facts are
//! from the wire, observed on Celery 5.2 to 5.7.

mod broker_queues;
mod candidate;
mod celery_url;
mod chord;
mod chord_part;
mod client;
mod connection;
mod consumers;
mod consuming;
mod control;
mod descendants;
mod endpoint;
mod envelope;
mod error;
mod event;
mod event_decode;
mod event_drain;
mod event_inbox;
mod event_stream;
mod field;
mod flat_json;
#[cfg(test)]
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod inspect;
mod jobs;
mod json;
mod key_types;
mod keys;
mod leftovers;
mod mailbox;
mod message;
mod observed_lists;
mod poison;
mod pool_process;
#[cfg(test)]
mod properties;
mod publish;
mod push;
mod python_repr;
mod queues;
mod reply_limit;
mod reply_list;
mod resolver;
mod restore;
mod restore_scope;
mod result_tree;
mod results;
mod sentinel;
mod server;
mod signal;
mod signature;
mod subscription;
mod sweep;
mod task;
mod task_news;
mod task_result;
mod transport;

pub use broker_queues::{BrokerQueues, Waiting};
pub use celery_url::{Purpose, celery_url, redis_url};
pub use chord::ChordProgress;
pub use client::Client;
pub use consumers::{Consumed, Consumers};
pub use consuming::{Consumption, ConsumptionWatch, Observation, Verdict, WorkerView, judge};
pub use control::Control;
pub use descendants::{Descendants, StoredTask};
pub use endpoint::{Access, Address, Endpoint, Endpoints, Password, Tls};
pub use error::{Error, Result};
pub use event::{Event, EventKind, TaskEvent, TaskOrigin, WorkerEvent, WorkerLoad};
pub use event_stream::{Batch, EventStream, Notice};
pub use ids::{GroupId, NodeName, TaskId};
pub use inspect::{
    Acknowledgement, BrokerAddress, ConsumedQueue, DeliveryInfo, Execution, QueriedTask, RunningTask, Scheduled, Stats,
};
pub use jobs::{Job, JobTracker, Limits, Outcome, TaskCounts, Totals};
pub use json::SIZE_LIMIT;
pub use key_types::MistypedKey;
pub use leftovers::{Kept, Leftovers};
pub use mailbox::{Replies, Target};
pub use message::QueuedTask;
pub use poison::{Diagnosis, Harm, Harmful, Inspection, Place, diagnose};
pub use pool_process::idle_processes;
pub use publish::{BatchError, Chord};
pub use queues::{Census, Sighting, UnackedMessage, Whereabouts};
pub use restore::Restored;
pub use result_tree::{ChildGroup, Children};
pub use results::{GroupProgress, ResultWatch, Results};
pub use sentinel::{SentinelOptions, Sentinels};
pub use server::ServerInfo;
pub use signal::Signal;
pub use signature::Link;
pub use sweep::{InWorkers, Swept};
pub use task::{DEFAULT_QUEUE, Task};
pub use task_news::{News, TaskNews};
pub use task_result::{TaskFailure, TaskResult, TaskState};
pub use transport::Transport;
