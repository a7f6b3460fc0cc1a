//! Remote control of workers: ping, inspect, revoke, consumers, shutdown (Celery wire, observed on 5.2 to 5.7).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::client::Client;
use super::inspect::{Acknowledgement, ConsumedQueue, QueriedTask, RunningTask, Scheduled, Stats, read};
use super::mailbox::{Mailbox, Replies, Request, Target};
use super::signal::Signal;
use super::{Result, TaskId};

/// Talks to the workers of a broker. Each call waits until all who can answer have, or until its deadline; a worker
/// that does not answer in time is absent from the replies, which is no error.
#[derive(Clone)]
pub struct Control {
    client: Client,
}

impl Control {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Any request, its replies as they are.
    pub async fn call(
        &self,
        method: &str,
        arguments: Value,
        target: &Target,
        within: Duration,
    ) -> Result<Replies<Value>> {
        let deadline = Instant::now() + within;
        let request = Request {
            method,
            arguments: &arguments,
            target,
        };
        let ticket = Uuid::new_v4().to_string();
        let (mut mailbox, listeners) = self.publish(&request, &ticket, within, deadline).await?;
        let replies = mailbox.collect(target, &ticket, listeners, deadline).await?;
        self.client.keep_mailbox(mailbox);
        Ok(replies)
    }

    /// A kept connection may have been closed long ago by the server; then the request goes over a new one.
    async fn publish(
        &self,
        request: &Request<'_>,
        ticket: &str,
        within: Duration,
        deadline: Instant,
    ) -> Result<(Mailbox, u64)> {
        let attempt = async {
            if let Some(mut mailbox) = self.client.kept_mailbox() {
                match mailbox.publish(request, ticket, within).await {
                    Ok(listeners) => return Ok((mailbox, listeners)),
                    Err(error) if !error.breaks_connection() => return Err(error),
                    Err(error) => tracing::debug!(%error, "a kept connection is gone"),
                }
            }
            let mut mailbox = Mailbox::open(self.client.shared_broker(), &self.client.broker_keys()).await?;
            let listeners = mailbox.publish(request, ticket, within).await?;
            Ok((mailbox, listeners))
        };
        let action = format!("publish the control request `{}`", request.method);
        timeout_at(deadline, attempt)
            .await
            .map_err(|_| self.client.broker().connector().deadline_error(&action, within))?
    }

    /// Which workers are there. With a prefork or threads pool the main process answers at once, however busy its
    /// pool is; a solo worker answers only between two tasks.
    pub async fn ping(&self, target: &Target, within: Duration) -> Result<Replies<()>> {
        let replies = self.call("ping", json!({}), target, within).await?;
        Ok(replies.read(|answer| match answer.get("ok").and_then(Value::as_str) {
            Some("pong") => Ok(()),
            _ => Err(format!("answered a ping with {answer}")),
        }))
    }

    /// Makes workers turn their event loop; they do not answer. Returns the number of listeners that got the request.
    pub async fn ping_without_answer(&self, target: &Target) -> Result<u64> {
        self.client
            .broadcast(&Request {
                method: "ping",
                arguments: &json!({}),
                target,
            })
            .await
    }

    /// Pool, broker and counters.
    pub async fn stats(&self, target: &Target, within: Duration) -> Result<Replies<Stats>> {
        Ok(self
            .call("stats", json!({}), target, within)
            .await?
            .read(|answer| Stats::read(&answer)))
    }

    /// Names of the tasks that a worker knows.
    pub async fn registered(&self, target: &Target, within: Duration) -> Result<Replies<Vec<String>>> {
        Ok(self
            .call("registered", json!({ "taskinfoitems": [] }), target, within)
            .await?
            .read(read))
    }

    /// Which tasks a worker acknowledges late, and puts back when their process dies.
    pub async fn acknowledgement(&self, target: &Target, within: Duration) -> Result<Replies<Vec<Acknowledgement>>> {
        let arguments = json!({ "taskinfoitems": Acknowledgement::ITEMS });
        Ok(self
            .call("registered", arguments, target, within)
            .await?
            .read(|answer| {
                let lines: Vec<String> = read(answer)?;
                Ok(lines.iter().map(|line| Acknowledgement::read(line)).collect())
            }))
    }

    /// The queues that a worker consumes.
    pub async fn active_queues(&self, target: &Target, within: Duration) -> Result<Replies<Vec<ConsumedQueue>>> {
        Ok(self.call("active_queues", json!({}), target, within).await?.read(read))
    }

    /// Tasks being run.
    pub async fn active(&self, target: &Target, within: Duration) -> Result<Replies<Vec<RunningTask>>> {
        Ok(self.call("active", json!({}), target, within).await?.read(read))
    }

    /// Tasks taken from the queue and not yet running.
    pub async fn reserved(&self, target: &Target, within: Duration) -> Result<Replies<Vec<RunningTask>>> {
        Ok(self.call("reserved", json!({}), target, within).await?.read(read))
    }

