//! `orch celery events` and `orch celery top`: output for as long as the command runs.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Shop, orch, said};
use crate::support::celery::WorkerOptions;
use crate::support::orch::wait_until;
use crate::support::process::Process;
use crate::support::redis::RedisServer;

#[test]
fn events_are_shown_as_they_come() {
    let shop = Shop::open(WorkerOptions {
        events: false,
        ..WorkerOptions::default()
    });
    let (url, backend) = (shop.redis.url(0), shop.redis.url(1));
    let tail = std::thread::spawn(move || {
        orch(
            &[
                "events",
                "--enable",
                "--limit",
                "3",
                "--task",
                "fail",
                "--backend",
                &backend,
            ],
            Some(&url),
        )
    });
    // Published again and again: the command may not listen yet.
    wait_until("three events come", || {
        shop.says(
            &["publish", "wire_app.fail", "--args", r#"["no\u001b"]"#, "--id", "f1"],
            0,
        );
        shop.says(&["publish", "wire_app.add", "--args", "[1, 1]"], 0);
        tail.is_finished()
    });
    let text = said(&tail.join().unwrap(), 0);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.lines()
            .all(|line| line.contains(" w1@test task-") && line.contains(" wire_app.fail f1")),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");

    let (url, backend) = (shop.redis.url(0), shop.redis.url(1));
    let tail = std::thread::spawn(move || {
        let words = [
            "events",
            "--json",
            "--limit",
            "1",
            "--type",
            "task-failed",
            "--backend",
            &backend,
        ];
        orch(&words, Some(&url))
    });
    wait_until("an event comes", || {
        shop.says(&["publish", "wire_app.fail"], 0);
        tail.is_finished()
    });
    let object: Value = serde_json::from_str(&said(&tail.join().unwrap(), 0)).unwrap();
    assert_eq!(object["type"], "task-failed", "{object}");
    assert!(
        object["exception"].as_str().unwrap().starts_with("ValueError("),
        "{object}"
    );
    let nothing = shop.orch(&["events", "--for", "100ms", "--type", "nothing"]);
    assert_eq!(said(&nothing, 0), "");
}

#[test]
fn a_tail_ends_well_on_interrupt_and_says_what_it_missed() {
    let redis = RedisServer::start();
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.args(["celery", "events", "--broker", &redis.url(0)]);
    let mut tail = Process::start("orch", &mut command, &directory.path().join("log"));
    let publish = || {
        let body = r#"{"type": "shop-opened", "hostname": "w1@node", "timestamp": 1e300, "till": 3}"#;
        let message = serde_json::json!({ "body": body }).to_string();
        let listeners: u64 = redis::cmd("PUBLISH")
            .arg("/0.celeryev/shop.opened")
            .arg(message)
            .query(&mut redis.connection(0))
            .unwrap();
        listeners
    };
    let limit = Duration::from_secs(20);
    tail.wait_until("subscribe", limit, |_| publish() > 0);
    tail.wait_until("show an event", limit, |tail| {
        tail.log().contains("??:??:??.??? w1@node shop-opened till=3\n")
    });
    redis::cmd("PUBLISH")
        .arg("/0.celeryev/shop.opened")
        .arg("nonsense")
        .exec(&mut redis.connection(0))
        .unwrap();
    tail.wait_until("count what it skips", limit, |tail| {
        tail.log().contains("1 events could not be read and were skipped")
    });
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .exec(&mut redis.connection(0))
        .unwrap();
    tail.wait_until("say that it missed some", limit, |tail| {
        tail.log().contains("events are missing here")
    });
    tail.signal(nix::sys::signal::Signal::SIGINT);
    let status = tail.wait_for_end(limit);
    assert_eq!(status.code(), Some(0), "{}", tail.log());
}

#[test]
fn top_shows_workers_queues_and_jobs() {
    let shop = Shop::open(WorkerOptions::default());
    let (url, backend) = (shop.redis.url(0), shop.redis.url(1));
    let top = std::thread::spawn(move || {
        orch(
            &["top", "--json", "--once", "--interval", "4s", "--backend", &backend],
            Some(&url),
        )
    });
    let mut published = 0;
    wait_until("the view ends", || {
        shop.says(&["publish", "wire_app.add", "--args", "[1, 1]"], 0);
        published += 1;
        top.is_finished()
    });
    let object: Value = serde_json::from_str(&said(&top.join().unwrap(), 0)).unwrap();
    let worker = &object["workers"]["w1@test"];
    assert_eq!(
        (&worker["online"], &worker["slots"]),
        (&true.into(), &2.into()),
        "{object}"
    );
    assert_eq!(worker["queues"][0], "celery", "{object}");
    assert!(object["queues"]["celery"].is_u64(), "{object}");
    let jobs = object["jobs"].as_array().unwrap();
    assert!(!jobs.is_empty() && jobs.len() <= published, "{object}");
    assert!(
        jobs.iter()
            .any(|job| job["task"] == "wire_app.add" && job["succeeded"] == 1),
        "{object}"
    );
    let text = shop.says(&["top", "--interval", "300ms"], 0);
    assert!(text.starts_with("WORKER   STATE   BUSY"), "{text}");
    assert!(text.contains("QUEUE   WAITING"), "{text}");
}
