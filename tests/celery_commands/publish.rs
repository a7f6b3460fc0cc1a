//! `orch celery publish` and `orch celery result`.

use std::io::{Seek, Write};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Shop, orch, said};
use crate::support::celery::{Worker, WorkerOptions};
use crate::support::redis::RedisServer;

#[test]
fn a_task_is_published_awaited_and_forgotten() {
    let shop = Shop::open(WorkerOptions::default());
    let args = |json: &'static str| ["publish", "wire_app.add", "--args", json];
    let sum = shop.says(&[&args("[2, 3]")[..], &["--id", "t1", "--wait"]].concat(), 0);
    assert_eq!(sum, "t1 SUCCESS 5");
    assert_eq!(shop.says(&["result", "t1"], 0), "t1 SUCCESS 5");
    let object = shop.object(&["result", "t1", "--forget"], 0);
    assert_eq!(
        (&object["state"], &object["result"]),
        (&Value::from("SUCCESS"), &Value::from(5))
    );
    let gone = shop.says(&["result", "t1"], 1);
    assert!(gone.starts_with("t1 PENDING "), "{gone}");

    let failed = shop.says(
        &[
            "publish",
            "wire_app.fail",
            "--kwargs",
            r#"{"message": "a\u001bb"}"#,
            "--wait",
        ],
        1,
    );
    let mut lines = failed.lines();
    let first = lines.next().unwrap();
    assert!(first.ends_with(" FAILURE ValueError: a\u{fffd}b"), "{first}");
    assert!(lines.any(|line| line.contains("wire_app.py")), "{failed}");

    // Without `--wait` the command prints the id alone.
    let id = shop.says(&args("[1, 1]"), 0);
    assert_eq!(shop.says(&["result", &id, "--wait"], 0), format!("{id} SUCCESS 2"));
    for wrong in [
        &["publish", "wire_app.add", "--args", "{}"][..],
        &["publish", "wire_app.add", "--header", "task=x"],
        &["publish"],
    ] {
        assert_eq!(shop.orch(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// Shows that integers beyond 64 bits reach the task: Python reads each of them as the same number.
#[test]
fn integers_reach_the_task_digit_by_digit() {
    let shop = Shop::open(WorkerOptions::default());
    let power = format!("1{}", "0".repeat(400));
    for number in [
        "123456789012345678901",
        "18446744073709551616",
        "-9223372036854775809",
        &power,
    ] {
        let (args, kwargs) = (format!("[{number}, 0]"), format!("{{\"x\": {number}, \"y\": 0}}"));
        for given in [["--args", &args], ["--kwargs", &kwargs]] {
            let publish = ["publish", "wire_app.add", given[0], given[1], "--id", "t1", "--wait"];
            assert_eq!(shop.says(&publish, 0), format!("t1 SUCCESS {number}"));
            let object = shop.says(&["result", "t1", "--json", "--forget"], 0);
            assert!(object.contains(&format!("\"result\":{number}")), "{object}");
        }
    }
    let zero = shop.says(
        &["publish", "wire_app.add", "--args", "[-0, 0]", "--id", "t2", "--wait"],
        0,
    );
    assert_eq!(zero, "t2 SUCCESS 0", "an integer");
    let one = shop.says(
        &["publish", "wire_app.add", "--args", "[1.0, 0]", "--id", "t3", "--wait"],
        0,
    );
    assert_eq!(one, "t3 SUCCESS 1.0", "a float");

    let long = format!("[{}]", "7".repeat(4301));
    for (args, why) in [
        ("[1e400]", "the number 1e400 is out of range"),
        (&long, "is out of range"),
    ] {
        let output = shop.orch(&["publish", "wire_app.add", "--args", args]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(why), "{error}");
    }
}

#[test]
fn many_tasks_are_published_from_standard_input() {
    let redis = RedisServer::start();
    let publish = |lines: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(["celery", "publish", "--stdin", "--broker", &redis.url(0)]);
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        input.rewind().unwrap();
        command.stdin(input).output().unwrap()
    };
    let depth = || {
        let object = said(
            &orch(&["queues", "--queues", "celery,slow", "--json"], Some(&redis.url(0))),
            0,
        );
        let object: Value = serde_json::from_str(&object).unwrap();
        let of = |queue: &str| object["queues"][queue]["0"].as_u64().unwrap();
        (of("celery"), of("slow"))
    };
    let output = publish("{\"task\": \"a\"}\n\n{\"task\": \"b\", \"oops\": 1}\n");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("line 3 of standard input: unknown field `oops`"),
        "{error}"
    );
    assert!(error.contains("no task is published"), "{error}");
    assert_eq!(depth(), (0, 0));

    let lines: String = (0..1200)
        .map(|number| match number % 3 {
            0 => format!("{{\"task\": \"a\", \"args\": [{number}], \"queue\": \"slow\"}}\n"),
            _ => format!("{{\"task\": \"a\", \"id\": \"t{number}\", \"countdown\": 1.5}}\n"),
        })
        .collect();
    let output = publish(&lines);
    let ids = said(&output, 0);
    assert_eq!(ids.lines().count(), 1200);
    assert_eq!(ids.lines().nth(1), Some("t1"));
    assert_eq!(depth(), (800, 400));
}

#[test]
fn a_queue_without_a_consumer_is_named() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let errors = |output: &Output| String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let publish = ["publish", "wire_app.add", "--args", "[1, 2]"];

    let output = orch(&publish, Some(&url));
    said(&output, 0);
    assert_eq!(
        errors(&output),
        "warning: no worker answers: the published tasks wait in the queue `celery` until a worker consumes it"
    );

    let worker = Worker::start(&redis, WorkerOptions::default());
    let output = orch(&publish, Some(&url));
    said(&output, 0);
    assert_eq!(errors(&output), "");
    let output = orch(&[&publish[..], &["--queue", "slow", "--id", "t1"]].concat(), Some(&url));
    assert_eq!(said(&output, 0), "t1");
    let nobody = "warning: no worker consumes the queue `slow`: the published tasks wait there; worker w1@test consumes \
                  celery";
    assert_eq!(errors(&output), nobody);
    // A caller that waits for the result gets the warning during the wait.
    let wait = ["--queue", "slow", "--wait", "--timeout", "1500ms"];
    let output = orch(&[&publish[..], &wait].concat(), Some(&url));
    said(&output, 1);
    assert_eq!(errors(&output), nobody);

    let output = orch(&[&publish[..], &["--queue", "slow", "--json"]].concat(), Some(&url));
    let object: Value = serde_json::from_str(&said(&output, 0)).unwrap();
    assert_eq!(object["consumers"], serde_json::json!({ "slow": [] }), "{object}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.args(["celery", "publish", "--stdin", "--json", "--broker", &url]);
    let mut input = tempfile::tempfile().unwrap();
    let lines =
        "{\"task\": \"wire_app.add\", \"args\": [1, 1]}\n{\"task\": \"a\", \"queue\": \"slow\", \"priority\": 9}\n";
    input.write_all(lines.as_bytes()).unwrap();
    input.rewind().unwrap();
    let output = command.stdin(input).output().unwrap();
    let object: Value = serde_json::from_str(&said(&output, 0)).unwrap();
    assert_eq!(
        object["consumers"],
        serde_json::json!({ "celery": ["w1@test"], "slow": [] }),
        "{object}"
    );
    assert_eq!(errors(&output), nobody);

    let object: Value = serde_json::from_str(&said(&orch(&["queues", "--json"], Some(&url)), 0)).unwrap();
    assert_eq!(
        object["consumers"],
        serde_json::json!({ "celery": ["w1@test"], "slow": [] }),
        "{object}"
    );
    assert_eq!(
        object["queues"]["slow"],
        serde_json::json!({ "0": 3, "3": 0, "6": 0, "9": 1 })
    );
    let text = said(&orch(&["queues"], Some(&url)), 0);
    assert!(text.contains("slow           4  3/0/0/1           none"), "{text}");

    // A worker that does not answer delays the command only for a short time, and may be the consumer of the queue.
    worker.process.signal(nix::sys::signal::Signal::SIGSTOP);
    let begun = Instant::now();
    let output = orch(&[&publish[..], &["--queue", "slow"]].concat(), Some(&url));
    said(&output, 0);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    worker.process.signal(nix::sys::signal::Signal::SIGCONT);
    assert!(
        errors(&output).starts_with("warning: no worker answers: "),
        "{output:?}"
    );
}
