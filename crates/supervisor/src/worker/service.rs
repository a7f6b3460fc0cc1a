//! A Celery worker, shared by all sites or of one site: orch reuses a healthy one of the same app, or starts one and
//! checks that the worker is the right one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::acks_late;
use super::broker_match;
use super::broker_outage::BrokerOutage;
use super::command_line::{node_name, worker_argv};
use super::consumption::ConsumptionRepair;
use super::leftovers;
use super::log::{AnnouncedBroker, BrokerAddress, announced_broker};
use super::silent_worker;
use super::silent_worker::LastAnswer;
use super::site_worker;
use super::unknown_tasks::missing_tasks;
use crate::environment::merge;
use crate::import_path;
use crate::name_watch::NameWatch;
use crate::redis::connection::RedisConnection;
use crate::redis::mistyped_keys;
use crate::redis::refusal;
use crate::redis::refusal::{WatchedLog, refusal_counts};
use crate::service_kind::{BoxedFuture, PreparedStart, ServiceKind, ServiceStart, not_ready};
use crate::states::ServiceRole;
use crate::worker::app_settings::SettingsQuery;
use orch_base::files::log_bound::LogBound;
use orch_base::text::duration_text::shown;
use orch_celery::{Client, ControlTarget, KeptJobs, NodeName};
use orch_config::{BeatMode, CeleryConfig, LivenessConfig, RateLimit};
use orch_guard::{SpawnOrder, StopPlan};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, Recorder, RunId, ServiceName};

/// Interval between pings that no worker received: a worker that starts subscribes within a second.
const PING_INTERVAL: Duration = Duration::from_millis(10);
/// Longest wait for the answer to one ping of a starting worker.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// Interval of reads of the log and of Redis' error counters while the worker starts.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for the answers to the questions after readiness.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The tasks that a worker executes.
#[derive(Clone, Debug)]
pub enum WorkerScope {
    /// The tasks of all sites. Before the first start this worker handles leftovers of dead runs, in the shared queues
    /// and in these queues of sites.
    AllSites { own_queues: Vec<String> },
    /// The tasks of one site, at this rate, while a caller needs the worker.
    OneSite { rate: Option<RateLimit> },
}

/// The worker as a service.
pub struct CeleryWorker {
    name: ServiceName,
    duty: WorkerScope,
    pub(crate) config: CeleryConfig,
    pub(crate) connection: RedisConnection,
    pub(crate) client: Client,
    learner: Option<Arc<SettingsQuery>>,
    /// The first part of the node's name.
    pub(crate) node_begin: String,
    pub(crate) run_id: RunId,
    program: PathBuf,
    /// The node in use, an own or a reused one; known once running workers have been looked for.
    pub(crate) node: OnceLock<NodeName>,
    /// The order to spawn, without the arguments, which name the node.
    order: SpawnOrder,
    /// Names of tasks that the worker must know.
    pub(crate) required: BTreeSet<String>,
    /// Progress keys of jobs, as glob patterns, for the clean-up of an owned Redis.
    progress_patterns: Vec<String>,
    kept: KeptJobs,
    pub(crate) recorder: Recorder,
    first_start: AtomicBool,
    consumption: ConsumptionRepair,
    outage: BrokerOutage,
    pub(crate) last_answer: LastAnswer,
    name_watch: NameWatch,
    /// The worker was running before, and is used without changes.
    is_reused: AtomicBool,
}

/// The values from which [`CeleryWorker`] is built.
pub struct CeleryWorkerSetup<'a> {
    pub name: ServiceName,
    pub duty: WorkerScope,
    pub config: &'a CeleryConfig,
    /// The first part of the node's name, such as the instance.
    pub node_begin: &'a str,
    pub run_id: &'a RunId,
    pub connection: &'a RedisConnection,
    pub client: Client,
    /// Asks the app for the settings; `None` if the running instance has done so.
    pub learner: Option<Arc<SettingsQuery>>,
    pub program: PathBuf,
    pub log: PathBuf,
    pub base: &'a [(String, String)],
    pub rank: u32,
    pub required: BTreeSet<String>,
    pub progress_patterns: Vec<String>,
    /// Keys that are no leftovers, since they belong to the run that this one continues.
    pub kept: KeptJobs,
    pub recorder: Recorder,
}

