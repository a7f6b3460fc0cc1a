//! Native Celery client over Redis: publishing, results, chord progress, remote control, events.
//!
//! Of this workspace the crate uses only `orch-base`. Messages are serialised as JSON only. The
//! protocol facts were observed on the wire of Celery 5.2 to 5.7.
//!
//! ```no_run
#![doc = include_str!("../examples/publish.rs")]
//! ```

#![forbid(unsafe_code)]

mod broker;
mod client;
mod control;
#[cfg(test)]
mod decoder_properties;
mod error;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod redis;
mod tasks;
mod wire;

pub use crate::broker::broker_queues::BrokerQueues;
pub use crate::broker::consumers::{ConsumerPresence, Consumers};
pub use crate::broker::consumption::{
    ConsumptionState, ConsumptionVerdict, ConsumptionWatch, WorkerObservation, WorkerReport, classify_observation,
};
pub use crate::broker::diagnosis::{MessageDiagnosis, MessageHarm, diagnose};
pub use crate::broker::find_tasks::{TaskLocation, TaskSearchResult, TasksInWorkers, UnfinishedTasks};
pub use crate::broker::leftovers::{KeptJobs, Leftovers};
pub use crate::broker::message_counts::{UnackedMessage, WaitingMessages};
pub use crate::broker::mistyped_keys::MistypedKey;
pub use crate::broker::poison::{HarmfulMessage, MessageInspection, MessagePlace};
pub use crate::broker::pool_process::idle_processes;
pub use crate::broker::remove_messages::RemovedMessages;
pub use crate::broker::restore_unacked::RestoreReport;
pub use crate::broker::shared_workers::{DeadWorker, SharedWorkers, WorkerAbsence};
pub use crate::client::Client;
pub use crate::control::commands::RemoteControl;
pub use crate::control::inspect::{
    AcknowledgementMode, BrokerAddress, ConsumedQueue, QueriedTask, RunningTask, ScheduledTask, TaskDeliveryInfo,
    TaskExecution, WorkerStats,
};
pub use crate::control::mailbox::{ControlReplies, ControlTarget};
pub use crate::control::signal::Signal;
pub use crate::error::{Error, Result};
pub use crate::events::event::{Event, EventKind, TaskEvent, TaskOrigin, WorkerEvent, WorkerLoad};
pub use crate::events::job_events::{JobEvent, JobTaskEvent};
pub use crate::events::jobs::{Job, JobTracker, TaskCounts, TrackerLimits, TrackerTotals};
pub use crate::events::stream::{EventBatch, EventStream, StreamItem};
pub use crate::redis::celery_url::{UrlPurpose, celery_url, redis_url};
pub use crate::redis::endpoint::{Endpoint, Endpoints, ServerAccess};
pub use crate::redis::endpoint_url::SentinelOptions;
pub use crate::redis::server_address::{RedisPassword, Sentinels, ServerAddress, TlsOptions};
pub use crate::redis::server_info::ServerInfo;
pub use crate::tasks::chord::ChordProgress;
pub use crate::tasks::descendants::{StoredTask, TaskDescendants};
pub use crate::tasks::publish::{BatchError, PublishedChord};
pub use crate::tasks::result_store::{GroupProgress, ResultStore};
pub use crate::tasks::result_tree::{ChildGroup, TaskChildren};
pub use crate::tasks::result_watch::ResultWatch;
pub use crate::tasks::task::{DEFAULT_QUEUE, Task, TaskLink};
pub use crate::tasks::task_result::{TaskFailure, TaskResult, TaskState};
pub use crate::wire::ids::{GroupId, NodeName, TaskId};
pub use crate::wire::json::SIZE_LIMIT;
pub use crate::wire::message::QueuedTask;
pub use crate::wire::task_outcome::TaskOutcome;
pub use crate::wire::transport_settings::TransportSettings;
