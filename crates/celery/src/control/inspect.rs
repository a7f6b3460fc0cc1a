//! Typed replies of workers to the inspect commands (Celery wire, observed on 5.2 to 5.7).

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::mailbox::ControlReplies;
use crate::wire::ids::TaskId;

/// Decodes a reply. The error is a message for people.
pub(crate) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|error| format!("its reply cannot be read: {error}"))
}

/// State of a worker, as the worker reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerStats {
    /// Process id of the main process.
    pub pid: u32,
    /// Number of tasks that can run at the same time.
    pub pool_slots: u64,
    /// Process ids of the pool processes. Empty for pools without processes.
    pub pool_processes: Vec<u32>,
    /// Python class of the pool, such as `celery.concurrency.prefork:TaskPool`. Newer versions only.
    pub pool_implementation: Option<String>,
    /// Broker of the worker.
    pub broker: BrokerAddress,
    pub prefetch_count: Option<u64>,
    /// Seconds since the worker started. Newer versions only.
    pub uptime: Option<u64>,
    /// Number of tasks accepted since the worker started, by task name.
    pub totals: BTreeMap<String, u64>,
}

/// Address of a worker's broker, as the worker reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Host name, or the path of a socket.
    pub host: String,
    /// Port. `None` for a socket, or when the worker does not know the port.
    pub port: Option<u16>,
    /// Number of the Redis database.
    pub database: Option<u32>,
    /// Name of the transport: `redis`, `rediss`, `amqp`, ...
    pub transport: String,
}

impl WorkerStats {
    pub(crate) fn read(answer: &Value) -> Result<Self, String> {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64);
        let pool = answer.get("pool").ok_or("its reply to `stats` has no `pool`")?;
        let broker = answer.get("broker").ok_or("its reply to `stats` has no `broker`")?;
        let pid = number(answer.get("pid")).and_then(|pid| u32::try_from(pid).ok());
        let processes = pool
            .get("processes")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let pool_processes: Vec<u32> = processes
            .iter()
            .filter_map(Value::as_u64)
            .filter_map(|pid| u32::try_from(pid).ok())
            .collect();
        // `max-concurrency` keeps its initial value when a prefork pool grows or shrinks.
        let pool_slots = (!processes.is_empty())
            .then_some(processes.len() as u64)
            .or_else(|| number(pool.get("max-concurrency")))
            // Gevent and eventlet pools of old versions report neither of the two.
            .unwrap_or(1);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            pid: pid.ok_or("its reply to `stats` has no `pid`")?,
            pool_slots,
            pool_processes,
            pool_implementation: text(pool.get("implementation")),
            broker: BrokerAddress {
                host: text(broker.get("hostname")).unwrap_or_default(),
                port: number(broker.get("port")).and_then(|port| u16::try_from(port).ok()),
                database: broker.get("virtual_host").and_then(database_number),
                transport: text(broker.get("transport")).unwrap_or_default(),
            },
            prefetch_count: number(answer.get("prefetch_count")),
            uptime: number(answer.get("uptime")),
            totals: answer
                .get("total")
                .cloned()
                .and_then(|totals| serde_json::from_value(totals).ok())
                .unwrap_or_default(),
        })
    }
}

/// Parses the database number. Workers send `0`, `"0"` or `"/0"`; `"/"` is the default database.
fn database_number(virtual_host: &Value) -> Option<u32> {
    match virtual_host {
        Value::Number(number) => number.as_u64()?.try_into().ok(),
        Value::String(text) => match text.trim_matches('/') {
            "" => Some(0),
            number => number.parse().ok(),
        },
        _ => None,
    }
}

/// Queue that a worker consumes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumedQueue {
    pub name: String,
    pub routing_key: Option<String>,
}

/// Task that a worker holds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RunningTask {
    pub id: TaskId,
    pub name: Option<String>,
    #[serde(default)]
    pub args: Value,
    #[serde(default)]
    pub kwargs: Value,
    /// Start of the task in Unix seconds of the worker's clock. `None` while the task waits.
    pub time_start: Option<f64>,
    /// True when the worker has acknowledged the message of the task.
    #[serde(default)]
    pub acknowledged: bool,
    /// Process id of the pool process that runs the task.
    pub worker_pid: Option<u32>,
    #[serde(default)]
    pub delivery_info: TaskDeliveryInfo,
}

/// One execution of a task. A redelivered task has several executions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskExecution {
    pub task: TaskId,
    /// Process id of the pool process that received the task.
    pub process: u32,
    /// Bits of the start time in Unix seconds of the worker's clock. The value is only compared for equality.
    begun: u64,
}

impl RunningTask {
    /// Returns the execution, or `None` for a task that has not started.
    pub fn execution(&self) -> Option<TaskExecution> {
        Some(TaskExecution {
            task: self.id.clone(),
            process: self.worker_pid?,
            begun: self.time_start?.to_bits(),
        })
    }
}

impl ControlReplies<Vec<RunningTask>> {
    /// Removes the executions that are known to have ended.
    pub(crate) fn remove_ended(&mut self, ended: &HashSet<TaskExecution>) {
        for tasks in self.nodes.iter_mut().filter_map(|(_, answer)| answer.as_mut().ok()) {
            tasks.retain(|task| task.execution().is_none_or(|execution| !ended.contains(&execution)));
        }
    }
}