impl CeleryWorker {
    /// Builds a worker with the node `<begin>@<host name>`, or `<begin>-<start of the run id>@<host name>` if another
    /// worker has that name.
    pub fn new(setup: CeleryWorkerSetup<'_>) -> Self {
        let CeleryWorkerSetup { config, connection, .. } = setup;
        let environment = merge(setup.base, &config.env, &connection.environment());
        let order = SpawnOrder {
            service: setup.name.to_string(),
            argv: Vec::new(),
            environment,
            directory: config.directory.clone(),
            log: setup.log,
            // Warm stop: running tasks finish. Cold stop: they do not. Only the main process gets the signals, or
            // Celery loses tasks.
            stop: StopPlan::new(
                setup.rank,
                [
                    (nix::libc::SIGTERM, config.grace),
                    (nix::libc::SIGQUIT, config.quit_grace),
                ],
            ),
        };
        Self {
            name: setup.name,
            duty: setup.duty,
            config: config.clone(),
            connection: connection.clone(),
            client: setup.client,
            learner: setup.learner,
            node_begin: setup.node_begin.to_owned(),
            run_id: setup.run_id.clone(),
            program: setup.program,
            node: OnceLock::new(),
            order,
            required: setup.required,
            progress_patterns: setup.progress_patterns,
            kept: setup.kept,
            recorder: setup.recorder,
            first_start: AtomicBool::new(true),
            consumption: ConsumptionRepair::default(),
            outage: BrokerOutage::default(),
            last_answer: LastAnswer::default(),
            name_watch: NameWatch::default(),
            is_reused: AtomicBool::new(false),
        }
    }

    pub(crate) fn node(&self) -> &NodeName {
        self.node.get_or_init(|| node_name(&self.node_begin))
    }

    async fn repair_mistyped_keys(&self) -> Result<(), ServiceFailure> {
        mistyped_keys::repair(&self.client, &self.connection, &self.config.queues, &self.recorder).await
    }

    /// Returns the failure if the worker's log shows that orch's Redis refuses the app.
    async fn refusal(&self, log: &mut WatchedLog) -> Option<ServiceFailure> {
        if !self.connection.guards_password() {
            return None;
        }
        refusal::failure_in_log(refusal_counts(&self.client).await, log)
    }

    /// Checks whether another worker has the same name. An own worker is not restarted for that: the new process would
    /// have the same name.
    async fn check_name(&self) -> Result<(), String> {
        let Some(found) = self.name_watch.check(&self.client, self.node()).await else {
            return Ok(());
        };
        if self.is_reused.load(Ordering::Relaxed) {
            return Err(found.reason);
        }
        if found.is_new {
            self.recorder.emit(EventKind::ServiceUnhealthy {
                service: self.name.clone(),
                reason: found.reason,
            });
        }
        Ok(())
    }

    async fn check_consumption(&self) -> Result<(), String> {
        self.consumption
            .check(&self.client, &self.config, self.node(), &self.name, &self.recorder)
            .await
    }

    /// Checks that the worker is the one that this run needs, once the worker answers.
    async fn check(&self, log: &mut WatchedLog, spawned: Option<i32>) -> Result<String, NotReadyReason> {
        let control = self.client.control();
        let target = ControlTarget::Nodes(vec![self.node().clone()]);
        let unanswered = |what: &str, why: String| {
            let failure = ServiceFailure::infrastructure(format!("could not ask worker `{}` for {what}", self.node()));
            NotReadyReason::AskAgain(failure.with_cause(why).with_log(&self.order.log))
        };
        if let Some(learner) = &self.learner {
            learner
                .ask_worker(&self.client, self.node(), &self.config.app, &self.recorder)
                .await?;
        }
        let (stats, registered, settings) = tokio::join!(
            control.stats(&target, QUESTION_TIMEOUT),
            control.registered(&target, QUESTION_TIMEOUT),
            control.conf(&target, QUESTION_TIMEOUT)
        );
        let stats = stats.map_err(|error| unanswered("its stats", error.to_string()))?;
        let Some(stats) = stats.of(self.node()) else {
            return Err(unanswered(
                "its stats",
                format!("no answer within {}", shown(QUESTION_TIMEOUT)),
            ));
        };
        if let (Some(port), Some(db)) = (stats.broker.port, stats.broker.database) {
            let there = BrokerAddress {
                host: stats.broker.host.clone(),
                port,
                db,
            };
            if broker_match::is_elsewhere(&self.connection, &there).await {
                return Err(broker_match::wrong_broker(&self.connection, &self.order.log, &there).into());
            }
        }
        let registered = registered.map_err(|error| unanswered("its tasks", error.to_string()))?;
        let Some(tasks) = registered.of(self.node()) else {
            return Err(unanswered(
                "its tasks",
                format!("no answer within {}", shown(QUESTION_TIMEOUT)),
            ));
        };
        let missing: Vec<&String> = self.required.iter().filter(|task| !tasks.contains(*task)).collect();
        if !missing.is_empty() {
            return Err(missing_tasks(&missing, tasks).into());
        }
        // If a worker does not report settings, the problem is found later in the log.
        let settings = settings.ok();
        let settings = settings.as_ref().and_then(|settings| settings.of(self.node()));
        self.last_answer.learn(stats, settings, &self.config.pool, spawned);
        self.last_answer.watch_tasks(&self.client, self.node()).await;
        if let Some(settings) = settings.filter(|_| self.connection.guards_password())
            && let Some(here) = self.connection.broker_addresses().first()
            && let Some(failure) = refusal::failure_in_settings(settings, here)
        {
            return Err(failure.into());
        }
        if let Some(failure) = self.refusal(log).await {
            return Err(failure.into());
        }
        if let WorkerScope::OneSite { rate } = &self.duty {
            let log = &self.order.log;
            site_worker::check_slots(self.node(), stats.pool_slots, self.config.concurrency, log)?;
            if let Some(rate) = rate {
                let limited = site_worker::limit(self.node(), rate, &control, log).await;
                limited.map_err(NotReadyReason::AskAgain)?;
            }
        }
        if self.config.acks_late {
            acks_late::warn_of_unreached(&control, &target, &self.recorder).await;
        }
        let slots = match stats.pool_slots {
            1 => "1 pool slot".to_owned(),
            slots => format!("{slots} pool slots"),
        };
        Ok(format!("{} with {slots}", self.node()))
    }
}

