//! Remote control of workers: ping, inspect, revoke, consumers, shutdown (Celery wire, observed on 5.2 to 5.7).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::inspect::{AcknowledgementMode, ConsumedQueue, QueriedTask, RunningTask, ScheduledTask, WorkerStats, read};
use super::mailbox::{ControlCommand, ControlReplies, ControlTarget, Mailbox};
use super::signal::Signal;
use crate::client::Client;
use crate::error::Result;
use crate::wire::ids::TaskId;

/// Sender of control commands to the workers of a broker. Each call waits until all workers have replied, or until its
/// deadline. A worker that does not reply in time is absent from the replies; this is not an error.
#[derive(Clone)]
pub struct RemoteControl {
    client: Client,
}

impl Client {
    /// Returns the handle for remote control of the workers.
    pub fn control(&self) -> RemoteControl {
        RemoteControl { client: self.clone() }
    }

    /// Publishes a control request without arguments and reply queue, and returns the number of listeners.
    async fn broadcast(&self, method: &str, target: &ControlTarget) -> Result<u64> {
        let request = ControlCommand {
            method,
            arguments: &json!({}),
            target,
        };
        let mut publish = redis::pipe();
        publish
            .cmd("PUBLISH")
            .arg(self.broker_keys().control_channel())
            .arg(request.encode(&self.broker_keys().control_exchange(), None, self.deadline())?);
        let (listeners,) = self.broker_query("publish a control request", &publish).await?;
        Ok(listeners)
    }
}

impl RemoteControl {
    /// Sends any control command and returns the replies without further decoding.
    pub async fn call(
        &self,
        method: &str,
        arguments: Value,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<Value>> {
        let deadline = Instant::now() + within;
        let request = ControlCommand {
            method,
            arguments: &arguments,
            target,
        };
        let ticket = Uuid::new_v4().to_string();
        let (mut mailbox, listeners) = self.publish(&request, &ticket, within, deadline).await?;
        let replies = mailbox.collect(target, &ticket, listeners, deadline).await?;
        self.client.return_mailbox(mailbox);
        Ok(replies)
    }

    /// Publishes a command. Opens a new connection when the server has closed the kept one, which can happen at any
    /// time.
    async fn publish(
        &self,
        request: &ControlCommand<'_>,
        ticket: &str,
        within: Duration,
        deadline: Instant,
    ) -> Result<(Mailbox, u64)> {
        let attempt = async {
            if let Some(mut mailbox) = self.client.take_idle_mailbox() {
                match mailbox.publish(request, ticket, within).await {
                    Ok(listeners) => return Ok((mailbox, listeners)),
                    Err(error) if !error.breaks_connection() => return Err(error),
                    Err(error) => tracing::debug!(%error, "a kept connection is broken, opening a new one"),
                }
            }
            let mut mailbox = Mailbox::open(self.client.shared_broker(), &self.client.broker_keys()).await?;
            let listeners = mailbox.publish(request, ticket, within).await?;
            Ok((mailbox, listeners))
        };
        let action = format!("publish the control command `{}`", request.method);
        timeout_at(deadline, attempt)
            .await
            .map_err(|_| self.client.broker().connector().deadline_error(&action, within))?
    }

    /// Sends a command and decodes the replies.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        arguments: Value,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<T>> {
        Ok(self.call(method, arguments, target, within).await?.read(read))
    }