    /// Tasks waiting for their time in a worker.
    pub async fn scheduled(&self, target: &Target, within: Duration) -> Result<Replies<Vec<Scheduled>>> {
        Ok(self.call("scheduled", json!({}), target, within).await?.read(read))
    }

    /// The app's configuration where it differs from the defaults; passwords are masked by the worker.
    pub async fn conf(&self, target: &Target, within: Duration) -> Result<Replies<Map<String, Value>>> {
        Ok(self
            .call("conf", json!({ "with_defaults": false }), target, within)
            .await?
            .read(read))
    }

    /// Ids of the tasks that a worker knows as revoked.
    pub async fn revoked(&self, target: &Target, within: Duration) -> Result<Replies<Vec<TaskId>>> {
        Ok(self.call("revoked", json!({}), target, within).await?.read(read))
    }

    /// Where workers have these tasks; who has none answers with nothing.
    pub async fn query_tasks(
        &self,
        tasks: &[TaskId],
        target: &Target,
        within: Duration,
    ) -> Result<Replies<BTreeMap<TaskId, QueriedTask>>> {
        Ok(self
            .call("query_task", json!({ "ids": tasks }), target, within)
            .await?
            .read(read))
    }

    /// Marks tasks as revoked: workers will not start them. With a signal the pool process of a running one is sent
    /// that (a threads pool cannot and answers with an error). Revocations live in the workers' memory.
    pub async fn revoke(
        &self,
        tasks: &[TaskId],
        terminate: Option<Signal>,
        target: &Target,
        within: Duration,
    ) -> Result<Replies<()>> {
        let arguments = json!({
            "task_id": tasks,
            "terminate": terminate.is_some(),
            "signal": terminate.unwrap_or(Signal::Term).name(),
        });
        // The text of the answer differs by version.
        self.order("revoke", arguments, target, within).await
    }

    /// Adds slots to the pools.
    pub async fn pool_grow(&self, slots: u32, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("pool_grow", json!({ "n": slots }), target, within).await
    }

    /// Takes slots from the pools; what runs there ends first. A prefork pool only.
    pub async fn pool_shrink(&self, slots: u32, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("pool_shrink", json!({ "n": slots }), target, within).await
    }

    /// Sets the bounds between which a worker that was started with `--autoscale` sizes its pool; another answers with an
    /// error.
    pub async fn autoscale(&self, min: u32, max: u32, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("autoscale", json!({ "min": min, "max": max }), target, within)
            .await
    }

    /// Limits how often a worker starts a task, such as `10/m`; `0` lifts the limit.
    pub async fn rate_limit(&self, task: &str, rate: &str, target: &Target, within: Duration) -> Result<Replies<()>> {
        let arguments = json!({ "task_name": task, "rate_limit": rate });
        self.order("rate_limit", arguments, target, within).await
    }

    /// Limits how long a task may run from now on: the exception after `soft`, the kill after `hard`; `None` is no limit.
    pub async fn time_limit(
        &self,
        task: &str,
        soft: Option<Duration>,
        hard: Option<Duration>,
        target: &Target,
        within: Duration,
    ) -> Result<Replies<()>> {
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let arguments = json!({ "task_name": task, "soft": seconds(soft), "hard": seconds(hard) });
        self.order("time_limit", arguments, target, within).await
    }

    /// Makes workers publish a heartbeat event now.
    pub async fn heartbeat(&self, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("heartbeat", json!({}), target, within).await
    }

    /// A request whose answer says only whether it was carried out.
    async fn order(&self, method: &str, arguments: Value, target: &Target, within: Duration) -> Result<Replies<()>> {
        // Errors are told apart already; a rate limit says them under `error` as well.
        Ok(self.call(method, arguments, target, within).await?.read(|_| Ok(())))
    }

    /// Makes workers consume a queue; they do so a moment after they answered.
    pub async fn add_consumer(&self, queue: &str, target: &Target, within: Duration) -> Result<Replies<()>> {
        let arguments = json!({ "queue": queue, "exchange": null, "exchange_type": "direct", "routing_key": null });
        self.order("add_consumer", arguments, target, within).await
    }

    /// Makes workers stop consuming a queue; they do so a moment after they answered.
    pub async fn cancel_consumer(&self, queue: &str, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("cancel_consumer", json!({ "queue": queue }), target, within)
            .await
    }

    /// Switches task events on, for the life of the worker process.
    pub async fn enable_events(&self, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("enable_events", json!({}), target, within).await
    }

    /// Switches task events off; a worker that was started with `-E` keeps sending them.
    pub async fn disable_events(&self, target: &Target, within: Duration) -> Result<Replies<()>> {
        self.order("disable_events", json!({}), target, within).await
    }

    /// Starts a warm shutdown: running tasks finish. Gives how many listeners were told; there is no reply.
    pub async fn shutdown(&self, target: &Target) -> Result<u64> {
        self.client
            .broadcast(&Request {
                method: "shutdown",
                arguments: &json!({}),
                target,
            })
            .await
    }
}
