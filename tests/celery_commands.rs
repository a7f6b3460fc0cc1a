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
    assert_eq!(text, "3 put back on their queues, 0 were finished already");
    assert_eq!(
        said(&orch(&["restore"], Some(&url)), 0),
        "0 put back on their queues, 0 were finished already"
    );
}

/// Put back on the list that the next worker polls, found by its own words.
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
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut taken = || redis::cmd("HLEN").arg("unacked").query::<u64>(&mut broker).unwrap();
    while taken() < 3 {
        assert!(Instant::now() < deadline, "the worker does not take them");
    }
    worker.process.kill();
    let _next = Worker::start(&redis, options("w2@test"));
    let text = said(&orch(&["restore"], Some(&url)), 0);
    assert_eq!(text, "3 put back on their queues, 0 were finished already");
    // The second worker takes them, one of them from the list of step 4.
    while taken() < 3 {
        assert!(Instant::now() < deadline, "nobody takes them again");
    }
}

/// A command of the app's worker.
struct Shop {
    redis: RedisServer,
    _worker: Worker,
}

impl Shop {
    fn open(options: WorkerOptions) -> Self {
        let redis = RedisServer::start();
        let _worker = Worker::start(&redis, options);
        Self { redis, _worker }
    }

    fn orch(&self, arguments: &[&str]) -> Output {
        let backend = self.redis.url(1);
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--backend", &backend]).collect();
        orch(&arguments, Some(&self.redis.url(0)))
    }

    #[track_caller]
    fn says(&self, arguments: &[&str], code: i32) -> String {
        said(&self.orch(arguments), code)
    }

