//! Typed answers of workers to the inspect family of control requests (Celery wire, observed on 5.2 to 5.7).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::TaskId;

/// Reads an answer; the error is for people.
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// A worker's own account of itself.
#[derive(Clone, Debug, PartialEq)]
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
    /// Tasks accepted since its start, by name.
    pub totals: BTreeMap<String, u64>,
}

/// Where a worker's broker is, by its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        let pool_slots = number(pool.get("max-concurrency"))
            .or_else(|| (!processes.is_empty()).then_some(processes.len() as u64))
            .or_else(|| number(pool.get("threads")))
            .or_else(|| {
                pool.get("threads")
                    .and_then(Value::as_array)
                    .map(|threads| threads.len() as u64)
            })
            // A solo pool tells none of these.
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
