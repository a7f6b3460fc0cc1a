//! `orch celery queues` and `orch celery restore`: messages that wait, that workers hold, and that end workers.

use std::time::Duration;

use serde_json::Value;

use crate::command::{Shop, orch, said};
use crate::support::celery::{Worker, WorkerOptions, python};
use crate::support::orch::wait_until;
use crate::support::redis::RedisServer;
use crate::support::wait;

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
    let expected = "QUEUE   MESSAGES  PRIORITY 0/3/6/9  CONSUMERS\n\
                    celery         3  2/0/0/1           no worker answers\nunacknowledged: 0";
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
    // The worker executes one and has prefetched the others; all are acknowledged late.
    let line = "[wire_app.sleep_late.delay(60, number) for number in range(3)]";
    python(&redis, "wire_app", line);
    let unacked = || {
        let object = said(&orch(&["queues", "--queues", "celery", "--json"], Some(&url)), 0);
        serde_json::from_str::<Value>(&object).unwrap()["unacked"]
            .as_u64()
            .unwrap()
    };
    wait_until("the worker takes the messages", || unacked() == 3);
    worker.process.kill();
    let text = said(&orch(&["restore"], Some(&url)), 1);
    assert!(
        text.starts_with("nothing was moved: no worker listens\n  hint:  ") && text.contains("`--node NODE`"),
        "{text}"
    );
    let _next = Worker::start(
        &redis,
        WorkerOptions {
            node: "w2@test",
            ..options()
        },
    );
    let text = said(&orch(&["restore"], Some(&url)), 0);
    assert_eq!(text, "3 messages put back on their queues, 0 were already finished");
    assert_eq!(
        said(&orch(&["restore"], Some(&url)), 0),
        "0 messages put back on their queues, 0 were already finished"
    );
}

/// Shows that messages go to the list that the next worker polls, by the settings that this worker reports.
#[test]
fn messages_of_a_dead_worker_are_put_back_on_lists_of_the_apps_own_names() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let transport = r#"{"sep": "|", "priority_steps": [0, 4]}"#;
    let options = |node| WorkerOptions {
        node,
        concurrency: 1,
        settings: vec![("broker_transport_options", transport)],
        ..WorkerOptions::default()
    };
    let mut worker = Worker::start(&redis, options("w1@test"));
    let line = format!(
        "wire_app.app.conf.broker_transport_options = {transport}; \
         [wire_app.sleep_late.apply_async((60, number), priority=5) for number in range(3)]"
    );
    python(&redis, "wire_app", &line);
    let mut broker = redis.connection(0);
    let mut taken = || redis::cmd("HLEN").arg("unacked").query::<u64>(&mut broker).unwrap();
    wait_until("the worker takes the messages", || taken() == 3);
    worker.process.kill();
    let _next = Worker::start(&redis, options("w2@test"));
    let text = said(&orch(&["restore"], Some(&url)), 0);
    assert_eq!(text, "3 messages put back on their queues, 0 were already finished");
    // The second worker takes them, one of them from the list of step 4.
    wait_until("the second worker takes the messages", || taken() == 3);
}

