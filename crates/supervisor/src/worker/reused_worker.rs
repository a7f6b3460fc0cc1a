//! A worker that was running before: orch uses such a worker if it belongs to the same app. Not here: a worker that
//! orch starts ([`service`](crate::worker::service)).

use std::time::{Duration, Instant};

use super::command_line::node_name;
use super::service::{CeleryWorker, QUESTION_TIMEOUT};
use crate::shared::SharedName;
use orch_celery::{ControlTarget, NodeName};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, SharedNodeName, WorkerProblem};

/// Longest wait for the pong of a running worker, which takes a few milliseconds; a busy machine may need a second.
const REUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay before a question is repeated that Redis did not transmit.
const ASK_AGAIN_DELAY: Duration = Duration::from_millis(200);
/// Number of digits of the run id in the name of a node if the usual name is taken.
const RUN_DIGITS: usize = 4;

impl CeleryWorker {
    /// Asks for running workers. Returns a healthy worker of the same app for reuse. Otherwise this run's own worker
    /// gets a free name: two workers with one name would both answer, and both execute, messages for one.
    pub(crate) async fn find_running_worker(&self) -> Result<Option<NodeName>, ServiceFailure> {
        let control = self.client.control();
        let pong = self
            .ask_with_retries(|| control.ping(&ControlTarget::All, REUSE_TIMEOUT))
            .await
            .map_err(|error| self.ask_failed("whether they are there", &error))?;
        let nodes: Vec<NodeName> = pong.good().map(|(node, ())| node.clone()).collect();
        // A worker that listens and does not answer may be a busy solo worker with this run's node name.
        let name_is_free = !pong.is_incomplete() && !nodes.contains(&node_name(&self.node_begin));
        let reusable = match nodes.is_empty() {
            true => None,
            false => self.find_reusable(nodes).await?,
        };
        if let Some(node) = &reusable {
            self.node.set(node.clone()).ok();
        } else if !name_is_free {
            let begin: String = self.run_id.as_str().chars().take(RUN_DIGITS).collect();
            self.node.set(node_name(&format!("{}-{begin}", self.node_begin))).ok();
        }
        Ok(reusable)
    }

    /// Returns a worker among `nodes` that consumes the same queues and knows the same tasks. Warns about a worker that
    /// consumes a queue of this run without knowing the run's tasks: such a worker discards the tasks. A worker that
    /// shares a name with another is not used: their answers, events and tasks cannot be distinguished.
    async fn find_reusable(&self, nodes: Vec<NodeName>) -> Result<Option<NodeName>, ServiceFailure> {
        // Without a task name that identifies the app, the answer could come from another app's worker.
        if self.required.is_empty() {
            return Ok(None);
        }
        let control = self.client.control();
        let target = ControlTarget::Nodes(nodes);
        let (registered, queues, stats) = tokio::join!(
            self.ask_with_retries(|| control.registered(&target, QUESTION_TIMEOUT)),
            self.ask_with_retries(|| control.active_queues(&target, QUESTION_TIMEOUT)),
            // A request to named nodes ends with one answer of each; a request to all collects every answer.
            self.ask_with_retries(|| control.stats(&ControlTarget::All, QUESTION_TIMEOUT))
        );
        let registered = registered.map_err(|error| self.ask_failed("for their tasks", &error))?;
        let queues = queues.map_err(|error| self.ask_failed("for their queues", &error))?;
        let stats = stats.map_err(|error| self.ask_failed("for their processes", &error))?;
        let shared = SharedName::among(&stats);
        let mut reusable = None;
        let mut ambiguous = None;
        for (node, tasks) in registered.good() {
            let consumed = queues.of(node).map(Vec::as_slice).unwrap_or_default();
            let consumes = |queue: &&String| consumed.iter().any(|found| found.name == **queue);
            if self.required.iter().all(|task| tasks.contains(task)) {
                if self.config.reuse && self.config.queues.iter().all(|queue| consumes(&queue)) {
                    match shared.iter().find(|shared| shared.node == *node) {
                        Some(shared) => ambiguous = Some(shared),
                        None => _ = reusable.get_or_insert_with(|| node.clone()),
                    }
                }
            } else if let Some(queue) = self.config.queues.iter().find(consumes) {
                let problem = WorkerProblem::OfAnotherApp {
                    node: node.to_string(),
                    address: self.connection.address(),
                    queue: queue.clone(),
                };
                self.recorder.emit(EventKind::WorkerProblemFound { problem });
            }
        }
        match (reusable, ambiguous) {
            (None, Some(shared)) => Err(ServiceFailure::configuration(format!(
                "could not use the worker `{}` on {}: {shared}",
                shared.node,
                self.connection.address()
            ))
            .with_cause("the answers, the events and the tasks of these workers cannot be distinguished")
            .hint(SharedNodeName::ADVICE)),
            (reusable, _) => Ok(reusable),
        }
    }

    /// Repeats a question while Redis is down or slow, until the worker's start timeout.
    async fn ask_with_retries<T, F>(&self, ask: impl Fn() -> F) -> orch_celery::Result<T>
    where
        F: Future<Output = orch_celery::Result<T>>,
    {
        let deadline = Instant::now() + self.config.start_timeout;
        loop {
            match ask().await {
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    tracing::debug!(%error, "asking the workers again");
                    tokio::time::sleep(ASK_AGAIN_DELAY).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn ask_failed(&self, what: &str, error: &orch_celery::Error) -> ServiceFailure {
        ServiceFailure::infrastructure(format!(
            "could not ask the workers on {} {what}",
            self.connection.address()
        ))
        .with_cause(error.to_string())
    }

    /// Records the data of a worker that was running before.
    pub(crate) async fn record_reused(&self, node: &NodeName) {
        let stats = self
            .client
            .control()
            .stats(&ControlTarget::from(node), QUESTION_TIMEOUT)
            .await;
        if let Ok(stats) = stats
            && let Some(stats) = stats.of(node)
        {
            self.last_answer.learn(stats, None, &self.config.pool, None);
        }
    }
}
