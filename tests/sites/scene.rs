//! Common parts of these tests: a Redis, a worker of `jobs_app`, a recorder with readable events, sites to run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use orch::celery::{Client, Endpoints};
use orch::config::{DynamicTimeout, ProxiesConfig, SiteConfig, SiteDependencies, SiteTimeout, TaskCall};
use orch::journal::{EventKind, Feed, FeedUpdate, FollowStage, Recorder, RunId, SiteName};
use orch::scrape::sites::{
    JobContext, KeptMonitor, LeaseHolder, LeaseStore, LeaseTerms, OutagePolicy, RunPlan, SiteReport,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::support::celery::{Worker, WorkerOptions};
use crate::support::redis::RedisServer;
use crate::support::wait;

/// Upper bound of all waits of a test together.
const TEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Time within which an event of a site, a key or a line of the worker's log must appear.
const EVENT_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Scene {
    pub context: JobContext,
    /// Number of workers that a test has killed, as the supervisor counts them.
    pub deaths: watch::Sender<u64>,
    pub directory: TempDir,
    events: Mutex<Feed>,
    seen: Mutex<Vec<EventKind>>,
    pub worker: Option<Worker>,
    pub redis: RedisServer,
}

impl Scene {
    pub fn new() -> Self {
        let mut scene = Self::without_worker();
        scene.start_worker(4);
        scene
    }

    pub fn without_worker() -> Self {
        let redis = RedisServer::start();
        let endpoints = Endpoints::from_urls(&redis.url(0), &redis.url(1)).expect("our own URLs");
        let client = Client::connect(endpoints).expect("no certificates are read");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let recorder = Recorder::create(&directory.path().join("journal.jsonl")).expect("a journal");
        let events = Mutex::new(recorder.subscribe());
        let (deaths, worker_deaths) = watch::channel(0);
        let context = JobContext::new(client, recorder, vec!["celery".to_owned()], worker_deaths);
        Self {
            context,
            deaths,
            directory,
            events,
            seen: Mutex::default(),
            worker: None,
            redis,
        }
    }

    pub fn start_worker(&mut self, concurrency: u32) {
        self.start_worker_with(WorkerOptions {
            concurrency,
            ..WorkerOptions::default()
        });
    }

    pub fn start_worker_with(&mut self, options: WorkerOptions) {
        self.start_worker_with_app("jobs_app", options);
    }

    pub fn start_worker_with_app(&mut self, app: &'static str, options: WorkerOptions) {
        self.worker = None;
        let options = WorkerOptions { app, ..options };
        self.worker = Some(Worker::start(&self.redis, options));
    }

    /// Kills the worker, and counts that.
    pub fn kill_worker(&mut self) {
        self.worker.take().expect("a worker runs").process.kill();
        self.deaths.send_modify(|deaths| *deaths += 1);
    }

    /// Returns all events so far.
    pub fn events(&self) -> Vec<EventKind> {
        let mut seen = self.seen.lock().expect("no test panicked with it");
        let mut events = self.events.lock().expect("as above");
        while let Some(update) = events.try_recv() {
            let FeedUpdate::Event(event) = update else {
                panic!("{update:?}")
            };
            seen.push(event.kind.clone());
        }
        seen.clone()
    }

    /// Waits until an event has happened for which `wanted` holds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&EventKind) -> bool) {
        // The recorder's subscription blocks a thread; the test shares the only thread of the runtime with the run.
        let happens = wait::within_async(EVENT_TIMEOUT, async || self.events().iter().any(&wanted).then_some(()));
        assert!(
            happens.await.is_some(),
            "{what} has not happened; events: {:#?}",
            self.events()
        )
    }

    /// Waits until the app has written a key.
    pub async fn until_key(&self, name: &str) {
        let is_written = wait::within_async(EVENT_TIMEOUT, async || self.key(name));
        assert!(
            is_written.await.is_some(),
            "`{name}` was not written; events: {:#?}",
            self.events()
        )
    }

    /// Waits until the log of the worker has this text.
    pub async fn until_worker_says(&self, text: &str) {
        let log = || self.worker.as_ref().expect("a worker runs").process.log();
        let is_said = wait::within_async(EVENT_TIMEOUT, async || log().contains(text).then_some(()));
        assert!(is_said.await.is_some(), "the worker has not said `{text}`:\n{}", log())
    }

    /// Returns the stages that a site went through, with their reasons.
    pub fn stages(&self, of: &str) -> Vec<(FollowStage, String)> {
        let stage = |event: EventKind| match event {
            EventKind::SiteStageEntered { site, stage, reason } if site.as_str() == of => Some((stage, reason)),
            _ => None,
        };
        self.events().into_iter().filter_map(stage).collect()
    }

    pub fn stage_names(&self, of: &str) -> Vec<FollowStage> {
        self.stages(of).into_iter().map(|(stage, _)| stage).collect()
    }

    /// Returns the value of a key in the database of the result backend.
    pub fn key(&self, name: &str) -> Option<String> {
        redis::cmd("GET")
            .arg(name)
            .query(&mut self.redis.connection(1))
            .expect("the server answers")
    }
}

