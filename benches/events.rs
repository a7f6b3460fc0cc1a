//! Events per second from Redis to jobs (decoded, and applied by the tracker): orch, Python's `celery.events.State` and
//! Flower with the same stream; a burst that disconnects a slow subscriber; memory over millions of events.
//!
//! The publisher and Redis share the machine with the consumer, and orch takes events faster than they deliver them. So
//! a process also replays the same stream: it sends the bytes that a subscriber of Redis gets as fast as the subscriber
//! takes them. This measures the rate of orch itself.
//!
//! `cargo bench --bench events`. `ORCH_EVENTS` (default 20000) is the length of the compared streams, `ORCH_BURST`
//! (150000) is the length of the burst and of the replay, `ORCH_EVENTS_MEMORY` (10000000) is the length of the memory
//! measurement.
#![allow(clippy::unwrap_used, reason = "in a bench an unwrap is an assertion")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use orch::celery::{Client, Endpoints, EventBatch, EventStream, JobTracker};

#[path = "../tests/support/mod.rs"]
mod support;
use support::python;
use support::redis::RedisServer;

/// Returns the number of events that the replaying process prepares and sends at once. These are all events, except for
/// the memory measurement, which must not include the backlog.
fn block(count: usize) -> usize {
    if count <= 500_000 { count } else { 20_000 }
}

/// Environment variable that makes this program the publisher: port, number of events, events in a list (0: single
/// events).
const PUBLISHER: &str = "ORCH_BENCH_PUBLISHER";
/// Environment variable that makes this program the replaying process: number of events, events in a list (0: single
/// events).
const REPLAYER: &str = "ORCH_BENCH_REPLAYER";

/// Target factor between the rates of orch and Python.
const WANTED: f64 = 20.0;
/// Maximum growth of memory after the first tenth of the memory measurement, in KiB.
const GROWTH: u64 = 16 * 1024;

fn main() {
    if let Ok(role) = std::env::var(PUBLISHER) {
        return publish(&role);
    }
    if let Ok(role) = std::env::var(REPLAYER) {
        return replay(&role);
    }
    let count = number("ORCH_EVENTS", 20_000);
    let long = number("ORCH_BURST", 150_000);
    for list in [0, 20] {
        let what = if list == 0 {
            "single events".to_owned()
        } else {
            format!("lists of {list}")
        };
        let live = median((0..3).map(|_| orch(count, list)));
        let replayed = median((0..3).map(|_| replayed(long, list)));
        let state = median((0..3).map(|_| state(count, list)));
        let flower = median((0..3).map(|_| flower(count, list)));
        println!("{what}: State {state:.0}/s, Flower {flower:.0}/s ({count} events each, none dropped)");
        for (how, ours) in [("through Redis", live), ("replayed", replayed)] {
            let (over_state, over_flower) = (ours / state, ours / flower);
            let verdict = verdict(over_state >= WANTED && over_flower >= WANTED);
            println!(
                "{what}, {how}: orch {ours:.0}/s, {over_state:.1}x of State, {over_flower:.1}x of Flower, wanted {WANTED:.0}x: {verdict}"
            );
        }
    }
    burst(long);
    memory(number("ORCH_EVENTS_MEMORY", 10_000_000));
}

fn verdict(passed: bool) -> &'static str {
    if passed { "pass" } else { "FAIL" }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn median(rates: impl Iterator<Item = f64>) -> f64 {
    let mut rates: Vec<f64> = rates.collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Formats an event, three for each task as a worker sends them, and also returns the type.
fn event(number: usize) -> (String, &'static str) {
    let task = number / 3;
    let id = format!("00000000-0000-4000-8000-{task:012}");
    let root = format!("00000000-0000-4000-9000-{:012}", task / 1000);
    let now = 1_795_437_575.0 + number as f64 / 1000.0;
    let (kind, fields) = match number % 3 {
        0 => (
            "task-received",
            format!(
                r#""name": "shop.tasks.scrape_chunk", "args": "(['https://books.example/page-17', 'https://books.example/page-18'], 'books')", "kwargs": "{{'proxy': None, 'attempt': 1}}", "root_id": "{root}", "parent_id": "{root}", "retries": 0, "eta": null, "expires": null, "#
            ),
        ),
        1 => ("task-started", String::new()),
        _ => (
            "task-succeeded",
            r#""result": "{'saved': 40, 'errors': 0}", "runtime": 0.7315294, "#.to_owned(),
        ),
    };
    let text = format!(
        r#"{{"hostname": "w1@node", "utcoffset": 0, "pid": 9320, "clock": {number}, "uuid": "{id}", {fields}"timestamp": {now}, "type": "{kind}"}}"#
    );
    (text, kind)
}

fn envelope(body: &str, routing_key: &str) -> String {
    let body = BASE64.encode(body);
    format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"hostname": "w1@node"}}, "properties": {{"delivery_mode": 1, "delivery_info": {{"exchange": "celeryev", "routing_key": "{routing_key}"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "4b1e7b1c-6b4e-4f1b-9f39-3f3b0a8b1d70"}}}}"#
    )
}