    #[track_caller]
    fn object(&self, arguments: &[&str], code: i32) -> Value {
        let text = self.says(&[arguments, &["--json"]].concat(), code);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

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

    // Nothing waits for it, so the id is all there is to say.
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

/// Python reads every integer of the user as the same number: beyond 64 bits, too.
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
    use std::io::Write;
    let redis = RedisServer::start();
    let publish = |lines: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(["celery", "publish", "--stdin", "--broker", &redis.url(0)]);
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
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
    assert!(error.contains("nothing is published"), "{error}");
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
    use std::io::Write;
    let redis = RedisServer::start();
    let url = redis.url(0);
    let errors = |output: &Output| String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let publish = ["publish", "wire_app.add", "--args", "[1, 2]"];

    let output = orch(&publish, Some(&url));
    said(&output, 0);
    assert_eq!(
        errors(&output),
        "warning: no worker answers: what is published waits in the queue `celery` until a worker consumes it"
    );

    let worker = Worker::start(&redis, WorkerOptions::default());
    let output = orch(&publish, Some(&url));
    said(&output, 0);
    assert_eq!(errors(&output), "");
    let output = orch(&[&publish[..], &["--queue", "slow", "--id", "t1"]].concat(), Some(&url));
    assert_eq!(said(&output, 0), "t1");
    let nobody = "warning: no worker consumes the queue `slow`: what is published waits there; worker w1@test consumes \
                  celery";
    assert_eq!(errors(&output), nobody);
    // Who waits for the result is warned while it waits.
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
    std::io::Seek::rewind(&mut input).unwrap();
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

    // A worker that does not answer delays nothing for long, and may be the one that consumes it.
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
    assert_eq!(shop.says(&["tasks"], 0), "the workers have no task in hand");
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
    let deadline = Instant::now() + Duration::from_secs(20);
    let states = |object: &Value| {
        let tasks = object["tasks"].as_array().unwrap().iter();
        let mut states: Vec<String> = tasks
            .map(|task| format!("{} {}", task["id"].as_str().unwrap(), task["state"].as_str().unwrap()))
            .collect();
        states.sort();
        states
    };
    let expected = ["later scheduled", "long active", "next reserved"];
    loop {
        let object = shop.object(&["tasks"], 0);
        if states(&object) == expected {
            break;
        }
        assert!(Instant::now() < deadline, "{object}");
    }
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
        text.starts_with("w1@test: revoked, and ended where it runs\nlong REVOKED "),
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
    let deadline = Instant::now() + Duration::from_secs(10);
    while shop.orch(&["ping", "--queues", "slow"]).status.code() != Some(0) {
        assert!(Instant::now() < deadline, "the worker does not consume `slow`");
    }
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
    assert_eq!(control(&["shutdown"]), "w1@test: told to shut down");
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
    let deadline = Instant::now() + Duration::from_secs(10);
    while !shop.says(&["tasks"], 0).contains("active") {
        assert!(Instant::now() < deadline, "it does not start");
    }
    let text = shop.says(&["revoke", "t1", "--terminate"], 1);
    assert!(text.starts_with("w1@test: refused: "), "{text}");
}

#[test]
fn a_worker_that_answers_and_does_not_consume_is_unhealthy() {
    let shop = Shop::open(WorkerOptions::default());
    let consuming = ["ping", "--consuming", "--for", "1s"];
    assert!(shop.says(&consuming, 0).starts_with("healthy: "));
    // Busy and full is no fault.
    for _ in 0..20 {
        shop.says(&["publish", "wire_app.sleep", "--args", "[0.2]"], 0);
    }
    assert!(shop.says(&consuming, 0).starts_with("healthy: "));

    shop.says(&["control", "add-consumer", "slow"], 0);
    shop.says(&["control", "cancel-consumer", "celery"], 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    let reason = loop {
        shop.says(&["publish", "wire_app.add", "--args", "[1, 1]"], 0);
        let output = shop.orch(&[&consuming[..], &["--queues", "celery"]].concat());
        if output.status.code() == Some(1) {
            break said(&output, 1);
        }
        assert!(Instant::now() < deadline, "{output:?}");
    };
    assert!(
        reason.starts_with("unhealthy: w1@test answers but is no consumer of `celery`, where "),
        "{reason}"
    );
    assert_eq!(reason.lines().count(), 1, "{reason}");
    shop.says(&["control", "cancel-consumer", "slow"], 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shop.orch(&consuming).status.code() == Some(0) {
        assert!(Instant::now() < deadline, "it consumes nothing any more");
    }
    let object = shop.object(&["ping", "--consuming"], 1);
    assert_eq!(object["healthy"], false, "{object}");
    shop.says(&["control", "add-consumer", "celery"], 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shop.orch(&consuming).status.code() != Some(0) {
        assert!(Instant::now() < deadline, "it consumes again");
    }
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
    // A body of two: a worker that takes it ends, and the message is back in the queue.
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
    let deadline = Instant::now() + Duration::from_secs(30);
    while worker.process.ended().is_none() {
        assert!(
            Instant::now() < deadline,
            "it does not end of it:\n{}",
            worker.process.log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }

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
        "celery (priority 9): ends workers: it is no JSON (",
        "celery: is dropped by workers: it names no task: {",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(expected)),
            "{expected}\n{text}"
        );
    }
    assert!(text.ends_with("2 of those that end a worker are left"), "{text}");

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
    // The worker has put it back with its mark.
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
    let deadline = Instant::now() + Duration::from_secs(20);
    let object = loop {
        let object = shop.object(&["queues", "--unacked"], 0);
        if object["unacked"] == 1 {
            break object;
        }
        assert!(Instant::now() < deadline, "{object}");
    };
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
    // Published again and again: the tail may not listen yet.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !tail.is_finished() {
        shop.says(
            &["publish", "wire_app.fail", "--args", r#"["no\u001b"]"#, "--id", "f1"],
            0,
        );
        shop.says(&["publish", "wire_app.add", "--args", "[1, 1]"], 0);
        assert!(Instant::now() < deadline, "no events come");
    }
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
    let deadline = Instant::now() + Duration::from_secs(30);
    while !tail.is_finished() {
        shop.says(&["publish", "wire_app.fail"], 0);
        assert!(Instant::now() < deadline, "no events come");
    }
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
    let mut tail = support::process::Process::start("orch", &mut command, &directory.path().join("log"));
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
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = tail.ended() {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on");
        // The end of a process that is only looked at is no event.
        std::thread::sleep(Duration::from_millis(5));
    };
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
    while !top.is_finished() {
        shop.says(&["publish", "wire_app.add", "--args", "[1, 1]"], 0);
        published += 1;
    }
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

#[test]
fn an_app_whose_keys_have_a_prefix_is_reached() {
    let prefixed = r#"{"global_keyprefix": "shop:"}"#;
    let shop = Shop::open(WorkerOptions {
        settings: vec![
            ("broker_transport_options", prefixed),
            ("result_backend_transport_options", prefixed),
        ],
        ..WorkerOptions::default()
    });
    let prefix = match support::celery::version().as_str() {
        "5.2" => "",
        "5.3" | "5.4" => "shop:_",
        _ => "shop:",
    };
    let with = |words: &[&'static str]| [words, &["--key-prefix", "shop:", "--backend-key-prefix", prefix]].concat();
    let without = shop.says(&["ping"], 1);
    assert!(without.starts_with("unhealthy: no worker listens; "), "{without}");
    assert!(without.ends_with(": try `--key-prefix shop:`"), "{without}");
    assert!(shop.says(&with(&["ping"]), 0).starts_with("healthy: w1@test in "));
    let sum = shop.says(
        &with(&["publish", "wire_app.add", "--args", "[1, 2]", "--id", "t1", "--wait"]),
        0,
    );
    assert_eq!(sum, "t1 SUCCESS 3");
}

#[test]
fn two_workers_of_one_name_are_named_and_counted() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let first = Worker::start(&redis, WorkerOptions::default());
    let second = Worker::start(&redis, WorkerOptions::default());
    let warning = "; 2 workers have the same name w1@test: what is sent to one reaches all of them";
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

#[test]
fn a_worker_that_listens_under_another_name_is_named() {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let worker = Worker::start(
        &redis,
        WorkerOptions {
            settings: vec![("broker_transport_options", r#"{"global_keyprefix": "shop-"}"#)],
            ..WorkerOptions::default()
        },
    );
    let unhealthy = said(&orch(&["ping"], Some(&url)), 1);
    assert!(
        unhealthy.contains("prefix `shop-`") && unhealthy.ends_with("try `--key-prefix shop-`"),
        "{unhealthy}"
    );
    let healthy = said(&orch(&["ping", "--key-prefix", "shop-"], Some(&url)), 0);
    assert!(healthy.starts_with("healthy: w1@test"), "{healthy}");
    drop(worker);
}

/// Whatever the app's own names are: without an instance, first by what the queues show, then by what the worker says.
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
    // Of steps that hold nothing only Celery's own are known.
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
    // To the list of step 4, as the worker says; in that of Celery's own step 3 nobody would look.
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
