//! Common parts of most of these tests: a Redis, a worker where needed, a client, and a runtime with a deadline.

use std::time::Duration;

use orch::celery::{Client, Endpoints, EventKind, EventStream, NodeName, StreamItem, TaskEvent, TaskId};

use crate::support::celery::{self, Worker, WorkerOptions};
use crate::support::redis::RedisServer;

/// Upper bound of all waits of a test together.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Scene {
    pub client: Client,
    pub worker: Option<Worker>,
    pub redis: RedisServer,
}

impl Scene {
    pub fn without_worker() -> Self {
        let redis = RedisServer::start();
        let client = client(&redis);
        Self {
            client,
            worker: None,
            redis,
        }
    }

    pub fn new() -> Self {
        Self::with(WorkerOptions::default())
    }

    pub fn with(options: WorkerOptions) -> Self {
        let mut scene = Self::without_worker();
        scene.worker = Some(Worker::start(&scene.redis, options));
        scene
    }

    /// Runs a line of Python after an import of the app; returns its output.
    pub fn python(&self, line: &str) -> String {
        celery::python(&self.redis, "wire_app", line)
    }
}

pub fn client(redis: &RedisServer) -> Client {
    let endpoints = Endpoints::from_urls(&redis.url(0), &redis.url(1)).expect("our own URLs");
    Client::connect(endpoints).expect("no certificates are read")
}

pub fn node() -> NodeName {
    NodeName::from(WorkerOptions::default().node)
}

/// Runs a test on one thread, as orch does.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(TEST_TIMEOUT, test).await });
    outcome.unwrap_or_else(|_| panic!("the test has not ended after {TEST_TIMEOUT:?}"))
}

/// Waits for the event of a worker that it has started the task.
pub async fn until_started(events: &mut EventStream, task: &TaskId) {
    until(events, task, |event| matches!(event, TaskEvent::Started)).await;
}

/// Waits for the event of a worker that it has received the task.
pub async fn until_received(events: &mut EventStream, task: &TaskId) {
    until(events, task, |event| matches!(event, TaskEvent::Received(_))).await;
}

async fn until(events: &mut EventStream, task: &TaskId, wanted: impl Fn(&TaskEvent) -> bool) {
    loop {
        let notice = events.next().await.expect("Redis is up");
        if let StreamItem::Event(event) = notice
            && let EventKind::Task { id, event } = event.kind
            && id == *task
            && wanted(&event)
        {
            return;
        }
    }
}
