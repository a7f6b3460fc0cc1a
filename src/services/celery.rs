//! A Celery worker, of all sites or of one: reuse a healthy one of the same app, or start one and see that it is the right
//! one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::app_settings::Learner;
use super::broker_outage::BrokerOutage;
use super::connection::RedisConnection;
use super::consumption::ConsumptionCare;
use super::environment::merge;
use super::failure::Failure;
use super::import_path;
use super::late_acknowledgement;
use super::life::Role;
use super::mistyped_keys;
use super::name_watch::NameWatch;
use super::program::{Boxed, Prepared, Program, Start};
use super::refusal::{self, WatchedLog, refused};
use super::silent_worker::{self, LastAnswer};
use super::site_worker;
use super::unknown_tasks::missing_tasks;
use super::worker_command::{node_name, worker_argv};
use super::worker_log::{Announced, BrokerAddress, announced_broker};
use crate::celery::{Client, Kept, NodeName, Target};
use crate::config::{BeatMode, CeleryConfig, LivenessConfig, RateLimit};
use crate::duration_text::shown;
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::run::{EventKind, Level, Recorder, RunId, ServiceName};

/// Pause between pings that nobody received: a worker that starts subscribes within a second.
const PING_PAUSE: Duration = Duration::from_millis(10);
/// How long one ping of a starting worker waits for its answer.
const PING_PATIENCE: Duration = Duration::from_millis(500);
/// How often the log and Redis' error counters are read while the worker starts.
const CHECK_PAUSE: Duration = Duration::from_millis(250);
/// For finding out whether two host names are one.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(2);
/// For the questions after readiness.
pub(super) const QUESTION_PATIENCE: Duration = Duration::from_secs(5);

/// Whose tasks a worker does.
#[derive(Clone, Debug)]
pub enum Duty {
    /// Those of all. Before its first start it sees to what dead runs have left in its queues, and in these of others.
    All { own_queues: Vec<String> },
    /// Those of one site, at this rate, while somebody needs it.
    Site { rate: Option<RateLimit> },
}

/// The worker as a service.
pub struct Celery {
    name: ServiceName,
    duty: Duty,
    pub(super) config: CeleryConfig,
    pub(super) connection: RedisConnection,
    pub(super) client: Client,
    learner: Option<Arc<Learner>>,
    /// What the node's name begins with.
    pub(super) node_begin: String,
    pub(super) run_id: RunId,
    program: PathBuf,
    /// The node in use, ours or a reused one; known once a first look at who is there has been taken.
    pub(super) node: OnceLock<NodeName>,
    /// All but the arguments, which name the node.
    order: SpawnOrder,
    /// Task names that it must know.
    pub(super) required: BTreeSet<String>,
    /// Progress keys of jobs, as glob patterns, for the clean-up of an owned Redis.
    progress_patterns: Vec<String>,
    kept: Kept,
    pub(super) recorder: Recorder,
    first_start: AtomicBool,
    consumption: ConsumptionCare,
    outage: BrokerOutage,
    pub(super) last_answer: LastAnswer,
    name_watch: NameWatch,
    /// It was there before, and is used as it is.
    is_reused: AtomicBool,
}

/// What it takes to build [`Celery`].
pub struct CelerySetup<'a> {
    pub name: ServiceName,
    pub duty: Duty,
    pub config: &'a CeleryConfig,
    /// What the node's name begins with: such as the instance.
    pub node_begin: &'a str,
    pub run_id: &'a RunId,
    pub connection: &'a RedisConnection,
    pub client: Client,
    /// Asks the app for its settings; none where the instance that is up has done so.
    pub learner: Option<Arc<Learner>>,
    pub program: PathBuf,
    pub log: PathBuf,
    pub base: &'a [(String, String)],
    pub rank: u32,
    pub required: BTreeSet<String>,
    pub progress_patterns: Vec<String>,
    /// What is no leftover: it belongs to the run that this one continues.
    pub kept: Kept,
    pub recorder: Recorder,
}

