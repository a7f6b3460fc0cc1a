//! Typed answers of workers to the inspect family of control requests (Celery wire, observed on 5.2 to 5.7).

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::TaskId;
use super::mailbox::Replies;

/// Reads an answer; the error is for people.
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// A worker's own account of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Main process.
    pub pid: u32,
    /// Tasks that can run at the same time.
    pub pool_slots: u64,
    /// Pool child processes; empty for pools without.
    pub pool_processes: Vec<u32>,
    /// Such as `celery.concurrency.prefork:TaskPool`; newer versions only.
    pub pool_implementation: Option<String>,
    /// The broker it is connected to.
    pub broker: BrokerAddress,
    pub prefetch_count: Option<u64>,
    /// Seconds since its start; newer versions only.
    pub uptime: Option<u64>,
    /// Tasks accepted since its start, by name.
    pub totals: BTreeMap<String, u64>,
}

/// Where a worker's broker is, by its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Host name, or the path of a socket.
    pub host: String,
    /// `None` for a socket, or where the worker does not know.
    pub port: Option<u16>,
    /// Redis database number.
    pub database: Option<u32>,
    /// `redis`, `rediss`, `amqp`, ...
    pub transport: String,
}

impl Stats {
    pub(super) fn read(answer: &Value) -> Result<Self, String> {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64);
        let pool = answer.get("pool").ok_or("its answer to `stats` has no `pool`")?;
        let broker = answer.get("broker").ok_or("its answer to `stats` has no `broker`")?;
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
        // `max-concurrency` stays what it was at the start when a prefork pool grows or shrinks.
        let pool_slots = (!processes.is_empty())
            .then_some(processes.len() as u64)
            .or_else(|| number(pool.get("max-concurrency")))
            // Gevent and eventlet pools of old versions tell neither.
            .unwrap_or(1);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            pid: pid.ok_or("its answer to `stats` has no `pid`")?,
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

/// `0`, `"0"` and `"/0"` are all seen; `"/"` is the default.
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

/// A queue that a worker consumes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumedQueue {
    pub name: String,
    #[serde(default)]
    pub routing_key: Option<String>,
}

/// A task in a worker's hands.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RunningTask {
    pub id: TaskId,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub args: Value,
    #[serde(default)]
    pub kwargs: Value,
    /// When it was started, unix seconds of the worker's clock; `None` while it waits.
    #[serde(default)]
    pub time_start: Option<f64>,
    /// Whether its message is gone from the broker.
    #[serde(default)]
    pub acknowledged: bool,
    /// The pool process that runs it.
    #[serde(default)]
    pub worker_pid: Option<u32>,
    #[serde(default)]
    pub delivery_info: DeliveryInfo,
}

/// One execution of a task: a redelivered task has another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Execution {
    pub task: TaskId,
    /// The pool process that was given it.
    pub process: u32,
    /// When, as the bits of the worker's unix seconds: only ever compared for identity.
    begun: u64,
}

impl RunningTask {
    /// `None` for what has not begun.
    pub fn execution(&self) -> Option<Execution> {
        Some(Execution {
            task: self.id.clone(),
            process: self.worker_pid?,
            begun: self.time_start?.to_bits(),
        })
    }
}

impl Replies<Vec<RunningTask>> {
    /// Leaves out the executions that are known to have ended.
    pub(super) fn forget_ended(&mut self, ended: &HashSet<Execution>) {
        for tasks in self.nodes.iter_mut().filter_map(|(_, answer)| answer.as_mut().ok()) {
            tasks.retain(|task| task.execution().is_none_or(|execution| !ended.contains(&execution)));
        }
    }
}

/// Where a worker has a task that was asked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "(String, RunningTask)")]
pub struct QueriedTask {
    /// `active`, `reserved`, `scheduled`, ...
    pub state: String,
    pub request: RunningTask,
}

impl From<(String, RunningTask)> for QueriedTask {
    fn from((state, request): (String, RunningTask)) -> Self {
        Self { state, request }
    }
}

/// How a task came to a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DeliveryInfo {
    /// The queue.
    #[serde(default)]
    pub routing_key: Option<String>,
    #[serde(default)]
    pub redelivered: Option<bool>,
}

/// A task that waits in a worker for its time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Scheduled {
    /// ISO 8601.
    #[serde(default)]
    pub eta: Option<String>,
    pub request: RunningTask,
}

/// When a task of a worker is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    pub task: String,
    /// `acks_late`: when it has run, not when it is taken.
    pub late: bool,
    /// `reject_on_worker_lost`: put back when its pool process dies.
    pub put_back: bool,
}

impl Acknowledgement {
    /// As the argument `taskinfoitems` of `registered` names them.
    pub const ITEMS: [&'static str; 2] = ["acks_late", "reject_on_worker_lost"];

    /// `name [acks_late=True reject_on_worker_lost=True]`; an item that is None is left out, and the brackets with the
    /// last one (`celery/worker/control.py`, `registered`).
    pub fn read(line: &str) -> Self {
        let (task, items) = line
            .strip_suffix(']')
            .and_then(|line| line.rsplit_once(" ["))
            .unwrap_or((line, ""));
        let [late, put_back] = Self::ITEMS.map(|wanted| {
            items
                .split(' ')
                .filter_map(|item| item.split_once('='))
                // Python's truth: what is neither False nor 0 holds.
                .any(|(name, value)| name == wanted && !matches!(value, "False" | "0" | "None"))
        });
        Self {
            task: task.to_owned(),
            late,
            put_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::frames;
    use super::*;

    fn answer(version: &str, request: &str) -> Value {
        frames::load(version, "control")[request]["reply"]["body"]["w1@node"].clone()
    }

    #[test]
    fn every_version_tells_its_pool_and_its_broker() {
        for version in frames::VERSIONS {
            let stats = Stats::read(&answer(version, "inspect_stats")).expect(version);
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
            let stats = Stats::read(&json!({"pid": 5, "pool": pool, "broker": broker})).expect("complete");
            assert_eq!(stats.pool_slots, slots, "{pool}");
            assert_eq!(stats.broker.database, Some(3));
        }
    }

    #[test]
    fn what_a_worker_says_of_a_task_tells_its_acknowledgement() {
        for (line, late, put_back) in [
            ("shop.chunk [acks_late=True reject_on_worker_lost=True]", true, true),
            ("shop.chunk [acks_late=1 reject_on_worker_lost=1]", true, true),
            ("shop.chunk [acks_late=True]", true, false),
            ("shop.chunk [acks_late=False reject_on_worker_lost=True]", false, true),
            ("shop.chunk", false, false),
        ] {
            let task = "shop.chunk".to_owned();
            assert_eq!(
                Acknowledgement::read(line),
                Acknowledgement { task, late, put_back },
                "{line}"
            );
        }
        assert_eq!(Acknowledgement::read("odd [name").task, "odd [name");
    }

    #[test]
    fn every_version_tells_its_tasks_and_queues() {
        for version in frames::VERSIONS {
            let names: Vec<String> = read(answer(version, "inspect_registered")).expect(version);
            assert!(names.iter().any(|name| name == "wapp.dispatch"), "{version}");
            let queues: Vec<ConsumedQueue> = read(answer(version, "inspect_active_queues")).expect(version);
            assert_eq!(queues[0].name, "celery", "{version}");
        }
    }

    #[test]
    fn an_answer_of_another_shape_is_said_to_be_one() {
        let error = read::<Vec<String>>(json!({"no": "list"})).expect_err("an object");
        assert!(error.starts_with("its answer cannot be read"), "{error}");
        assert!(Stats::read(&json!([])).is_err());
    }
}