    /// Asks which workers are alive. With a prefork or threads pool the main process replies at once, even when all
    /// pool processes are busy. A worker with a solo pool replies only between two tasks.
    pub async fn ping(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<()>> {
        let replies = self.call("ping", json!({}), target, within).await?;
        Ok(replies.read(|answer| match answer.get("ok").and_then(Value::as_str) {
            Some("pong") => Ok(()),
            _ => Err(format!("answered a ping with {answer}")),
        }))
    }

    /// Wakes the event loop of workers, without a reply. Returns the number of listeners that received the command.
    pub async fn ping_without_reply(&self, target: &ControlTarget) -> Result<u64> {
        self.client.broadcast("ping", target).await
    }

    /// Asks for pool, broker and counters.
    pub async fn stats(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<WorkerStats>> {
        let replies = self.call("stats", json!({}), target, within).await?;
        Ok(replies.read(|answer| WorkerStats::read(&answer)))
    }

    /// Asks for the names of the tasks that a worker has registered.
    pub async fn registered(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<Vec<String>>> {
        self.ask("registered", json!({ "taskinfoitems": [] }), target, within)
            .await
    }

    /// Asks which tasks a worker acknowledges late, and which ones it requeues when their pool process dies.
    pub async fn acknowledgement(
        &self,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<Vec<AcknowledgementMode>>> {
        let arguments = json!({ "taskinfoitems": AcknowledgementMode::ITEMS });
        let replies: ControlReplies<Vec<String>> = self.ask("registered", arguments, target, within).await?;
        Ok(replies.read(|lines| Ok(lines.iter().map(|line| AcknowledgementMode::read(line)).collect())))
    }

    /// Asks for the queues that a worker consumes.
    pub async fn active_queues(
        &self,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<Vec<ConsumedQueue>>> {
        self.ask("active_queues", json!({}), target, within).await
    }

    /// Asks for the running tasks.
    pub async fn active(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<Vec<RunningTask>>> {
        self.ask("active", json!({}), target, within).await
    }

    /// Asks for the tasks that a worker has taken from a queue and not started.
    pub async fn reserved(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<Vec<RunningTask>>> {
        self.ask("reserved", json!({}), target, within).await
    }

    /// Asks for the tasks that wait in a worker for their start time.
    pub async fn scheduled(
        &self,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<Vec<ScheduledTask>>> {
        self.ask("scheduled", json!({}), target, within).await
    }

    /// Asks for the settings of the app that differ from the defaults. The worker masks passwords.
    pub async fn conf(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<Map<String, Value>>> {
        self.ask("conf", json!({ "with_defaults": false }), target, within)
            .await
    }

    /// Asks for the ids of the tasks that a worker has recorded as revoked.
    pub async fn revoked(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<Vec<TaskId>>> {
        self.ask("revoked", json!({}), target, within).await
    }

    /// Asks for the state of these tasks in workers. A worker without any of the tasks returns an empty reply.
    pub async fn query_tasks(
        &self,
        tasks: &[TaskId],
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<BTreeMap<TaskId, QueriedTask>>> {
        self.ask("query_task", json!({ "ids": tasks }), target, within).await
    }

    /// Marks tasks as revoked, so that workers do not start them. With `terminate`, workers also send this signal to
    /// the pool process of a running task (a threads pool cannot do that and replies with an error). Workers keep
    /// revocations in memory.
    pub async fn revoke(
        &self,
        tasks: &[TaskId],
        terminate: Option<Signal>,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        let arguments = json!({
            "task_id": tasks,
            "terminate": terminate.is_some(),
            "signal": terminate.unwrap_or(Signal::Term).name(),
        });
        // The text of the reply differs by version.
        self.execute("revoke", arguments, target, within).await
    }

    /// Adds slots to the pools.
    pub async fn pool_grow(&self, slots: u32, target: &ControlTarget, within: Duration) -> Result<ControlReplies<()>> {
        self.execute("pool_grow", json!({ "n": slots }), target, within).await
    }

    /// Removes slots from the pools after their running tasks have ended. Supported by prefork pools only.
    pub async fn pool_shrink(
        &self,
        slots: u32,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        self.execute("pool_shrink", json!({ "n": slots }), target, within).await
    }

    /// Sets the minimum and maximum pool size of workers that were started with `--autoscale`. Other workers reply with
    /// an error.
    pub async fn autoscale(
        &self,
        min: u32,
        max: u32,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        self.execute("autoscale", json!({ "min": min, "max": max }), target, within)
            .await
    }

    /// Limits how often a worker starts a task, such as `10/m`. `0` removes the limit.
    pub async fn rate_limit(
        &self,
        task: &str,
        rate: &str,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        let arguments = json!({ "task_name": task, "rate_limit": rate });
        self.execute("rate_limit", arguments, target, within).await
    }

    /// Limits the runtime of future executions of a task: an exception after `soft`, a kill after `hard`. `None`
    /// removes the limit.
    pub async fn time_limit(
        &self,
        task: &str,
        soft: Option<Duration>,
        hard: Option<Duration>,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let arguments = json!({ "task_name": task, "soft": seconds(soft), "hard": seconds(hard) });
        self.execute("time_limit", arguments, target, within).await
    }

    /// Makes workers publish a heartbeat event now.
    pub async fn heartbeat(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<()>> {
        self.execute("heartbeat", json!({}), target, within).await
    }

    /// Sends a command whose reply contains only success or failure.
    async fn execute(
        &self,
        method: &str,
        arguments: Value,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        // `worker_error` has separated error replies already, also those of `rate_limit`.
        Ok(self.call(method, arguments, target, within).await?.read(|_| Ok(())))
    }

    /// Makes workers consume a queue. Workers start a moment after their reply.
    pub async fn add_consumer(
        &self,
        queue: &str,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        let arguments = json!({ "queue": queue, "exchange": null, "exchange_type": "direct", "routing_key": null });
        self.execute("add_consumer", arguments, target, within).await
    }

    /// Makes workers stop consuming a queue. Workers stop a moment after their reply.
    pub async fn cancel_consumer(
        &self,
        queue: &str,
        target: &ControlTarget,
        within: Duration,
    ) -> Result<ControlReplies<()>> {
        self.execute("cancel_consumer", json!({ "queue": queue }), target, within)
            .await
    }

    /// Switches task events on, for the lifetime of the worker process.
    pub async fn enable_events(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<()>> {
        self.execute("enable_events", json!({}), target, within).await
    }

    /// Switches task events off. A worker that was started with `-E` keeps sending them.
    pub async fn disable_events(&self, target: &ControlTarget, within: Duration) -> Result<ControlReplies<()>> {
        self.execute("disable_events", json!({}), target, within).await
    }

    /// Starts a warm shutdown, in which running tasks finish. Returns the number of listeners that received the
    /// command; workers send no reply.
    pub async fn shutdown(&self, target: &ControlTarget) -> Result<u64> {
        self.client.broadcast("shutdown", target).await
    }
}