/// State of a queried task in a worker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "(String, RunningTask)")]
pub struct QueriedTask {
    /// Name of the state: `active`, `reserved`, `scheduled`, ...
    pub state: String,
    pub request: RunningTask,
}

impl From<(String, RunningTask)> for QueriedTask {
    fn from((state, request): (String, RunningTask)) -> Self {
        Self { state, request }
    }
}

/// Delivery of a task to a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TaskDeliveryInfo {
    /// Name of the queue.
    pub routing_key: Option<String>,
    pub redelivered: Option<bool>,
}

/// Task that waits in a worker for its start time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ScheduledTask {
    /// Start time in ISO 8601.
    pub eta: Option<String>,
    pub request: RunningTask,
}

/// Time at which a worker acknowledges a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcknowledgementMode {
    pub task: String,
    /// `acks_late`: the worker acknowledges the message after the task has run, not before the start.
    pub late: bool,
    /// `reject_on_worker_lost`: the message is requeued when the pool process dies.
    pub requeues_on_worker_loss: bool,
}

impl AcknowledgementMode {
    /// Items for the argument `taskinfoitems` of the command `registered`.
    pub const ITEMS: [&'static str; 2] = ["acks_late", "reject_on_worker_lost"];

    /// Parses a line such as `name [acks_late=True reject_on_worker_lost=True]`. Workers leave out items that are None,
    /// and the brackets when all items are None (`celery/worker/control.py`, `registered`).
    pub fn read(line: &str) -> Self {
        let (task, items) = line
            .strip_suffix(']')
            .and_then(|line| line.rsplit_once(" ["))
            .unwrap_or((line, ""));
        let [late, put_back] = Self::ITEMS.map(|wanted| {
            items
                .split(' ')
                .filter_map(|item| item.split_once('='))
                // Truth in Python: every value except False, 0 and None is true.
                .any(|(name, value)| name == wanted && !matches!(value, "False" | "0" | "None"))
        });
        Self {
            task: task.to_owned(),
            late,
            requeues_on_worker_loss: put_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::frames;

    fn answer(version: &str, request: &str) -> Value {
        frames::load(version, "control")[request]["reply"]["body"]["w1@node"].clone()
    }

    #[test]
    fn replies_of_every_version_contain_the_pool_and_the_broker() {
        for version in frames::VERSIONS {
            let stats = WorkerStats::read(&answer(version, "inspect_stats")).expect(version);
            assert_eq!(stats.pool_slots, 2, "{version}");
            assert_eq!(stats.pool_processes.len(), 2, "{version}");
            assert_eq!(stats.broker.host, "127.0.0.1", "{version}");
            assert!(stats.broker.port.is_some(), "{version}");
            assert_eq!(stats.broker.database, Some(0), "{version}");
            assert_eq!(stats.prefetch_count, Some(8), "{version}");
        }
    }

    #[test]
    fn pools_of_all_kinds_have_slots() {
        let broker = json!({"hostname": "h", "port": 1, "virtual_host": "/3", "transport": "redis"});
        for (pool, slots) in [
            (json!({"max-concurrency": 3, "threads": 0}), 3),
            (json!({"max-concurrency": 1, "processes": [7]}), 1),
            (json!({"processes": [7, 8, 9]}), 3),
            (json!({}), 1),
        ] {
            let stats = WorkerStats::read(&json!({"pid": 5, "pool": pool, "broker": broker})).expect("complete");
            assert_eq!(stats.pool_slots, slots, "{pool}");
            assert_eq!(stats.broker.database, Some(3));
        }
    }

    #[test]
    fn the_acknowledgement_is_read_from_the_line_of_a_task() {
        for (line, late, put_back) in [
            ("shop.chunk [acks_late=True reject_on_worker_lost=True]", true, true),
            ("shop.chunk [acks_late=1 reject_on_worker_lost=1]", true, true),
            ("shop.chunk [acks_late=True]", true, false),
            ("shop.chunk [acks_late=False reject_on_worker_lost=True]", false, true),
            ("shop.chunk", false, false),
        ] {
            let task = "shop.chunk".to_owned();
            assert_eq!(
                AcknowledgementMode::read(line),
                AcknowledgementMode {
                    task,
                    late,
                    requeues_on_worker_loss: put_back
                },
                "{line}"
            );
        }
        assert_eq!(AcknowledgementMode::read("odd [name").task, "odd [name");
    }

    #[test]
    fn replies_of_every_version_contain_the_tasks_and_the_queues() {
        for version in frames::VERSIONS {
            let names: Vec<String> = read(answer(version, "inspect_registered")).expect(version);
            assert!(names.iter().any(|name| name == "wapp.dispatch"), "{version}");
            let queues: Vec<ConsumedQueue> = read(answer(version, "inspect_active_queues")).expect(version);
            assert_eq!(queues[0].name, "celery", "{version}");
        }
    }

    #[test]
    fn a_reply_of_another_shape_is_an_error() {
        let error = read::<Vec<String>>(json!({"no": "list"})).expect_err("an object");
        assert!(error.starts_with("its reply cannot be read"), "{error}");
        assert!(WorkerStats::read(&json!([])).is_err());
    }
}
