//! Published tasks per second: `publish_batch` compared with Python's `apply_async` and `Producer.batch`, and with
//! prepared bytes that a bare socket pushes at the same pipeline depth. `cargo bench --bench publish`; `ORCH_TASKS`
//! (default 100000) is the number of tasks.
#![allow(clippy::unwrap_used, reason = "in a bench an unwrap is an assertion")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use orch::celery::{Client, Endpoints, Task};
use serde_json::json;

#[path = "../tests/support/mod.rs"]
mod support;
use support::python;
use support::redis::RedisServer;

/// Number of messages in a pipeline, the same as in `publish_batch`.
const DEPTH: usize = 500;
/// Number of tasks for Python: Python is slow, and a part of the tasks is enough to measure the rate.
const PYTHON_TASKS: usize = 5_000;
const RUNS: usize = 5;

const PYTHON: &str = r#"
import sys, time
from celery import Celery
port, count, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
app = Celery("shop", broker=f"redis://127.0.0.1:{port}/0", backend=f"redis://127.0.0.1:{port}/1")
@app.task(name="shop.add", ignore_result=True)
def add(x, y):
    return x + y
with app.connection_for_write() as connection, app.amqp.Producer(connection, auto_declare=False) as producer:
    add.apply_async((1, 2), producer=producer)
    began = time.perf_counter()
    if how == "batch":
        with producer.batch(max_size=500):
            for number in range(count):
                add.apply_async((number, 2), producer=producer)
    else:
        for number in range(count):
            add.apply_async((number, 2))
    print(count / (time.perf_counter() - began))
"#;

/// Script that measures the maximum rate of a Python client: a prepared string in redis-py's pipelines.
const REDIS_PY: &str = r#"
import sys, time, redis
port, count, text = int(sys.argv[1]), int(sys.argv[2]), "x" * int(sys.argv[3])
client = redis.Redis(port=port)
client.ping()
began = time.perf_counter()
for _ in range(count // 500):
    pipeline = client.pipeline(transaction=False)
    for _ in range(500):
        pipeline.lpush("celery", text)
    pipeline.execute()
print(count / (time.perf_counter() - began))
"#;

fn main() {
    let count = std::env::var("ORCH_TASKS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_000);
    let tasks: Vec<Task> = (0..count)
        .map(|number| Task::new("shop.add").args([json!(number), json!(2)]))
        .collect();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..RUNS {
        let redis = server();
        ours.push(publish(&redis, &tasks));
        let messages = queued(&redis, count);
        bytes = messages.iter().map(Vec::len).sum::<usize>() / count;
        raw.push(push(&redis, &messages));
    }
    let (ours, raw) = (median(ours), median(raw));
    let ceiling = median((0..3).filter_map(|_| in_python(REDIS_PY, &bytes.to_string())).collect());
    println!(
        "raw LPUSH by redis-py, {DEPTH} a pipeline: {ceiling:.0}/s, orch {:.2}x (wanted 0.5x)",
        ours / ceiling
    );
    let apply = median((0..3).filter_map(|_| in_python(PYTHON, "apply_async")).collect());
    println!(
        "{count} tasks of {bytes} bytes: orch {ours:.0}/s; raw LPUSH of the same bytes, {DEPTH} a pipeline: {raw:.0}/s \
         ({:.2}x of ours, wanted at most 2x)",
        raw / ours
    );
    println!(
        "Python's apply_async: {apply:.0}/s, orch {:.1}x (wanted 30x)",
        ours / apply
    );
    let batches: Vec<f64> = (0..3).filter_map(|_| in_python(PYTHON, "batch")).collect();
    if batches.is_empty() {
        println!("Python's Producer.batch is not available here");
    } else {
        let batch = median(batches);
        println!(
            "Python's Producer.batch: {batch:.0}/s, orch {:.1}x (wanted 10x)",
            ours / batch
        );
    }
}

/// Starts a Redis without persistence, so that the disk does not affect the measurement.
fn server() -> RedisServer {
    let redis = RedisServer::start();
    let mut connection = redis.connection(0);
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("appendonly")
        .arg("no")
        .exec(&mut connection)
        .unwrap();
    redis
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn publish(redis: &RedisServer, tasks: &[Task]) -> f64 {
    let client = Client::connect(Endpoints::from_urls(&redis.url(0), &redis.url(1)).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        client.ping_redis().await.unwrap();
        let began = Instant::now();
        client.publish_batch(tasks).await.unwrap();
        tasks.len() as f64 / began.elapsed().as_secs_f64()
    })
}

/// Takes the queued messages and returns their bytes.
fn queued(redis: &RedisServer, count: usize) -> Vec<Vec<u8>> {
    let mut connection = redis.connection(0);
    let messages: Vec<Vec<u8>> = redis::cmd("LRANGE")
        .arg("celery")
        .arg(0)
        .arg(-1)
        .query(&mut connection)
        .unwrap();
    assert_eq!(messages.len(), count);
    redis::cmd("DEL").arg("celery").exec(&mut connection).unwrap();
    messages
}

/// Pushes prepared messages over a bare socket, one pipeline at a time, and returns messages per second.
fn push(redis: &RedisServer, messages: &[Vec<u8>]) -> f64 {
    let pipelines: Vec<(usize, Vec<u8>)> = messages
        .chunks(DEPTH)
        .map(|messages| {
            let mut commands = Vec::new();
            for message in messages {
                let head = format!("*3\r\n$5\r\nLPUSH\r\n$6\r\ncelery\r\n${}\r\n", message.len());
                commands.extend_from_slice(head.as_bytes());
                commands.extend_from_slice(message);
                commands.extend_from_slice(b"\r\n");
            }
            (messages.len(), commands)
        })
        .collect();
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let began = Instant::now();
    for (count, commands) in &pipelines {
        stream.write_all(commands).unwrap();
        let mut answers = 0;
        while answers < *count {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "Redis closed the connection");
            answers += buffer[..length].iter().filter(|byte| **byte == b'\n').count();
        }
    }
    messages.len() as f64 / began.elapsed().as_secs_f64()
}

/// Measures tasks per second of Python; `None` if the script fails.
fn in_python(script: &str, how: &str) -> Option<f64> {
    let redis = server();
    let output = Command::new(python::environment("celery-5.7").join("bin/python"))
        .args(["-c", script, &redis.port.to_string(), &PYTHON_TASKS.to_string(), how])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().ok()
}