/// The reason why a worker that answers is not ready.
enum NotReadyReason {
    /// The worker is not the one that this run needs.
    Failed(ServiceFailure),
    /// There was no answer: Redis or the worker may be back in a moment.
    AskAgain(ServiceFailure),
}

impl From<ServiceFailure> for NotReadyReason {
    fn from(failure: ServiceFailure) -> Self {
        Self::Failed(failure)
    }
}

impl ServiceKind for CeleryWorker {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> ServiceRole {
        ServiceRole::probed_daemon(self.config.restart, self.config.liveness.failures)
    }

    fn log(&self) -> &Path {
        &self.order.log
    }

    fn log_bound(&self) -> LogBound {
        self.config.log
    }

    fn start_timeout(&self) -> Duration {
        self.config.start_timeout
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        Some(self.config.liveness)
    }

    fn holds_tasks(&self) -> bool {
        true
    }

    fn max_memory(&self) -> Option<u64> {
        self.config.max_memory
    }

    fn is_on_demand(&self) -> bool {
        matches!(self.duty, WorkerScope::OneSite { .. })
    }

    fn prepare(self: Arc<Self>) -> BoxedFuture<Result<PreparedStart, ServiceFailure>> {
        Box::pin(async move {
            // The names of queues and channels depend on the settings.
            if let Some(learner) = &self.learner {
                learner.check(&self.config.app).await?;
            }
            // Before each start: such a key may have ended the last worker, and would end the next one.
            self.repair_mistyped_keys().await?;
            let is_first = self.first_start.swap(false, Ordering::Relaxed);
            if is_first {
                if !self.connection.owned
                    && let Some(node) = self.find_running_worker().await?
                {
                    if self.config.acks_late {
                        let target = ControlTarget::Nodes(vec![node.clone()]);
                        acks_late::warn_of_unreached(&self.client.control(), &target, &self.recorder).await;
                    }
                    self.record_reused(&node).await;
                    self.is_reused.store(true, Ordering::Relaxed);
                    return Ok(PreparedStart::Reuse(node.to_string()));
                }
                if let WorkerScope::AllSites { own_queues } = &self.duty {
                    let queues = self.config.queues.iter().chain(own_queues);
                    let queues: Vec<&str> = queues.map(String::as_str).collect();
                    let (patterns, kept) = (&self.progress_patterns, &self.kept);
                    leftovers::clear(&self.client, &self.connection, &queues, patterns, kept, &self.recorder).await?;
                }
            }
            self.consumption.reset();
            self.outage.reset();
            if self.config.beat == BeatMode::Embedded {
                super::beat::create_schedule_directory(&self.config.beat_schedule)?;
            }
            let mut order = self.order.clone();
            order.argv = worker_argv(&self.config, &self.connection, &self.program, self.node());
            if let Some(problem) = import_path::extend(&mut order.environment, &self.config.directory)
                && is_first
                && !self.is_on_demand()
            {
                self.recorder.emit(EventKind::AppProblemFound { problem });
            }
            Ok(PreparedStart::Spawn(Box::new(order)))
        })
    }

