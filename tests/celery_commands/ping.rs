//! `orch celery ping`: the health of workers in one line.

use std::time::Duration;

use serde_json::Value;

use crate::command::{Shop, orch, said};
use crate::support::celery::{Worker, WorkerOptions};
use crate::support::orch::wait_until;
use crate::support::redis::RedisServer;
use crate::support::wait;

#[test]
fn ping_tells_healthy_from_unhealthy_in_one_line() {
    let redis = RedisServer::start_with(Some("s3cret"));
    let url = redis.url(0);
    let nobody = said(&orch(&["ping"], Some(&url)), 1);
    assert_eq!(nobody, "unhealthy: no worker listens");
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
            "1 of 2 workers answer within 0.3s",
        ),
        (
            &["ping", "--node", "w9@test", "--timeout", "300ms"],
            "no answer from w9@test within 0.3s",
        ),
        (&["ping", "--queues", "celery,nowhere"], "no worker consumes nowhere"),
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
fn a_worker_that_answers_and_does_not_consume_is_unhealthy() {
    let shop = Shop::open(WorkerOptions::default());
    let consuming = ["ping", "--consuming", "--for", "1s"];
    assert!(shop.says(&consuming, 0).starts_with("healthy: "));
    // A busy worker without a free slot is healthy.
    for _ in 0..20 {
        shop.says(&["publish", "wire_app.sleep", "--args", "[0.2]"], 0);
    }
    assert!(shop.says(&consuming, 0).starts_with("healthy: "));

    shop.says(&["control", "add-consumer", "slow"], 0);
    shop.says(&["control", "cancel-consumer", "celery"], 0);
    let reason = wait::until("the worker is no consumer", Duration::from_secs(20), || {
        shop.says(&["publish", "wire_app.add", "--args", "[1, 1]"], 0);
        let output = shop.orch(&[&consuming[..], &["--queues", "celery"]].concat());
        (output.status.code() == Some(1)).then(|| said(&output, 1))
    });
    assert!(
        reason.starts_with("unhealthy: w1@test answers but is no consumer of `celery`, where "),
        "{reason}"
    );
    assert_eq!(reason.lines().count(), 1, "{reason}");
    shop.says(&["control", "cancel-consumer", "slow"], 0);
    wait_until("the worker consumes nothing any more", || {
        !shop.orch(&consuming).status.success()
    });
    let object = shop.object(&["ping", "--consuming"], 1);
    assert_eq!(object["healthy"], false, "{object}");
    shop.says(&["control", "add-consumer", "celery"], 0);
    wait_until("the worker consumes again", || shop.orch(&consuming).status.success());
}

#[test]
fn two_workers_of_one_name_are_named_and_counted() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let first = Worker::start(&redis, WorkerOptions::default());
    let second = Worker::start(&redis, WorkerOptions::default());
    let warning = "; 2 workers have the same name w1@test: a command to one of them reaches all";
    for arguments in [
        &["ping"][..],
        &["ping", "--node", "w1@test"],
        &["ping", "--min-workers", "2"],
        &["ping", "--queues", "celery"],
    ] {
        let healthy = said(&orch(arguments, Some(&url)), 0);
        assert!(
            healthy.starts_with("healthy: w1@test in ") && healthy.contains(warning),
            "{healthy}"
        );
    }
    let unhealthy = said(
        &orch(&["ping", "--min-workers", "3", "--timeout", "300ms"], Some(&url)),
        1,
    );
    assert!(
        unhealthy.starts_with("unhealthy: 2 of 3 workers answer within 0.3s; 2 workers have"),
        "{unhealthy}"
    );
    let object: Value = serde_json::from_str(&said(&orch(&["ping", "--json"], Some(&url)), 0)).unwrap();
    assert!(object["warnings"][0].as_str().unwrap().contains("w1@test"), "{object}");
    drop(second);
    let third = Worker::start(
        &redis,
        WorkerOptions {
            node: "w3@test",
            ..WorkerOptions::default()
        },
    );
    let healthy = said(&orch(&["ping", "--node", "w1@test"], Some(&url)), 0);
    assert!(!healthy.contains("same name"), "{healthy}");
    drop((first, third));
}