/// Returns channel and message of the events from `first` on: a single event or a list.
fn message(first: usize, count: usize, list: usize) -> (String, String) {
    let (routing_key, body) = if list == 0 {
        let (event, kind) = event(first);
        (kind.replace('-', "."), event)
    } else {
        let events: Vec<String> = (first..count.min(first + list)).map(|number| event(number).0).collect();
        ("task.multi".to_owned(), format!("[{}]", events.join(", ")))
    };
    (format!("/0.celeryev/{routing_key}"), envelope(&body, &routing_key))
}

/// Formats an array of the Redis protocol.
fn array(parts: &[&str]) -> String {
    let items: String = parts
        .iter()
        .map(|part| format!("${}\r\n{part}\r\n", part.len()))
        .collect();
    format!("*{}\r\n{items}", parts.len())
}

/// Publishes as fast as Redis accepts the events, then prints the times of begin and end in Unix seconds.
fn publish(role: &str) {
    let numbers: Vec<usize> = role.split(' ').map(|word| word.parse().unwrap()).collect();
    let &[port, count, list] = numbers.as_slice() else {
        panic!("{role}")
    };
    let step = list.max(1);
    let messages = count.div_ceil(step);
    let mut commands = Vec::new();
    for first in (0..count).step_by(step) {
        let (channel, message) = message(first, count, list);
        commands.extend_from_slice(array(&["PUBLISH", &channel, &message]).as_bytes());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let began = now();
    let reader = std::thread::spawn(move || {
        // Redis replies with one line for each command.
        let (mut lines, mut buffer) = (0, vec![0; 1 << 16]);
        while lines < messages {
            let length = answers.read(&mut buffer).unwrap();
            assert!(length > 0, "Redis closed the connection");
            lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count();
        }
    });
    stream.write_all(&commands).unwrap();
    reader.join().unwrap();
    println!("{began} {}", now());
}

/// Sends one subscriber the prepared bytes that Redis would send. Prints the port, then the time of the begin in Unix
/// seconds.
fn replay(role: &str) {
    let (count, list) = role.split_once(' ').unwrap();
    let (count, list): (usize, usize) = (count.parse().unwrap(), list.parse().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let step = list.max(1);
    let prepare = |block: std::ops::Range<usize>| {
        let mut stream = Vec::new();
        for first in block.step_by(step) {
            let (channel, message) = message(first, count, list);
            stream.extend_from_slice(array(&["pmessage", "/0.celeryev/*", &channel, &message]).as_bytes());
        }
        stream
    };
    let block = block(count);
    let first = prepare(0..block);
    println!("{}", listener.local_addr().unwrap().port());
    let (mut socket, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    let mut asked = Vec::new();
    while !asked.ends_with(b"/0.celeryev/*\r\n") {
        let length = socket.read(&mut buffer).unwrap();
        asked.extend_from_slice(&buffer[..length]);
    }
    socket
        .write_all(b"*3\r\n$10\r\npsubscribe\r\n$13\r\n/0.celeryev/*\r\n:1\r\n")
        .unwrap();
    println!("{}", now());
    socket.write_all(&first).unwrap();
    for start in (block..count).step_by(block) {
        // Otherwise the measurement would include the memory of the backlog.
        std::io::stdin().read_line(&mut String::new()).unwrap();
        socket.write_all(&prepare(start..count.min(start + block))).unwrap();
    }
    // Waits until the subscriber has read all events and disconnects.
    while socket.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Starts this program as the publisher; the thread returns the times of begin and end.
#[expect(clippy::disallowed_methods, reason = "a bench starts what it measures")]
fn publisher(redis: &RedisServer, count: usize, list: usize) -> std::thread::JoinHandle<(f64, f64)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(PUBLISHER, format!("{} {count} {list}", redis.port));
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (began, ended) = text.trim().split_once(' ').unwrap();
        (began.parse().unwrap(), ended.parse().unwrap())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Events that a consumer has taken.
#[derive(Default)]
struct TakenEvents {
    jobs: JobTracker,
    events: u64,
    gaps: u64,
    malformed: u64,
    /// Time of the last taken event, Unix seconds.
    last: f64,
    /// Resident memory by the number of taken events.
    memory: Vec<(u64, u64)>,
}

/// Takes events until all have arrived, or until none arrives for five seconds; measures memory at each of `marks`.
/// Writes a line to `pace` each time that a block is taken.
async fn consume(events: &mut EventStream, count: usize, marks: &[u64], mut pace: impl Write) -> TakenEvents {
    let mut taken = TakenEvents::default();
    let mut blocks = 0;
    let mut marks = marks.iter().copied().peekable();
    let mut batch = Vec::new();
    while taken.events < count as u64 {
        match tokio::time::timeout(Duration::from_secs(5), events.next_batch(&mut batch)).await {
            Ok(Ok(EventBatch::Events)) => {
                taken.events += batch.len() as u64;
                batch.drain(..).for_each(|event| taken.jobs.fold(event));
            }
            Ok(Ok(EventBatch::Gap)) => taken.gaps += 1,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => break,
        }
        taken.last = now();
        while taken.events / block(count) as u64 > blocks {
            blocks += 1;
            // After the last block the reader may have ended.
            writeln!(pace).ok();
        }
        while marks.next_if(|mark| taken.events >= *mark).is_some() {
            taken.memory.push((taken.events, resident()));
        }
    }
    taken.malformed = events.malformed();
    taken
}

fn check(taken: &TakenEvents, count: usize) {
    let folded = taken.jobs.totals().events;
    assert_eq!(
        (taken.events, folded, taken.gaps, taken.malformed),
        (count as u64, count as u64, 0, 0)
    );
}

fn client(port: u16) -> Client {
    let url = format!("redis://127.0.0.1:{port}/0");
    Client::connect(Endpoints::from_urls(&url, &url).unwrap()).unwrap()
}

/// Takes events through Redis; also returns the times when the publisher began and ended.
fn published(count: usize, list: usize) -> (TakenEvents, f64, f64) {
    let redis = RedisServer::start();
    runtime().block_on(async {
        let mut events = client(redis.port).events().await.unwrap();
        let publisher = publisher(&redis, count, list);
        let taken = consume(&mut events, count, &[], std::io::sink()).await;
        let (began, ended) = publisher.join().unwrap();
        (taken, began, ended)
    })
}

fn orch(count: usize, list: usize) -> f64 {
    let (taken, began, _) = published(count, list);
    check(&taken, count);
    count as f64 / (taken.last - began)
}

/// Takes events from the replaying process; measures memory at each of `marks`, and returns the time of the begin.
#[expect(clippy::disallowed_methods, reason = "a bench starts what it measures")]
fn from_replay(count: usize, list: usize, marks: &[u64]) -> (TakenEvents, f64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(REPLAYER, format!("{count} {list}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pace = child.stdin.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let port = lines.next().unwrap().unwrap().parse().unwrap();
    let taken = runtime().block_on(async {
        let mut events = client(port).events().await.unwrap();
        consume(&mut events, count, marks, pace).await
    });
    check(&taken, count);
    let began: f64 = lines.next().unwrap().unwrap().parse().unwrap();
    child.wait().unwrap();
    (taken, began)
}

fn replayed(count: usize, list: usize) -> f64 {
    let (taken, began) = from_replay(count, list, &[]);
    count as f64 / (taken.last - began)
}

fn burst(count: usize) {
    let (taken, began, ended) = published(count, 0);
    println!(
        "burst of {count} single events, published at {:.0}/s: orch took {} at {:.0}/s, {} gaps: {}",
        count as f64 / (ended - began),
        taken.events,
        taken.events as f64 / (taken.last - began),
        taken.gaps,
        verdict(taken.events == count as u64 && taken.gaps == 0)
    );
}

/// Measures the memory of a consumer over a long stream.
fn memory(count: usize) {
    let before = resident();
    let marks = [1, 2, 5, 8, 10].map(|tenths| (count / 10 * tenths) as u64);
    let (taken, began) = from_replay(count, 20, &marks);
    print!("memory of {count} events, decoded and folded: {before} KiB before");
    for (events, memory) in &taken.memory {
        print!(", {memory} KiB after {events}");
    }
    let first = taken.memory[0].1;
    let most = taken.memory.iter().map(|(_, memory)| *memory).max().unwrap();
    println!(
        " ({:.0}/s): {}",
        count as f64 / (taken.last - began),
        verdict(most <= first + GROWTH)
    );
}

const STATE: &str = r#"
import os, sys, time
from celery import Celery
port, count = int(sys.argv[1]), int(sys.argv[2])
app = Celery(broker=f"redis://127.0.0.1:{port}/0")
state = app.events.State()
taken = 0
def take(event):
    global taken
    if event["type"] == "ready":
        return
    state.event(event)
    taken += 1
    if taken == count:
        receiver.should_stop = True
with app.connection_for_read() as connection:
    receiver = app.events.Receiver(connection, handlers={"*": take})
    consumer = receiver.itercapture(limit=None, timeout=None, wakeup=False)
    next(consumer)
    print("ready", flush=True)
    try:
        for _ in consumer:
            if taken >= count:
                break
    except Exception as error:
        print(type(error).__name__, file=sys.stderr)
print(taken, time.time(), flush=True)
os._exit(0)
"#;

/// Measures Python's own receiver and state in a separate process.
#[expect(clippy::disallowed_methods, reason = "a bench starts what it measures")]
fn state(count: usize, list: usize) -> f64 {
    let redis = RedisServer::start();
    let python = python::environment("celery-5.7").join("bin/python");
    let mut child = Command::new(python)
        .args(["-c", STATE, &redis.port.to_string(), &count.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    wait_for_subscriber(&redis);
    let published = publisher(&redis, count, list);
    let line = lines.next().unwrap().unwrap();
    let (taken, last) = line.split_once(' ').unwrap();
    assert_eq!(taken.parse::<usize>().unwrap(), count);
    child.wait().unwrap();
    let (began, _) = published.join().unwrap();
    count as f64 / (last.parse::<f64>().unwrap() - began)
}

fn wait_for_subscriber(redis: &RedisServer) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut connection = redis.connection(0);
    while redis::cmd("PUBSUB")
        .arg("NUMPAT")
        .query::<u64>(&mut connection)
        .unwrap()
        == 0
    {
        assert!(Instant::now() < deadline, "no subscriber appears");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Measures Flower by its own counter of events.
#[expect(clippy::disallowed_methods, reason = "a bench starts what it measures")]
fn flower(count: usize, list: usize) -> f64 {
    let redis = RedisServer::start();
    let port = support::redis::free_port();
    let environment = python::environment("flower-2");
    let mut child = Command::new(environment.join("bin/celery"))
        .args([
            "--broker",
            &redis.url(0),
            "flower",
            "--address=127.0.0.1",
            "--logging=error",
        ])
        .arg(format!("--port={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_subscriber(&redis);
    let deadline = Instant::now() + Duration::from_secs(30);
    while metrics(port).is_none() {
        assert!(Instant::now() < deadline, "Flower does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let published = publisher(&redis, count, list);
    let deadline = Instant::now() + Duration::from_secs(60);
    let last = loop {
        if metrics(port) == Some(count as u64) {
            break now();
        }
        assert!(Instant::now() < deadline, "Flower has {:?} of {count}", metrics(port));
        std::thread::sleep(Duration::from_millis(50));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let (began, _) = published.join().unwrap();
    count as f64 / (last - began)
}

/// Returns the number of events that Flower has counted.
fn metrics(port: u16) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let counts = text
        .lines()
        .filter(|line| line.starts_with("flower_events_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    text.starts_with("HTTP/1.1 200").then(|| counts.sum::<f64>() as u64)
}

/// Returns the resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