    fn ready(self: Arc<Self>, start: ServiceStart) -> BoxedFuture<Result<String, ServiceFailure>> {
        Box::pin(async move {
            let control = self.client.control();
            let target = ControlTarget::Nodes(vec![self.node().clone()]);
            let mut log = WatchedLog::new(self.order.log.clone(), start.log_offset);
            let mut next_check = Instant::now() + CHECK_INTERVAL;
            let mut last_error = None;
            loop {
                match control.ping(&target, PING_TIMEOUT).await {
                    Ok(pong) if pong.of(self.node()).is_some() => {
                        self.outage.answered(&self.client).await;
                        match self.check(&mut log, start.pid).await {
                            Ok(detail) => return Ok(detail),
                            Err(NotReadyReason::Failed(failure)) => return Err(failure),
                            Err(NotReadyReason::AskAgain(failure)) if Instant::now() >= start.deadline => {
                                return Err(failure);
                            }
                            Err(NotReadyReason::AskAgain(failure)) => last_error = Some(failure.to_string()),
                        }
                    }
                    Ok(_) => {}
                    // Redis may be restarting; the deadline decides.
                    Err(error) => last_error = Some(error.to_string()),
                }
                let now = Instant::now();
                if now >= next_check {
                    next_check = now + CHECK_INTERVAL;
                    match announced_broker(&self.order.log, start.log_offset) {
                        Some(AnnouncedBroker::Redis(there))
                            if broker_match::is_elsewhere(&self.connection, &there).await =>
                        {
                            return Err(broker_match::wrong_broker(&self.connection, &self.order.log, &there));
                        }
                        Some(AnnouncedBroker::Other(url)) => {
                            return Err(broker_match::wrong_broker(&self.connection, &self.order.log, &url));
                        }
                        Some(AnnouncedBroker::Redis(_)) | None => {}
                    }
                    if let Some(failure) = self.refusal(&mut log).await {
                        return Err(failure);
                    }
                }
                if now >= start.deadline {
                    let mut cause = last_error.unwrap_or_else(|| "it runs, but does not answer a ping".to_owned());
                    if let Some(learner) = &self.learner {
                        cause.extend(learner.why_unknown().await.map(|why| format!("; {why}")));
                    }
                    let what = format!("worker `{}`", self.node());
                    let failure = not_ready(&what, self.config.start_timeout, cause, &self.order.log);
                    return Err(failure.hint("`[celery] start_timeout` sets how long it may take"));
                }
                tokio::time::sleep(PING_INTERVAL).await;
            }
        })
    }

    fn alive(self: Arc<Self>) -> BoxedFuture<Result<(), String>> {
        Box::pin(async move {
            let timeout = self.config.liveness.timeout;
            // A worker with such a key may continue without doing any work.
            self.repair_mistyped_keys().await.map_err(|failure| failure.summary)?;
            let target = ControlTarget::Nodes(vec![self.node().clone()]);
            let question = self.last_answer.ask();
            match self.client.control().ping(&target, timeout).await {
                Ok(pong) if pong.of(self.node()).is_some() => {
                    self.outage.answered(&self.client).await;
                    if pong.listeners > 1 {
                        self.check_name().await?;
                    }
                    let consumes = self.check_consumption().await;
                    self.last_answer.answered(self.consumption.has_task());
                    consumes
                }
                Ok(_) => {
                    let reconnecting = self.outage.may_be_reconnecting(&self.client).await;
                    let verdict = match self.last_answer.silence(question, reconnecting) {
                        Some(silence) => silent_worker::judge(silence),
                        None if reconnecting => silent_worker::SilenceVerdict::Reconnecting,
                        None => silent_worker::SilenceVerdict::Dead(None),
                    };
                    let silent = || format!("`{}` does not answer a ping within {}", self.node(), shown(timeout));
                    match verdict {
                        silent_worker::SilenceVerdict::Busy | silent_worker::SilenceVerdict::Reconnecting => Ok(()),
                        silent_worker::SilenceVerdict::Dead(None) => Err(silent()),
                        silent_worker::SilenceVerdict::Dead(Some(why)) => Err(format!("{}: {why}", silent())),
                    }
                }
                // An outage of the broker concerns Redis; a restart of the worker would not help.
                Err(_broker) => {
                    self.outage.note_outage();
                    Ok(())
                }
            }
        })
    }
}
