//! Events per second from Redis to jobs: orch (typed, folded by its tracker), Python's `celery.events.State`, Flower, on
//! the same stream; a burst that a slow subscriber does not survive; memory over millions of events.
//!
//! `cargo bench --bench events`. `ORCH_EVENTS` (default 20000) is the length of the measured streams, `ORCH_BURST`
//! (150000) that of the burst, `ORCH_EVENTS_MEMORY` (1000000) that of the memory run.
#![allow(clippy::unwrap_used, reason = "in a bench an unwrap is an assertion")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use orch::celery::{Client, Endpoints, EventKind, JobTracker, Notice};
use serde_json::{Value, json};

#[path = "../tests/support/mod.rs"]
mod support;
use support::python;
use support::redis::RedisServer;

/// Set for this program's second role: port, number of events, events in a list (0: single ones).
const PUBLISHER: &str = "ORCH_BENCH_PUBLISHER";

fn main() {
    if let Ok(role) = std::env::var(PUBLISHER) {
        return publish(&role);
    }
    let count = number("ORCH_EVENTS", 20_000);
    for list in [0, 20] {
        let what = if list == 0 {
            "single events".to_owned()
        } else {
            format!("lists of {list}")
        };
        let ours = median((0..5).map(|_| orch(count, list)));
        let state = median((0..3).map(|_| state(count, list)));
        let flower = median((0..3).map(|_| flower(count, list)));
        println!(
            "{count} {what}: orch {ours:.0}/s, State {state:.0}/s ({:.1}x), Flower {flower:.0}/s ({:.1}x); wanted 20x",
            ours / state,
            ours / flower
        );
    }
    // The publisher is part of the figures above: this is what it and Redis do with nobody slow.
    let long = number("ORCH_BURST", 150_000);
    let (taken, rate, sent, gaps) = burst(long);
    println!("burst of {long} single events, published at {sent:.0}/s: orch took {taken} at {rate:.0}/s, {gaps} gaps");
    memory(number("ORCH_EVENTS_MEMORY", 1_000_000));
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

/// Three events a task, as a worker sends them.
fn event(number: usize) -> (Value, &'static str) {
    let task = number / 3;
    let id = format!("00000000-0000-4000-8000-{task:012}");
    let root = format!("00000000-0000-4000-9000-{:012}", task / 1000);
    let now = 1_795_437_575.0 + number as f64 / 1000.0;
    let mut event = json!({"hostname": "w1@node", "utcoffset": 0, "pid": 9320, "clock": number, "uuid": id});
    let kind = match number % 3 {
        0 => {
            event["name"] = "shop.tasks.scrape_chunk".into();
            event["args"] = "(['https://books.example/page-17', 'https://books.example/page-18'], 'books')".into();
            event["kwargs"] = "{'proxy': None, 'attempt': 1}".into();
            event["root_id"] = root.clone().into();
            event["parent_id"] = root.into();
            event["retries"] = 0.into();
            event["eta"] = Value::Null;
            event["expires"] = Value::Null;
            "task-received"
        }
        1 => "task-started",
        _ => {
            event["result"] = "{'saved': 40, 'errors': 0}".into();
            event["runtime"] = 0.731_529_4.into();
            "task-succeeded"
        }
    };
    event["timestamp"] = now.into();
    event["type"] = kind.into();
    (event, kind)
}

fn envelope(body: &Value, routing_key: &str) -> Vec<u8> {
    json!({
        "body": BASE64.encode(body.to_string()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"hostname": "w1@node"},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "celeryev", "routing_key": routing_key},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "4b1e7b1c-6b4e-4f1b-9f39-3f3b0a8b1d70",
        },
    })
    .to_string()
    .into_bytes()
}

/// Events that are written out before they are published.
const READY: usize = 300_000;

/// Publishes as fast as Redis takes it; prints when it began and ended, unix seconds.
fn publish(role: &str) {
    let numbers: Vec<usize> = role.split(' ').map(|word| word.parse().unwrap()).collect();
    let &[port, count, list] = numbers.as_slice() else {
        panic!("{role}")
    };
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    let mut began = None;
    for first in (0..count).step_by(READY) {
        let (commands, messages) = commands(first..count.min(first + READY), list);
        began.get_or_insert_with(now);
        let mut answers = stream.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            // One line for each command.
            let (mut lines, mut buffer) = (0, vec![0; 1 << 16]);
            while lines < messages {
                let length = answers.read(&mut buffer).unwrap();
                assert!(length > 0, "Redis closed the connection");
                lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count();
            }
        });
        stream.write_all(&commands).unwrap();
        reader.join().unwrap();
    }
    println!("{} {}", began.unwrap(), now());
}

