//! `orch celery` and what it leaves when it is killed.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::celery::{Worker, WorkerOptions};
use support::process::Process;
use support::redis::RedisServer;

/// Name and time to live, in seconds, of all lists of replies.
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
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let lists = reply_lists(&redis);
        let [(list, length, expiry)] = lists.as_slice() else {
            panic!("one list: {lists:?}")
        };
        // The request's own minute, and one for those who are late.
        assert!((1..=121).contains(expiry), "{list} stays for {expiry}s");
        if *length == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "the late reply has not come: {lists:?}");
    }
    let bindings: Vec<String> = redis::cmd("KEYS")
        .arg("_kombu.binding.reply*")
        .query(&mut redis.connection(0))
        .unwrap();
    assert_eq!(bindings, Vec::<String>::new());
}
