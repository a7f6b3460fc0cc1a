//! `orch celery ...` against a real broker and a real worker, as an exec probe or an operator would call it.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::celery::{Worker, WorkerOptions, python};
use support::redis::RedisServer;

fn orch(arguments: &[&str], broker: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command
        .arg("celery")
        .args(arguments)
        .env_remove("CELERY_RESULT_BACKEND")
        .env_remove("CELERY_BROKER_URL");
    command.envs(broker.map(|url| ("CELERY_BROKER_URL", url)));
    command.output().expect("start orch")
}

#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}{error}");
    text.trim_end().to_owned()
}

#[test]
fn ping_tells_healthy_from_unhealthy_in_one_line() {
    let redis = RedisServer::start_with(Some("s3cret"));
    let url = redis.url(0);
    let nobody = said(&orch(&["ping"], Some(&url)), 1);
    assert_eq!(nobody, "unhealthy: no worker answers within 2s");
    let worker = Worker::start(&redis, WorkerOptions::default());
    let healthy = said(
        &orch(
            &["ping", "--broker", &url, "--node", "w1@test", "--queues", "celery"],
            None,
        ),
        0,
    );
    assert!(healthy.starts_with("healthy: w1@test in "), "{healthy}");
    let table: [(&[&str], &str); 3] = [
        (
            &["ping", "--min-workers", "2", "--timeout", "300ms"],
            "1 of 2 workers answer within 300ms",
        ),
        (
            &["ping", "--node", "w9@test", "--timeout", "300ms"],
            "no answer from w9@test within 300ms",
        ),
        (&["ping", "--queues", "celery,nowhere"], "nobody consumes nowhere"),
    ];
    for (arguments, reason) in table {
        let output = orch(arguments, Some(&url));
        assert_eq!(said(&output, 1), format!("unhealthy: {reason}"));
        assert!(output.stderr.is_empty(), "one line, and nothing else");
    }
    let object: Value = serde_json::from_str(&said(&orch(&["ping", "--json"], Some(&url)), 0)).unwrap();
    assert_eq!(
        (&object["healthy"], &object["nodes"][0]),
        (&Value::Bool(true), &Value::from("w1@test")),
        "{object}"
    );
    drop(worker);
}

#[test]
fn a_broker_that_is_down_is_told_at_once_and_without_its_password() {
    let port = support::redis::free_port();
    let url = format!("redis://:s3cret@127.0.0.1:{port}/0");
    let started = Instant::now();
    let output = orch(&["ping"], Some(&url));
    let text = said(&output, 1);
    assert!(
        text.starts_with("unhealthy: ") && text.contains(&port.to_string()),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn usage_errors_are_2() {
    for (arguments, broker) in [
        (&["ping"][..], None),
        (&["ping", "--broker", "http://x"][..], None),
        (&["ping", "--timeout", "soon"][..], Some("redis://127.0.0.1/0")),
        (&["pong"][..], None),
    ] {
        let output = orch(arguments, broker);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn queues_are_counted_by_priority() {
    let redis = RedisServer::start();
    for priority in [0, 0, 9] {
        let line = format!("wire_app.add.apply_async((1, 2), priority={priority})");
        python(&redis, "wire_app", &line);
    }
    let text = said(
        &orch(&["queues", "--queues", "celery", "--broker", &redis.url(0)], None),
        0,
    );
    let expected = "QUEUE   MESSAGES  PRIORITY 0/3/6/9\ncelery         3  2/0/0/1\nunacknowledged: 0";
    assert_eq!(text, expected);
    let object = said(
        &orch(&["queues", "--queues", "celery", "--json"], Some(&redis.url(0))),
        0,
    );
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(
        (&object["queues"]["celery"]["9"], &object["unacked"]),
        (&Value::from(1), &Value::from(0)),
        "{object}"
    );
}

#[test]
fn a_dead_workers_messages_are_put_back_and_run_exactly_once_more() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let options = || WorkerOptions {
        concurrency: 1,
        ..WorkerOptions::default()
    };
    let mut worker = Worker::start(&redis, options());
    // One runs, the others are prefetched; all late.
    let line = "[wire_app.sleep_late.delay(60, number) for number in range(3)]";
    python(&redis, "wire_app", line);
    let unacked = || {
        let object = said(&orch(&["queues", "--queues", "celery", "--json"], Some(&url)), 0);
        serde_json::from_str::<Value>(&object).unwrap()["unacked"]
            .as_u64()
            .unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while unacked() < 3 {
        assert!(Instant::now() < deadline, "the worker does not take them");
    }
    worker.process.kill();
    let text = said(&orch(&["restore"], Some(&url)), 1);
    assert_eq!(text, "nothing was moved: no worker listens");
    let _next = Worker::start(
        &redis,
        WorkerOptions {
            node: "w2@test",
            ..options()
        },
    );
    let text = said(&orch(&["restore"], Some(&url)), 0);
    assert_eq!(text, "3 put back on their queues, 0 were finished already");
    assert_eq!(
        said(&orch(&["restore"], Some(&url)), 0),
        "0 put back on their queues, 0 were finished already"
    );
}