impl Celery {
    /// A worker with the node `<begin>@<host name>`, or `<begin>-<run id's begin>@<host name>` where another worker has
    /// that name.
    pub fn new(setup: CelerySetup<'_>) -> Self {
        let CelerySetup { config, connection, .. } = setup;
        let environment = merge(setup.base, &config.env, &connection.environment());
        let order = SpawnOrder {
            service: setup.name.to_string(),
            argv: Vec::new(),
            environment,
            directory: config.directory.clone(),
            log: setup.log,
            stop: StopPlan {
                rank: setup.rank,
                // Warm: running tasks finish. Cold: they do not. Only ever the main process, or Celery loses tasks.
                steps: vec![
                    StopStep {
                        signal: nix::libc::SIGTERM,
                        grace: config.grace,
                    },
                    StopStep {
                        signal: nix::libc::SIGQUIT,
                        grace: config.quit_grace,
                    },
                ],
            },
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
            consumption: ConsumptionCare::default(),
            outage: BrokerOutage::default(),
            last_answer: LastAnswer::default(),
            name_watch: NameWatch::default(),
            is_reused: AtomicBool::new(false),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn config(&self) -> &CeleryConfig {
        &self.config
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(super) fn service_name(&self) -> &ServiceName {
        &self.name
    }

    pub(super) fn node(&self) -> &NodeName {
        self.node.get_or_init(|| node_name(&self.node_begin))
    }

    /// Removes (owned Redis) or reports what dead runs left, before any worker exists that would take it up.
    async fn clear_leftovers(&self) -> Result<(), Failure> {
        let Duty::All { own_queues } = &self.duty else {
            return Ok(());
        };
        let asked = |error: crate::celery::Error| {
            Failure::infrastructure(format!(
                "clear what dead runs left in Redis on {}",
                self.connection.address()
            ))
            .because(error.to_string())
        };
        let queues: Vec<&str> = self
            .config
            .queues
            .iter()
            .chain(own_queues)
            .map(String::as_str)
            .collect();
        let owned = self.connection.owned;
        let (left, progress) = if owned {
            let left = self.client.remove_leftovers(&queues, &self.kept).await.map_err(asked)?;
            (
                left,
                self.client
                    .remove_keys(&self.progress_patterns, &self.kept)
                    .await
                    .map_err(asked)?,
            )
        } else {
            let left = self.client.leftovers(&queues).await.map_err(asked)?;
            (
                left,
                self.client.count_keys(&self.progress_patterns).await.map_err(asked)?,
            )
        };
        if !left.is_empty() || progress > 0 {
            self.recorder.emit(EventKind::LeftoversFound {
                queued: left.queued.values().sum(),
                unacked: left.unacked,
                keys: left.chord_keys + left.reply_lists + progress,
                removed: owned,
            });
        }
        Ok(())
    }

    async fn cure_mistyped_keys(&self) -> Result<(), Failure> {
        mistyped_keys::cure(&self.client, &self.connection, &self.config.queues, &self.recorder).await
    }

    fn wrong_broker(&self, there: &dyn std::fmt::Display) -> Failure {
        Failure::configuration(format!("the worker uses another broker than orch: {there}"))
            .because(format!(
                "orch's Redis is {}; the app does not take its URL from the environment",
                self.here_in_words()
            ))
            .with_log(&self.order.log)
            .hint("let the app read CELERY_BROKER_URL (or REDIS_HOST and REDIS_PORT), or configure `[redis]` to its address")
    }

    /// Whether a broker is not the Redis that orch speaks to. Another name of its host is no other server.
    async fn is_elsewhere(&self, there: &BrokerAddress) -> bool {
        let addresses = async |address: &BrokerAddress| -> BTreeSet<std::net::SocketAddr> {
            let found = tokio::net::lookup_host((address.host.as_str(), address.port));
            match tokio::time::timeout(LOOK_UP_PATIENCE, found).await {
                Ok(Ok(found)) => found.collect(),
                Ok(Err(_)) | Err(_) => BTreeSet::new(),
            }
        };
        let here = self.connection.broker_addresses();
        if here.is_empty() || here.iter().any(|here| there.same(here)) {
            return false;
        }
        for here in here
            .iter()
            .filter(|here| (there.port, there.db) == (here.port, here.db))
        {
            let (theirs, ours) = tokio::join!(addresses(there), addresses(here));
            if !theirs.is_disjoint(&ours) {
                return false;
            }
        }
        true
    }

    fn here_in_words(&self) -> String {
        let here: Vec<String> = self
            .connection
            .broker_addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        match here.is_empty() {
            true => self.connection.address(),
            false => here.join(", "),
        }
    }

    /// Gives the failure if there is evidence that the app is refused by orch's Redis, in what the worker has logged.
    async fn refusal(&self, log: &mut WatchedLog) -> Option<Failure> {
        if !self.connection.guards_password() {
            return None;
        }
        refusal::by_log(refused(&self.client).await, log)
    }

    /// Looks whether another worker has the same name. One of the run's own is not restarted for that: it would have the same
    /// name again.
    async fn check_name(&self) -> Result<(), String> {
        let Some(found) = self.name_watch.look(&self.client, self.node()).await else {
            return Ok(());
        };
        if self.is_reused.load(Ordering::Relaxed) {
            return Err(found.reason);
        }
        if found.is_news {
            self.recorder.emit(EventKind::ServiceUnhealthy {
                service: self.name.clone(),
                reason: found.reason,
            });
        }
        Ok(())
    }

    /// Is it the worker that this run needs? Asked once it answers.
    async fn check(&self, log: &mut WatchedLog, spawned: Option<i32>) -> Result<String, Unready> {
        let control = self.client.control();
        let target = Target::Nodes(vec![self.node().clone()]);
        let asked = |what: &str, why: String| {
            let failure = Failure::infrastructure(format!("ask worker `{}` for {what}", self.node()));
            Unready::AskAgain(failure.because(why).with_log(&self.order.log))
        };
        if let Some(learner) = &self.learner {
            learner
                .ask_worker(&self.client, self.node(), &self.config.app, &self.recorder)
                .await?;
        }
        let (stats, registered, settings) = tokio::join!(
            control.stats(&target, QUESTION_PATIENCE),
            control.registered(&target, QUESTION_PATIENCE),
            control.conf(&target, QUESTION_PATIENCE)
        );
        let stats = stats.map_err(|error| asked("its stats", error.to_string()))?;
        let Some(stats) = stats.of(self.node()) else {
            return Err(asked(
                "its stats",
                format!("no answer within {}", shown(QUESTION_PATIENCE)),
            ));
        };
        if let (Some(port), Some(db)) = (stats.broker.port, stats.broker.database) {
            let there = BrokerAddress {
                host: stats.broker.host.clone(),
                port,
                db,
            };
            if self.is_elsewhere(&there).await {
                return Err(self.wrong_broker(&there).into());
            }
        }
        let registered = registered.map_err(|error| asked("its tasks", error.to_string()))?;
        let Some(tasks) = registered.of(self.node()) else {
            return Err(asked(
                "its tasks",
                format!("no answer within {}", shown(QUESTION_PATIENCE)),
            ));
        };
        let missing: Vec<&String> = self.required.iter().filter(|task| !tasks.contains(*task)).collect();
        if !missing.is_empty() {
            return Err(missing_tasks(&missing, tasks).into());
        }
        // A worker that does not tell its settings is found later, by what it logs.
        let settings = settings.ok();
        let settings = settings.as_ref().and_then(|settings| settings.of(self.node()));
        self.last_answer.learn(stats, settings, &self.config.pool, spawned);
        self.last_answer.watch_tasks(&self.client, self.node()).await;
        if let Some(settings) = settings.filter(|_| self.connection.guards_password())
            && let Some(here) = self.connection.broker_addresses().first()
            && let Some(failure) = refusal::by_settings(settings, here)
        {
            return Err(failure.into());
        }
        if let Some(failure) = self.refusal(log).await {
            return Err(failure.into());
        }
        if let Duty::Site { rate } = &self.duty {
            let log = &self.order.log;
            site_worker::check_slots(self.node(), stats.pool_slots, self.config.concurrency, log)?;
            if let Some(rate) = rate {
                let limited = site_worker::limit(self.node(), rate, &control, log).await;
                limited.map_err(Unready::AskAgain)?;
            }
        }
        if self.config.acks_late {
            late_acknowledgement::warn_of_unreached(&control, &target, &self.recorder).await;
        }
        let slots = match stats.pool_slots {
            1 => "1 pool slot".to_owned(),
            slots => format!("{slots} pool slots"),
        };
        Ok(format!("{} with {slots}", self.node()))
    }
}

/// Why a worker that answers is not ready.
enum Unready {
    /// It is not what this run needs.
    Failed(Failure),
    /// It was not heard: Redis or the worker may be back in a moment.
    AskAgain(Failure),
}

impl From<Failure> for Unready {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Program for Celery {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> Role {
        Role::Daemon {
            restart: self.config.restart,
            liveness_failures: self.config.liveness.failures,
            ready_at_spawn: false,
        }
    }

    fn log(&self) -> &Path {
        &self.order.log
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
        matches!(self.duty, Duty::Site { .. })
    }

    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>> {
        Box::pin(async move {
            // Names of queues and channels depend on it.
            if let Some(learner) = &self.learner {
                learner.check(&self.config.app).await?;
            }
            // Before each start: the last one may have ended for such a key, and the next would.
            self.cure_mistyped_keys().await?;
            let is_first = self.first_start.swap(false, Ordering::Relaxed);
            if is_first {
                if !self.connection.owned
                    && let Some(node) = self.look_around().await?
                {
                    if self.config.acks_late {
                        let target = Target::Nodes(vec![node.clone()]);
                        late_acknowledgement::warn_of_unreached(&self.client.control(), &target, &self.recorder).await;
                    }
                    self.learn_of_reused(&node).await;
                    self.is_reused.store(true, Ordering::Relaxed);
                    return Ok(Prepared::Reuse(node.to_string()));
                }
                self.clear_leftovers().await?;
            }
            self.consumption.begin_anew();
            self.outage.begin_anew();
            if self.config.beat == BeatMode::Embedded {
                super::beat::make_schedule_directory(&self.config.beat_schedule)?;
            }
            let mut order = self.order.clone();
            order.argv = worker_argv(&self.config, &self.connection, &self.program, self.node());
            if let Some(message) = import_path::extend(&mut order.environment, &self.config.directory)
                && is_first
                && !self.is_on_demand()
            {
                let level = Level::Info;
                self.recorder.emit(EventKind::Noticed { level, message });
            }
            Ok(Prepared::Spawn(Box::new(order)))
        })
    }

    fn ready(self: Arc<Self>, start: Start) -> Boxed<Result<String, Failure>> {
        Box::pin(async move {
            let control = self.client.control();
            let target = Target::Nodes(vec![self.node().clone()]);
            let mut log = WatchedLog::new(self.order.log.clone(), start.log_offset);
            let mut next_check = Instant::now() + CHECK_PAUSE;
            let mut last_error = None;
            loop {
                match control.ping(&target, PING_PATIENCE).await {
                    Ok(pong) if pong.of(self.node()).is_some() => {
                        self.outage.answered(&self.client).await;
                        match self.check(&mut log, start.pid).await {
                            Ok(detail) => return Ok(detail),
                            Err(Unready::Failed(failure)) => return Err(failure),
                            Err(Unready::AskAgain(failure)) if Instant::now() >= start.deadline => return Err(failure),
                            Err(Unready::AskAgain(failure)) => last_error = Some(failure.to_string()),
                        }
                    }
                    Ok(_) => {}
                    // Redis may be restarting; the deadline judges.
                    Err(error) => last_error = Some(error.to_string()),
                }
                let now = Instant::now();
                if now >= next_check {
                    next_check = now + CHECK_PAUSE;
                    match announced_broker(&self.order.log, start.log_offset) {
                        Some(Announced::Redis(there)) if self.is_elsewhere(&there).await => {
                            return Err(self.wrong_broker(&there));
                        }
                        Some(Announced::Other(url)) => return Err(self.wrong_broker(&url)),
                        Some(Announced::Redis(_)) | None => {}
                    }
                    if let Some(failure) = self.refusal(&mut log).await {
                        return Err(failure);
                    }
                }
                if now >= start.deadline {
                    let what = format!(
                        "worker `{}` is not ready after {}",
                        self.node(),
                        shown(self.config.start_timeout)
                    );
                    let mut cause = last_error.unwrap_or_else(|| "it runs, but does not answer a ping".to_owned());
                    if let Some(learner) = &self.learner {
                        cause.extend(learner.why_unknown().await.map(|why| format!("; {why}")));
                    }
                    return Err(Failure::infrastructure(what)
                        .because(cause)
                        .with_log(&self.order.log)
                        .hint("`[celery] start_timeout` sets how long it may take"));
                }
                tokio::time::sleep(PING_PAUSE).await;
            }
        })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move {
            let patience = self.config.liveness.timeout;
            // A worker may go on with it, and do nothing.
            self.cure_mistyped_keys().await.map_err(|failure| failure.what)?;
            let target = Target::Nodes(vec![self.node().clone()]);
            let asked = self.last_answer.ask();
            match self.client.control().ping(&target, patience).await {
                Ok(pong) if pong.of(self.node()).is_some() => {
                    self.outage.answered(&self.client).await;
                    if pong.listeners > 1 {
                        self.check_name().await?;
                    }
                    let consumes = self.consumption.check(&self).await;
                    self.last_answer.answered(self.consumption.has_task());
                    consumes
                }
                Ok(_) => {
                    let reconnecting = self.outage.may_be_reconnecting(&self.client).await;
                    let verdict = match self.last_answer.silence(asked, reconnecting) {
                        Some(silence) => silent_worker::judge(silence),
                        None if reconnecting => silent_worker::Verdict::Reconnecting,
                        None => silent_worker::Verdict::Dead(None),
                    };
                    let silent = || format!("`{}` does not answer a ping within {}", self.node(), shown(patience));
                    match verdict {
                        silent_worker::Verdict::Busy | silent_worker::Verdict::Reconnecting => Ok(()),
                        silent_worker::Verdict::Dead(None) => Err(silent()),
                        silent_worker::Verdict::Dead(Some(why)) => Err(format!("{}: {why}", silent())),
                    }
                }
                // A broker that is down is Redis' matter; a restart of the worker would not mend it.
                Err(_broker) => {
                    self.outage.is_away();
                    Ok(())
                }
            }
        })
    }
}
