//! A worker that was there before: found, and used if it is of the same app. Not here: one that orch starts (`celery`).

use std::time::{Duration, Instant};

use super::celery::{Celery, QUESTION_PATIENCE};
use super::failure::Failure;
use super::worker_command::node_name;
use crate::celery::{self, NodeName, Target};
use crate::run::{EventKind, Level};
use crate::shared_services::SharedName;

/// A worker that is there answers a ping in a few milliseconds; a busy machine gets a second.
const REUSE_PATIENCE: Duration = Duration::from_secs(1);
/// From a question that Redis did not carry to the next.
const ASK_AGAIN_DELAY: Duration = Duration::from_millis(200);
/// Digits of the run id in the name of a node whose usual name is taken.
const RUN_DIGITS: usize = 4;

impl Celery {
    /// Looks who is there already. A healthy worker of the same app is given to be reused; else this run's own gets a
    /// name that is free: two workers of one name would both answer, and both obey, what is meant for one.
    pub(super) async fn look_around(&self) -> Result<Option<NodeName>, Failure> {
        let control = self.client.control();
        let pong = self
            .ask_patiently(|| control.ping(&Target::All, REUSE_PATIENCE))
            .await
            .map_err(|error| self.not_told("whether they are there", &error))?;
        let nodes: Vec<NodeName> = pong.good().map(|(node, ())| node.clone()).collect();
        // Who listens and does not answer may be a busy solo worker of our name.
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

    /// A worker among `nodes` that consumes the same queues and knows the same tasks. Warns of one that consumes a
    /// queue of ours without knowing our tasks: it discards what it takes. One that shares its name with another is not used:
    /// their answers, their events and what they hold cannot be told apart.
    async fn find_reusable(&self, nodes: Vec<NodeName>) -> Result<Option<NodeName>, Failure> {
        // Without a task name to recognise the app by, any answer could be another app's.
        if self.required.is_empty() {
            return Ok(None);
        }
        let control = self.client.control();
        let target = Target::Nodes(nodes);
        let (registered, queues, stats) = tokio::join!(
            self.ask_patiently(|| control.registered(&target, QUESTION_PATIENCE)),
            self.ask_patiently(|| control.active_queues(&target, QUESTION_PATIENCE)),
            // Of nodes that are named one answer each would be enough.
            self.ask_patiently(|| control.stats(&Target::All, QUESTION_PATIENCE))
        );
        let registered = registered.map_err(|error| self.not_told("for their tasks", &error))?;
        let queues = queues.map_err(|error| self.not_told("for their queues", &error))?;
        let stats = stats.map_err(|error| self.not_told("for their processes", &error))?;
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
                let message = format!(
                    "worker `{node}` on {} consumes the queue `{queue}` too, but is of another app: it discards the \
                     tasks of this one that it takes\n  hint:  give one of the apps queues of its own (`[celery] queues`), \
                     or another database (`[redis] broker_db`)",
                    self.connection.address()
                );
                let level = Level::Warning;
                self.recorder.emit(EventKind::Noticed { level, message });
            }
        }
        match (reusable, ambiguous) {
            (None, Some(shared)) => Err(Failure::configuration(format!(
                "could not use the worker `{}` on {}: {shared}",
                shared.node,
                self.connection.address()
            ))
            .because("what they answer, the events of their tasks, and what each of them holds cannot be told apart")
            .hint(SharedName::CURE)),
            (reusable, _) => Ok(reusable),
        }
    }

    /// Asks again while Redis is away or slow, until the worker's start timeout.
    async fn ask_patiently<T, F>(&self, ask: impl Fn() -> F) -> celery::Result<T>
    where
        F: Future<Output = celery::Result<T>>,
    {
        let deadline = Instant::now() + self.config.start_timeout;
        loop {
            match ask().await {
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    tracing::debug!(%error, "ask the workers again");
                    tokio::time::sleep(ASK_AGAIN_DELAY).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn not_told(&self, what: &str, error: &crate::celery::Error) -> Failure {
        Failure::infrastructure(format!("ask the workers on {} {what}", self.connection.address()))
            .because(error.to_string())
    }

    /// Learns what a worker is that was there before.
    pub(super) async fn learn_of_reused(&self, node: &NodeName) {
        let stats = self
            .client
            .control()
            .stats(&Target::from(node), QUESTION_PATIENCE)
            .await;
        if let Ok(stats) = stats
            && let Some(stats) = stats.of(node)
        {
            self.last_answer.learn(stats, None, &self.config.pool, None);
        }
    }
}
