//! Delay until a wait for a result ends: from the moment before the SETEX and PUBLISH of a separate publisher, which
//! writes a result as Celery does, to the moment when the waiting Rust task continues. `cargo bench --bench
//! result_wait`; 10,000 concurrent waits over one connection (`ORCH_BENCH_WAITS` changes the number), with results at a
//! steady rate and as one burst, compared with sequential calls of Python's `AsyncResult.get`.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orch::celery::{Client, Endpoints, TaskId, TaskState};
use serde_json::json;

#[path = "../tests/support/mod.rs"]
mod support;
use support::redis::RedisServer;

/// Results per second in the measurement at a steady rate.
const RATE: usize = 2_000;
/// Number of results of the burst in one pipeline.
const CHUNK: usize = 100;
const PYTHON_WAITS: usize = 200;
/// Maximum median delay that passes.
const TARGET_DELAY: Duration = Duration::from_millis(5);
const BENCH_TIMEOUT: Duration = Duration::from_secs(60);

const PYTHON: &str = "import sys, time
from celery import Celery
app = Celery(broker=sys.argv[1], backend=sys.argv[2])
for number in range(int(sys.argv[3])):
    result = app.AsyncResult(f'python-{number}')
    print(result.id, flush=True)
    result.get(timeout=10)
    print(time.time(), flush=True)
";

fn main() {
    let waits = std::env::var("ORCH_BENCH_WAITS").map_or(10_000, |number| number.parse().unwrap());
    let redis = RedisServer::start();
    // Switches persistence off, so that the disk does not affect the measurement.
    redis::cmd("CONFIG")
        .arg(&["SET", "appendonly", "no"])
        .exec(&mut redis.connection(1))
        .unwrap();
    let steady = ours(&redis, waits, Duration::from_secs(1) / u32::try_from(RATE).unwrap(), 1);
    let burst = ours(&redis, waits, Duration::ZERO, CHUNK);
    let python = python(&redis);
    let p50 = report(&format!("{waits} waits at once, {RATE} results a second"), steady);
    report(&format!("{waits} waits at once, all results in one burst"), burst);
    report(&format!("Python's AsyncResult.get, {PYTHON_WAITS} one by one"), python);
    let verdict = if p50 <= TARGET_DELAY { "pass" } else { "FAIL" };
    println!("{verdict}: the target at the steady rate is p50 <= {TARGET_DELAY:?}");
    assert!(p50 <= TARGET_DELAY || waits < 1000);
}

fn report(what: &str, mut delays: Vec<Duration>) -> Duration {
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).round() as usize];
    let ms = |delay: Duration| delay.as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.2} ms, p95 {:.2} ms, max {:.2} ms",
        ms(at(0.5)),
        ms(at(0.95)),
        ms(at(1.0))
    );
    at(0.5)
}

/// Measures one delay for each wait.
fn ours(redis: &RedisServer, waits: usize, pause: Duration, chunk: usize) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ids: Vec<TaskId> = (0..waits).map(|_| TaskId::random()).collect();
    let client = Client::connect(Endpoints::from_urls(&redis.url(0), &redis.url(1)).unwrap()).unwrap();
    let (resolved, published) = runtime.block_on(async {
        let results = client.results();
        let waiting: Vec<_> = ids
            .iter()
            .map(|id| {
                let mut watch = results.watch(id);
                tokio::spawn(async move {
                    let result = watch.finished().await.unwrap();
                    let now = Instant::now();
                    assert!(matches!(result.state, TaskState::Success(_)));
                    now
                })
            })
            .collect();
        let publisher = {
            let (ids, connection) = (ids.clone(), redis.connection(1));
            thread::spawn(move || publish(connection, &ids, pause, chunk))
        };
        let mut resolved = Vec::with_capacity(waits);
        for wait in waiting {
            resolved.push(
                tokio::time::timeout(BENCH_TIMEOUT, wait)
                    .await
                    .expect("no wake-up is lost")
                    .unwrap(),
            );
        }
        (resolved, publisher.join().unwrap())
    });
    resolved
        .into_iter()
        .zip(published)
        .map(|(resolved, published)| resolved.saturating_duration_since(published))
        .collect()
}

/// Publishes the results and returns the time just before each result was sent.
fn publish(mut connection: redis::Connection, ids: &[TaskId], pause: Duration, chunk: usize) -> Vec<Instant> {
    let deadline = Instant::now() + BENCH_TIMEOUT;
    loop {
        let channels: Vec<String> = redis::cmd("PUBSUB")
            .arg("CHANNELS")
            .arg("celery-task-meta-*")
            .query(&mut connection)
            .unwrap();
        if channels.len() == ids.len() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{} of {} subscribed",
            channels.len(),
            ids.len()
        );
        thread::park_timeout(Duration::from_millis(20));
    }
    let mut published = Vec::with_capacity(ids.len());
    let mut next = Instant::now();
    for ids in ids.chunks(chunk) {
        while Instant::now() < next {
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        next += pause;
        let mut write = redis::pipe();
        for id in ids {
            one(&mut write, id.as_str());
        }
        let now = Instant::now();
        published.extend(ids.iter().map(|_| now));
        write.exec(&mut connection).unwrap();
    }
    published
}

/// Adds the commands that write a result as Celery does.
fn one(write: &mut redis::Pipeline, id: &str) {
    let key = format!("celery-task-meta-{id}");
    let meta = json!({"status": "SUCCESS", "result": 5, "traceback": null, "children": [],
        "date_done": "2026-11-23T12:36:58.785260+00:00", "task_id": id})
    .to_string();
    write.cmd("MULTI").cmd("SETEX").arg(&key).arg(86400).arg(&meta);
    write.cmd("PUBLISH").arg(&key).arg(&meta).cmd("EXEC");
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is measured against is started without orch"
)]
fn python(redis: &RedisServer) -> Vec<Duration> {
    let mut command = Command::new(support::celery::environment().join("bin/python"));
    command.args(["-c", PYTHON, &redis.url(0), &redis.url(1), &PYTHON_WAITS.to_string()]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut connection = redis.connection(1);
    let mut delays = Vec::new();
    while let Some(id) = lines.next() {
        let deadline = Instant::now() + BENCH_TIMEOUT;
        loop {
            let mut count = redis::cmd("PUBSUB");
            count.arg("NUMSUB").arg(format!("celery-task-meta-{id}"));
            if count.query::<(String, u64)>(&mut connection).unwrap().1 == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "Python does not wait for {id}");
        }
        // Python subscribes, then reads, and only then waits.
        thread::park_timeout(Duration::from_millis(3));
        let mut write = redis::pipe();
        one(&mut write, &id);
        let published = SystemTime::now();
        write.exec(&mut connection).unwrap();
        let returned: f64 = lines.next().unwrap().parse().unwrap();
        let returned = UNIX_EPOCH + Duration::from_secs_f64(returned);
        delays.push(returned.duration_since(published).unwrap_or_default());
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(delays.len(), PYTHON_WAITS);
    delays
}