#[test]
fn poison_is_found_and_moved_aside_and_the_rest_runs() {
    let redis = RedisServer::start();
    let backend = redis.url(1);
    let run = |arguments: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--backend", &backend]).collect();
        orch(&arguments, Some(&redis.url(0)))
    };
    let mut worker = Worker::start(&redis, WorkerOptions::default());
    // The body is a list of two: a worker that takes it ends, and the message is back in the queue.
    let poison = r#"{"body": "W1tdLCB7fV0=", "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"task": "wire_app.add", "id": "p1", "lang": "py"},
        "properties": {"body_encoding": "base64", "delivery_tag": "t1", "delivery_info":
        {"exchange": "", "routing_key": "celery"}}}"#;
    let push = |list: &str, item: &str| {
        redis::cmd("LPUSH")
            .arg(list)
            .arg(item)
            .exec(&mut redis.connection(0))
            .unwrap();
    };
    push("celery", poison);
    worker.process.wait_for_end(Duration::from_secs(30));

    let good = said(&run(&["publish", "wire_app.add", "--args", "[2, 2]"]), 0);
    push("celery\u{6}\u{16}9", "no JSON at all");
    push(
        "celery",
        r#"{"properties": {"delivery_tag": 1, "delivery_info": {"exchange": "", "routing_key": "celery"}},
        "content-type": "application/json", "body": "{}"}"#,
    );
    let text = said(&run(&["queues", "--check", "--queues", "celery"]), 1);
    for expected in [
        "celery: task wire_app.add p1 ends workers: its body is a list of 2, not of 3: {",
        "celery (priority 9): ends workers: it is not JSON (",
        "celery: is dropped by workers: it names no task: {",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(expected)),
            "{expected}\n{text}"
        );
    }
    assert!(text.ends_with("2 messages that end a worker are left"), "{text}");

    let object = said(&run(&["queues", "--quarantine", "--json"]), 0);
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(
        (&object["deadly_left"], &object["harmful"][0]["quarantined"]),
        (&0.into(), &true.into()),
        "{object}"
    );
    let kept: Vec<String> = redis::cmd("LRANGE")
        .arg("orch:quarantine:celery")
        .arg(0)
        .arg(-1)
        .query(&mut redis.connection(0))
        .unwrap();
    let kept: Vec<Value> = kept.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
    // The worker has put this message back with a mark.
    let is_kept = |part: &str| kept.iter().any(|item| item["message"].as_str().unwrap().contains(part));
    assert!(is_kept(r#""id": "p1""#), "{kept:?}");
    assert!(is_kept("no JSON at all"), "{kept:?}");

    let mut next = Worker::start(&redis, WorkerOptions::default());
    let text = said(&run(&["result", &good, "--wait", "--timeout", "20s"]), 0);
    assert_eq!(text, format!("{good} SUCCESS 4"));
    assert!(next.process.ended().is_none());
}

#[test]
fn unacknowledged_messages_are_listed_with_their_age() {
    let shop = Shop::open(WorkerOptions {
        concurrency: 1,
        ..WorkerOptions::default()
    });
    shop.says(
        &["publish", "wire_app.sleep_late", "--args", "[600]", "--id", "slow"],
        0,
    );
    let object = wait::until("the worker takes the message", Duration::from_secs(20), || {
        Some(shop.object(&["queues", "--unacked"], 0)).filter(|object| object["unacked"] == 1)
    });
    let message = &object["unacked_messages"][0];
    assert_eq!(
        (&message["id"], &message["task"]),
        (&"slow".into(), &"wire_app.sleep_late".into()),
        "{object}"
    );
    assert!(message["taken_s"].as_f64().unwrap() < 60.0, "{object}");
    let text = shop.says(&["queues", "--unacked"], 0);
    assert!(text.contains("unacknowledged: 1, the oldest taken "), "{text}");
    assert!(text.lines().last().unwrap().starts_with("slow  "), "{text}");
}

/// Shows that separator and steps are found without an instance: first from the queues, then from the answer of the
/// worker.
#[test]
fn queues_with_a_separator_and_steps_of_the_apps_own_are_counted_and_published_to() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let options = r#"{"sep": ":", "priority_steps": [0, 2, 4, 7]}"#;
    let depth = |arguments: &[&str]| -> Value {
        let all = [&["queues", "--queues", "celery", "--json"], arguments].concat();
        let object: Value = serde_json::from_str(&said(&orch(&all, Some(&url)), 0)).unwrap();
        object["queues"]["celery"].clone()
    };
    let line = format!(
        "wire_app.app.conf.broker_transport_options = {options}; \
         [wire_app.add.apply_async((1, 1), priority=priority) for priority in (0, 2, 3, 7, 9)]"
    );
    python(&redis, "wire_app", &line);
    // Of the empty lists only those of Celery's own steps are known.
    assert_eq!(
        depth(&[]),
        serde_json::json!({"0": 1, "2": 2, "3": 0, "6": 0, "7": 2, "9": 0})
    );
    let flags = ["--sep", ":", "--priority-steps", "0,2,4,7"];
    assert_eq!(depth(&flags), serde_json::json!({"0": 1, "2": 2, "4": 0, "7": 2}));
    let worker = Worker::start(
        &redis,
        WorkerOptions {
            settings: vec![("broker_transport_options", options)],
            ..WorkerOptions::default()
        },
    );
    // To the list of step 4, as the worker reports; no worker polls the list of Celery's own step 3.
    let arguments = [
        "publish",
        "wire_app.add",
        "--args",
        "[20, 1]",
        "--priority",
        "5",
        "--wait",
    ];
    let backend = redis.url(1);
    let result = said(
        &orch(&[&arguments[..], &["--backend", &backend]].concat(), Some(&url)),
        0,
    );
    assert!(result.contains("21"), "{result}");
    assert_eq!(depth(&[]), serde_json::json!({"0": 0, "2": 0, "4": 0, "7": 0}));
    drop(worker);
}
