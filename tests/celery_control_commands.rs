//! `orch celery` commands that control workers, and the leftovers of a command that is killed.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::celery::{Worker, WorkerOptions, python};
use support::orch::wait_until;
use support::process::Process;
use support::redis::RedisServer;

/// Returns name, length and time to live in seconds of all lists of replies.
fn reply_lists(redis: &RedisServer) -> Vec<(String, u64, i64)> {
    let mut connection = redis.connection(0);
    let lists: Vec<String> = redis::cmd("KEYS")
        .arg("*.reply.celery.pidbox")
        .query(&mut connection)
        .unwrap();
    let lists = lists.into_iter().map(|list| {
        let mut ask = redis::pipe();
        ask.cmd("LLEN").arg(&list).cmd("TTL").arg(&list);
        let (length, expiry): (u64, i64) = ask.query(&mut connection).unwrap();
        (list, length, expiry)
    });
    lists.collect()
}

/// Runs `orch celery`; asserts its exit code and returns its output.
#[track_caller]
fn says(redis: &RedisServer, arguments: &[&str], code: i32) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_orch"))
        .arg("celery")
        .args(arguments)
        .env("CELERY_BROKER_URL", redis.url(0))
        .env("CELERY_RESULT_BACKEND", redis.url(1))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_revocation_says_what_became_of_the_task_whatever_the_signal() {
    let redis = RedisServer::start();
    let _worker = Worker::start(&redis, WorkerOptions::default());
    let publish = |id: &str| says(&redis, &["publish", "wire_app.sleep", "--args", "[600]", "--id", id], 0);
    let until_active = |id: &str| {
        wait_until(&format!("{id} is active"), || {
            says(&redis, &["tasks", "--name", "wire_app.sl*"], 0).contains(&format!("{id}  active"))
        });
    };
    for (id, signal) in [("by-usr2", "SIGUSR2"), ("by-hup", "hup")] {
        publish(id);
        until_active(id);
        let text = says(
            &redis,
            &["revoke", id, "--terminate", "--signal", signal, "--timeout", "10s"],
            0,
        );
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("w1@test: revoked, running tasks ended"));
        assert!(lines.next().unwrap().starts_with(&format!("{id} REVOKED ")), "{text}");
    }
    // Without a signal the task goes on, which the command reports.
    publish("goes-on");
    until_active("goes-on");
    let text = says(&redis, &["revoke", "goes-on", "--json"], 0);
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["nodes"]["w1@test"]["ok"], true, "{object}");
    assert_eq!(object["tasks"][0]["held_by"]["w1@test"], "active", "{object}");
    says(&redis, &["revoke", "goes-on", "--terminate", "--signal", "nonsense"], 2);
    says(&redis, &["revoke", "goes-on", "--terminate", "--signal", "KILL"], 0);
}

#[test]
fn a_saved_group_is_followed() {
    let redis = RedisServer::start();
    let group = python(
        &redis,
        "wire_app",
        "from celery import group; r = group([wire_app.add.s(1, 1), wire_app.fail.s(), wire_app.add.s(2, 2)])\
         .apply_async(); r.save(); print(r.id)",
    );
    let text = says(&redis, &["result", "--group", &group], 1);
    assert_eq!(text, format!("{group}: 0 of 3 done, 0 failed"));
    let _worker = Worker::start(&redis, WorkerOptions::default());
    let object = |code: i32| -> serde_json::Value {
        serde_json::from_str(&says(&redis, &["result", "--group", &group, "--json"], code)).unwrap()
    };
    let members = object(1)["tasks"].as_array().unwrap().clone();
    for member in &members {
        let id = member.as_str().unwrap();
        let code = i32::from(member == &members[1]);
        says(&redis, &["result", id, "--wait", "--timeout", "20s"], code);
    }
    let object = object(1);
    assert_eq!(
        (&object["succeeded"], &object["failed"], &object["ready"]),
        (&2.into(), &1.into(), &true.into()),
        "{object}"
    );
    let text = says(&redis, &["result", "--group", "unknown"], 1);
    assert_eq!(text, "unknown: no such group is saved");
}

#[test]
fn a_solo_worker_says_what_it_cannot() {
    let redis = RedisServer::start();
    let _worker = Worker::start(
        &redis,
        WorkerOptions {
            arguments: ["--pool", "solo"].map(str::to_owned).to_vec(),
            ..WorkerOptions::default()
        },
    );
    for change in [&["--grow", "1"][..], &["--to", "3"], &["--autoscale", "1,3"]] {
        let text = says(&redis, &[&["scale", "--timeout", "1s"], change].concat(), 1);
        assert!(text.starts_with("w1@test: 1 slots, refused: "), "{change:?}: {text}");
    }
    assert_eq!(
        says(&redis, &["control", "heartbeat"], 0),
        "w1@test: has sent a heartbeat"
    );
}

#[test]
fn a_client_killed_before_the_reply_leaves_nothing_for_ever() {
    let redis = RedisServer::start();
    let worker = Worker::start(&redis, WorkerOptions::default());
    worker.process.signal(Signal::SIGSTOP);
    let directory = tempfile::tempdir().unwrap();
    let mut ping = Command::new(env!("CARGO_BIN_EXE_orch"));
    ping.args(["celery", "ping", "--timeout", "60s", "--broker", &redis.url(0)]);
    let mut ping = Process::start("orch celery ping", &mut ping, &directory.path().join("log"));
    ping.wait_until("published its request", Duration::from_secs(20), |_| {
        !reply_lists(&redis).is_empty()
    });
    ping.kill();
    worker.process.signal(Signal::SIGCONT);
    wait_until("the late reply comes", || {
        let lists = reply_lists(&redis);
        let [(list, length, expiry)] = lists.as_slice() else {
            panic!("one list: {lists:?}")
        };
        // One minute of the request itself, and one minute for late replies.
        assert!((1..=121).contains(expiry), "{list} stays for {expiry}s");
        *length == 2
    });
    let bindings: Vec<String> = redis::cmd("KEYS")
        .arg("_kombu.binding.reply*")
        .query(&mut redis.connection(0))
        .unwrap();
    assert_eq!(bindings, Vec::<String>::new());
}
