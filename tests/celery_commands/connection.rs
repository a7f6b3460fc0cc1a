//! Brokers that cannot be reached, answer wrongly or use names of their own, and command lines that are wrong.

use std::time::{Duration, Instant};

use crate::command::{Shop, orch, said};
use crate::support::celery::{self, Worker, WorkerOptions};
use crate::support::redis::{RedisServer, free_port};

#[test]
fn a_broker_that_is_down_is_told_at_once_and_without_its_password() {
    let port = free_port();
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
fn a_result_is_waited_for_as_long_as_was_asked_where_nobody_listens() {
    let began = Instant::now();
    let output = orch(
        &["result", "an-id", "--wait", "--timeout", "300ms"],
        Some(&format!("redis://127.0.0.1:{}", free_port())),
    );
    said(&output, 3);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_says_ok_to_all_has_taken_no_task() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The thread ends with the test.
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut reader = std::io::BufReader::new(connection.try_clone().unwrap());
            let mut writer = connection;
            std::thread::spawn(move || {
                let mut line = String::new();
                while std::io::BufRead::read_line(&mut reader, &mut line).is_ok_and(|length| length > 0) {
                    // One answer to each command, which begins with the number of its words.
                    if line.starts_with('*') && std::io::Write::write_all(&mut writer, b"+OK\r\n").is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    let url = format!("redis://127.0.0.1:{port}");
    for arguments in [&["publish", "a.task"][..], &["publish", "a.task", "--priority", "3"]] {
        let output = orch(arguments, Some(&url));
        said(&output, 3);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("does not speak the Redis protocol"),
            "{output:?}"
        );
    }
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
fn an_app_whose_keys_have_a_prefix_is_reached() {
    let prefixed = r#"{"global_keyprefix": "shop:"}"#;
    let shop = Shop::open(WorkerOptions {
        settings: vec![
            ("broker_transport_options", prefixed),
            ("result_backend_transport_options", prefixed),
        ],
        ..WorkerOptions::default()
    });
    let prefix = match celery::version().as_str() {
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