/// Runs a test on one thread, as orch does.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    run_within(TEST_TIMEOUT, test)
}

pub fn run_within<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, test).await });
    outcome.unwrap_or_else(|_| panic!("the test has not ended after {limit:?}"))
}

pub const PACE: DynamicTimeout = DynamicTimeout {
    time_per_chunk: Duration::from_secs(60),
    buffer: 1.5,
    timeout_min: Duration::from_secs(300),
    timeout_default: Duration::from_secs(1800),
};

/// Duration of leases in these tests, unless a test sets another one.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the leases of this Redis for a run of its own.
pub fn leases(context: &JobContext, duration: Duration, outage: OutagePolicy) -> LeaseStore {
    let me = LeaseHolder::of_this_process(&RunId::random(), None);
    LeaseStore::new(context.celery.clone(), "orch", me, LeaseTerms { duration, outage })
}

/// Runs all sites, as a run of its own that waits for no other.
pub async fn run_all(context: &JobContext, sites: Vec<SiteConfig>, max_parallel: usize) -> Vec<SiteReport> {
    run_all_kept(context, &KeptMonitor::default(), sites, max_parallel).await
}

/// Runs all sites with the worker monitor in `kept`, so that a caller that drops the run can cancel its jobs.
pub async fn run_all_kept(
    context: &JobContext,
    kept: &KeptMonitor,
    sites: Vec<SiteConfig>,
    max_parallel: usize,
) -> Vec<SiteReport> {
    let leases = leases(context, LEASE_TIMEOUT, OutagePolicy::StopWork);
    orch::scrape::sites::run_all(context, kept, work(sites, max_parallel), leases, Instant::now()).await
}

/// Returns the work of these sites with a limit of parallel ones, none with an expected time or a resource.
pub fn work(sites: Vec<SiteConfig>, max_parallel: usize) -> RunPlan {
    RunPlan::new(sites, max_parallel, &BTreeMap::new(), &BTreeMap::new()).expect("there is an order")
}

/// Returns a site whose dispatch task gets the name of the site and these keyword arguments.
pub fn site(name: &str, task: &str, kwargs: Value) -> SiteConfig {
    let mut arguments = object(json!({"site": "{site}"}));
    arguments.extend(object(kwargs));
    SiteConfig {
        name: SiteName::from(name),
        sites_file: None,
        dispatch: TaskCall {
            task: task.to_owned(),
            args: vec![],
            kwargs: arguments,
            queue: None,
            immutable: false,
        },
        start_urls: vec!["http://127.0.0.1/".to_owned()],
        values: Map::new(),
        keys: "scraping:{job_id}:".to_owned(),
        timeout: SiteTimeout::Fixed(Duration::from_secs(60)),
        dynamic_timeout: PACE,
        retries: 0,
        retry_backoff: Duration::from_millis(50),
        dependencies: SiteDependencies::default(),
        uses: BTreeMap::new(),
        tags: Vec::new(),
        min_results: Default::default(),
        on_degraded: Default::default(),
        on_lost: Default::default(),
        skip_after_failures: None,
        health: Default::default(),
        worker: None,
    }
}

/// Returns a site of `jobs.dispatch`.
pub fn dispatched(name: &str, kwargs: Value) -> SiteConfig {
    let mut arguments = object(json!({"start_urls": "{start_urls}"}));
    arguments.extend(object(kwargs));
    site(name, "jobs.dispatch", Value::Object(arguments))
}

pub fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object was written in the test").clone()
}

/// Returns the configuration of proxies in the scene's directory, refreshed by this chain.
pub fn proxies(scene: &Scene, min_usable: u64, refresh: &[(&str, Value)]) -> ProxiesConfig {
    let call = |(task, kwargs): &(&str, Value)| TaskCall {
        task: (*task).to_owned(),
        args: vec![],
        kwargs: object(kwargs.clone()),
        queue: None,
        immutable: false,
    };
    ProxiesConfig {
        enabled: true,
        file: scene.directory.path().join("live_proxies.json"),
        min_usable,
        unusable_anonymity: vec!["Transparent".to_owned()],
        max_age: None,
        allow_few: false,
        refresh: refresh.iter().map(call).collect(),
        keys: "proxy_refresh:{job_id}:".to_owned(),
        timeout: Duration::from_secs(60),
        dynamic_timeout: PACE,
    }
}

/// Returns the report of one site.
pub fn report<'r>(reports: &'r [SiteReport], name: &str) -> &'r SiteReport {
    let found = reports.iter().find(|report| report.site.as_str() == name);
    found.unwrap_or_else(|| panic!("no report of {name}: {reports:#?}"))
}
