//! `orch celery inspect`, `tasks`, `revoke`, `scale` and `control`.

use serde_json::Value;

use crate::command::Shop;
use crate::support::celery::WorkerOptions;
use crate::support::orch::wait_until;

#[test]
fn workers_are_inspected() {
    let shop = Shop::open(WorkerOptions::default());
    let registered = shop.says(&["inspect", "registered"], 0);
    assert!(registered.starts_with("w1@test:\n"), "{registered}");
    assert!(registered.lines().any(|line| line == "  wire_app.add"), "{registered}");
    for question in [
        "active",
        "reserved",
        "scheduled",
        "stats",
        "queues",
        "conf",
        "revoked",
        "report",
    ] {
        let object = shop.object(&["inspect", question, "--node", "w1@test"], 0);
        assert!(!object["nodes"]["w1@test"].is_null(), "{question}: {object}");
        let text = shop.says(&["inspect", question, "--pattern", "w?@*"], 0);
        assert!(text.starts_with("w1@test:\n  "), "{question}: {text}");
    }
    let text = shop.says(&["inspect", "stats", "--node", "w9@test", "--timeout", "200ms"], 1);
    assert_eq!(text, "no answer from w9@test within 0.2s");
    assert_eq!(shop.orch(&["inspect", "nothing"]).status.code(), Some(2));
}

#[test]
fn tasks_in_hand_are_listed_and_revoked() {
    let shop = Shop::open(WorkerOptions {
        concurrency: 1,
        ..WorkerOptions::default()
    });
    assert_eq!(
        shop.says(&["tasks"], 0),
        "the workers have no active, reserved or scheduled task"
    );
    for (id, seconds) in [("long", "[600]"), ("next", "[601]")] {
        shop.says(&["publish", "wire_app.sleep", "--args", seconds, "--id", id], 0);
    }
    shop.says(
        &[
            "publish",
            "wire_app.add",
            "--args",
            "[1, 2]",
            "--id",
            "later",
            "--countdown",
            "1h",
        ],
        0,
    );
    let states = |object: &Value| {
        let tasks = object["tasks"].as_array().unwrap().iter();
        let mut states: Vec<String> = tasks
            .map(|task| format!("{} {}", task["id"].as_str().unwrap(), task["state"].as_str().unwrap()))
            .collect();
        states.sort();
        states
    };
    let expected = ["later scheduled", "long active", "next reserved"];
    wait_until("the worker has all tasks", || {
        states(&shop.object(&["tasks"], 0)) == expected
    });
    let text = shop.says(&["tasks", "--name", "sleep"], 0);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.lines().next().unwrap().starts_with("ID    STATE     FOR"),
        "{text}"
    );

    let text = shop.says(&["revoke", "next"], 0);
    assert!(
        text.starts_with("w1@test: revoked\nnext ") && text.ends_with("; reserved on w1@test"),
        "{text}"
    );
    assert!(shop.says(&["inspect", "revoked"], 0).contains("next"));
    let text = shop.says(&["revoke", "long", "--terminate", "--signal", "kill"], 0);
    assert!(
        text.starts_with("w1@test: revoked, running tasks ended\nlong REVOKED "),
        "{text}"
    );
    for id in ["long", "next"] {
        let text = shop.says(&["result", id, "--wait", "--timeout", "20s"], 1);
        assert!(text.starts_with(&format!("{id} REVOKED TaskRevokedError: ")), "{text}");
    }
}

#[test]
fn pools_are_scaled_and_workers_controlled() {
    let shop = Shop::open(WorkerOptions::default());
    assert_eq!(shop.says(&["scale", "--grow", "2"], 0), "w1@test: 4 slots, before 2");
    assert_eq!(shop.says(&["scale", "--to", "3"], 0), "w1@test: 3 slots, before 4");
    assert_eq!(
        shop.says(&["scale", "--shrink", "1", "--node", "w1@test"], 0),
        "w1@test: 2 slots, before 3"
    );
    let refused = shop.says(&["scale", "--autoscale", "1,4"], 1);
    assert!(refused.starts_with("w1@test: 2 slots, refused: "), "{refused}");
    assert_eq!(shop.orch(&["scale"]).status.code(), Some(2));

    let control = |words: &[&str]| shop.says(&[&["control"], words].concat(), 0);
    assert_eq!(control(&["add-consumer", "slow"]), "w1@test: will consume `slow`");
    wait_until("the worker consumes `slow`", || {
        shop.orch(&["ping", "--queues", "slow"]).status.success()
    });
    assert_eq!(
        control(&["cancel-consumer", "slow"]),
        "w1@test: no longer consumes `slow`"
    );
    assert_eq!(
        control(&["rate-limit", "wire_app.add", "10/m"]),
        "w1@test: rate of `wire_app.add` is 10/m"
    );
    assert_eq!(
        control(&["time-limit", "wire_app.add", "--hard", "10s"]),
        "w1@test: time limits of `wire_app.add` are set"
    );
    assert_eq!(control(&["heartbeat"]), "w1@test: has sent a heartbeat");
    let refused = shop.says(&["control", "rate-limit", "wire_app.nothing", "10/m"], 1);
    assert!(refused.starts_with("w1@test: refused: "), "{refused}");
    assert_eq!(control(&["shutdown"]), "w1@test: shutdown requested");
}

#[test]
fn a_threads_pool_says_what_it_cannot() {
    let shop = Shop::open(WorkerOptions {
        arguments: ["--pool", "threads"].map(str::to_owned).to_vec(),
        ..WorkerOptions::default()
    });
    let text = shop.says(&["scale", "--grow", "1", "--timeout", "1s"], 1);
    assert!(text.contains("refused: "), "{text}");
    shop.says(&["publish", "wire_app.sleep", "--args", "[3]", "--id", "t1"], 0);
    wait_until("the task starts", || shop.says(&["tasks"], 0).contains("active"));
    let text = shop.says(&["revoke", "t1", "--terminate"], 1);
    assert!(text.starts_with("w1@test: refused: "), "{text}");
}