/// The commands that publish these events, and how many they are.
fn commands(events: std::ops::Range<usize>, list: usize) -> (Vec<u8>, usize) {
    let mut commands = Vec::new();
    let mut messages = 0;
    let mut add = |routing_key: &str, body: &Value| {
        let channel = format!("/0.celeryev/{}", routing_key.replace('-', "."));
        let payload = envelope(body, &routing_key.replace('-', "."));
        commands.extend_from_slice(
            format!(
                "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n",
                channel.len(),
                payload.len()
            )
            .as_bytes(),
        );
        commands.extend_from_slice(&payload);
        commands.extend_from_slice(b"\r\n");
        messages += 1;
    };
    let end = events.end;
    if list == 0 {
        for number in events {
            let (event, kind) = event(number);
            add(kind, &event);
        }
    } else {
        for first in events.step_by(list) {
            let events: Vec<Value> = (first..end.min(first + list)).map(|number| event(number).0).collect();
            add("task.multi", &Value::from(events));
        }
    }
    (commands, messages)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// This program as the publisher; when it began and ended.
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

/// What has been taken, folded into jobs: what Python's State does with it, and more.
#[derive(Default)]
struct Taken {
    tasks: u64,
    gaps: u64,
    jobs: JobTracker,
}

impl Taken {
    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Event(event) => {
                self.tasks += u64::from(matches!(event.kind, EventKind::Task { .. }));
                self.jobs.fold(*event);
            }
            Notice::Gap => {
                self.gaps += 1;
                self.jobs.gap();
            }
        }
    }

    /// Tasks whose end was counted.
    fn ended(&self) -> u64 {
        let shown: u64 = self.jobs.jobs().map(|job| job.counts.ended()).sum();
        shown + self.jobs.totals().folded.ended()
    }
}

/// Takes events until all are there, or none comes for so long; when the last came.
fn consume(redis: &RedisServer, count: usize, list: usize) -> (Taken, f64, (f64, f64)) {
    let client = Client::connect(Endpoints::from_urls(&redis.url(0), &redis.url(0)).unwrap()).unwrap();
    runtime().block_on(async {
        let mut events = client.events().await.unwrap();
        let published = publisher(redis, count, list);
        let mut taken = Taken::default();
        let mut last = now();
        while taken.tasks < count as u64 {
            match tokio::time::timeout(Duration::from_secs(5), events.next()).await {
                Ok(notice) => taken.take(notice.unwrap()),
                Err(_) => break,
            }
            if taken.tasks % 1000 == 0 || taken.tasks == count as u64 {
                last = now();
            }
        }
        (taken, last, published.join().unwrap())
    })
}

fn orch(count: usize, list: usize) -> f64 {
    let redis = RedisServer::start();
    let (taken, last, (began, _)) = consume(&redis, count, list);
    assert_eq!((taken.tasks, taken.gaps), (count as u64, 0));
    assert_eq!(taken.ended(), count as u64 / 3);
    count as f64 / (last - began)
}

fn burst(count: usize) -> (u64, f64, f64, u64) {
    let redis = RedisServer::start();
    let (taken, last, (began, ended)) = consume(&redis, count, 0);
    let rate = taken.tasks as f64 / (last - began);
    (taken.tasks, rate, count as f64 / (ended - began), taken.gaps)
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

/// Python's own receiver and state, in a process of its own.
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
        assert!(Instant::now() < deadline, "nobody subscribes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Flower, asked for its own counter.
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

/// Events that Flower has counted.
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

/// Memory of a consumer over a long stream.
fn memory(count: usize) {
    let redis = RedisServer::start();
    let client = Client::connect(Endpoints::from_urls(&redis.url(0), &redis.url(0)).unwrap()).unwrap();
    let mut looks = Vec::new();
    let taken = runtime().block_on(async {
        let mut events = client.events().await.unwrap();
        let published = publisher(&redis, count, 20);
        let mut taken = Taken::default();
        let marks = [count / 10, count / 2, count].map(|mark| mark as u64);
        while taken.tasks < count as u64 {
            match tokio::time::timeout(Duration::from_secs(10), events.next()).await {
                Ok(notice) => taken.take(notice.unwrap()),
                Err(_) => break,
            }
            if marks.contains(&taken.tasks) {
                looks.push(format!("{} KiB after {}", resident(), taken.tasks));
            }
        }
        published.join().unwrap();
        taken
    });
    println!(
        "memory over {count} events in lists of 20: {}; {} tasks ended, {} gaps",
        looks.join(", "),
        taken.ended(),
        taken.gaps
    );
}

/// This process's resident memory, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
