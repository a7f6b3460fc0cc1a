//! What these tests need: a Redis, a worker of `jobs_app`, a recorder whose events can be looked at, sites to run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use orch::celery::{Client, Endpoints};
use orch::config::{Pace, ProxiesConfig, SiteConfig, SiteNeeds, SiteTimeout, TaskCall};
use orch::run::{EventKind, Feed, FollowStage, Recorder, RunId, SiteName, Update};
use orch::sites::{Context, Holder, LeaseStore, Outage, SiteReport, Terms, Work};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::support::celery::{Worker, WorkerOptions};
use crate::support::redis::RedisServer;

/// The longest that a test's own waits take together.
const LIMIT: Duration = Duration::from_secs(90);

pub struct Scene {
    pub context: Context,
    /// Rises when a test has killed its worker, as the supervisor's does.
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
        let context = Context::new(client, recorder, vec!["celery".to_owned()], worker_deaths);
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

    /// SIGKILL, and says so.
    pub fn kill_worker(&mut self) {
        self.worker.take().expect("a worker runs").process.kill();
        self.deaths.send_modify(|deaths| *deaths += 1);
    }

    /// All events so far.
    pub fn events(&self) -> Vec<EventKind> {
        let mut seen = self.seen.lock().expect("no test panicked with it");
        let mut events = self.events.lock().expect("as above");
        while let Some(update) = events.try_recv() {
            let Update::Event(event) = update else {
                panic!("{update:?}")
            };
            seen.push(event.kind.clone());
        }
        seen.clone()
    }

    /// Waits until an event has happened that `wanted` holds for.
    pub async fn until(&self, what: &str, wanted: impl Fn(&EventKind) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.events().iter().any(&wanted) {
            assert!(
                Instant::now() < deadline,
                "{what} has not happened; events: {:#?}",
                self.events()
            );
            // The recorder's subscription is for threads; the test shares the runtime's one with what it waits for.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the app has written a key.
    pub async fn until_key(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.key(name).is_none() {
            assert!(
                Instant::now() < deadline,
                "`{name}` was not written; events: {:#?}",
                self.events()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this stands in the worker's log.
    pub async fn until_worker_says(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let log = || self.worker.as_ref().expect("a worker runs").process.log();
        while !log().contains(text) {
            assert!(
                Instant::now() < deadline,
                "the worker has not said `{text}`:\n{}",
                log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The stages that a site went through, with their reasons.
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

    /// The value of a key in the result backend's database.
    pub fn key(&self, name: &str) -> Option<String> {
        redis::cmd("GET")
            .arg(name)
            .query(&mut self.redis.connection(1))
            .expect("the server answers")
    }
}

/// Runs a test on one thread, as orch does.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    run_within(LIMIT, test)
}

pub fn run_within<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, test).await });
    outcome.unwrap_or_else(|_| panic!("the test has not ended after {limit:?}"))
}

pub const PACE: Pace = Pace {
    time_per_chunk: Duration::from_secs(60),
    buffer: 1.5,
    timeout_min: Duration::from_secs(300),
    timeout_default: Duration::from_secs(1800),
};

/// How long leases last in these tests, unless a test says otherwise.
pub const LEASE: Duration = Duration::from_secs(30);

/// The leases of this Redis, as a run of its own sees them.
pub fn leases(context: &Context, duration: Duration, outage: Outage) -> LeaseStore {
    let me = Holder::of_this_process(&RunId::random(), None);
    LeaseStore::new(context.celery.clone(), "orch", me, Terms { duration, outage })
}

/// All sites, as a run of its own that waits for no other.
pub async fn run_all(context: &Context, sites: Vec<SiteConfig>, max_parallel: usize) -> Vec<SiteReport> {
    let leases = leases(context, LEASE, Outage::EndsTheWork);
    orch::sites::run_all(context, work(sites, max_parallel), leases, Instant::now()).await
}

/// These sites, so many at a time, none with an expected time or a resource.
pub fn work(sites: Vec<SiteConfig>, max_parallel: usize) -> Work {
    Work::new(sites, max_parallel, &BTreeMap::new(), &BTreeMap::new()).expect("there is an order")
}

/// A site whose dispatch task gets its name and these keyword arguments.
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
        pace: PACE,
        retries: 0,
        retry_backoff: Duration::from_millis(50),
        needs: SiteNeeds::default(),
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

/// A site of `jobs.dispatch`.
pub fn dispatched(name: &str, kwargs: Value) -> SiteConfig {
    let mut arguments = object(json!({"start_urls": "{start_urls}"}));
    arguments.extend(object(kwargs));
    site(name, "jobs.dispatch", Value::Object(arguments))
}

pub fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object was written in the test").clone()
}

/// Proxies in the scene's directory, refreshed by this chain.
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
        pace: PACE,
    }
}

/// The report of one site.
pub fn report<'r>(reports: &'r [SiteReport], name: &str) -> &'r SiteReport {
    let found = reports.iter().find(|report| report.site.as_str() == name);
    found.unwrap_or_else(|| panic!("no report of {name}: {reports:#?}"))
}
