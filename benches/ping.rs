//! Cost of a health check: `cargo bench --bench ping`, with a real worker with two pool slots.
//!
//! - `orch celery ping` as a whole process compared with `celery inspect ping`, in turn: wall time, CPU time (user and
//!   system time of the child), peak memory (`VmHWM`, which starts at zero with the program, unlike `ru_maxrss`; read
//!   from `/proc` while a ping waits for a node that does not exist, when all work except the last line of output is
//!   done);
//! - a ping inside a process compared with a bare socket that does the same exchange (PUBLISH, BRPOP), in turn.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use orch::celery::{Client, ControlTarget, Endpoints, NodeName};
use serde_json::json;

#[path = "../tests/support/mod.rs"]
mod support;
use support::celery::{Worker, WorkerOptions};
use support::process::Process;
use support::redis::RedisServer;

/// Number of runs of orch for each run of Python.
const OURS: usize = 8;
const THEIRS: usize = 5;
const EXCHANGES: usize = 300;
const PING_TIMEOUT: Duration = Duration::from_secs(5);

fn main() {
    let redis = RedisServer::start();
    // Switches persistence off, so that the disk does not affect the measurement.
    redis::cmd("CONFIG")
        .arg(&["SET", "appendonly", "no"])
        .exec(&mut redis.connection(0))
        .unwrap();
    let worker = Worker::start(&redis, WorkerOptions::default());
    let mut failed = whole_process(&redis);
    failed |= memory(&redis, &worker);
    failed |= in_process(&redis);
    assert!(!failed, "a target is missed");
}

/// Prints pass or fail and returns whether the target is missed.
fn verdict(what: &str, met: bool) -> bool {
    println!("{}: {what}", if met { "pass" } else { "FAIL" });
    !met
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns user and system time of all ended children, in ms.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 * 1000.0 + time.tv_usec() as f64 / 1000.0)
        .sum()
}

/// Returns wall time and CPU time of one run, in ms.
fn cost(command: &mut Command) -> (f64, f64) {
    let (before, started) = (cpu(), Instant::now());
    let output = command.output().unwrap();
    let wall = started.elapsed().as_secs_f64() * 1000.0;
    assert!(output.status.success(), "{output:?}");
    (wall, cpu() - before)
}

fn orch(redis: &RedisServer, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command
        .args(["celery", "ping", "--broker", &redis.url(0)])
        .args(arguments);
    command
}

fn whole_process(redis: &RedisServer) -> bool {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..THEIRS {
        let mut celery = Command::new(support::celery::environment().join("bin/celery"));
        celery.args(["-b", &redis.url(0), "inspect", "ping"]);
        theirs.push(cost(&mut celery));
        ours.extend((0..OURS).map(|_| cost(&mut orch(redis, &[]))));
    }
    let wall = |costs: &[(f64, f64)]| median(costs.iter().map(|cost| cost.0).collect());
    // Uses the mean, because the kernel counts the CPU time of such short runs in coarse steps.
    let cpu = |costs: &[(f64, f64)]| costs.iter().map(|cost| cost.1).sum::<f64>() / costs.len() as f64;
    let (our_wall, our_cpu, their_wall, their_cpu) = (wall(&ours), cpu(&ours), wall(&theirs), cpu(&theirs));
    println!(
        "orch celery ping, {} runs: {our_wall:.2} ms wall (median), {our_cpu:.2} ms CPU (mean)",
        ours.len()
    );
    println!(
        "celery inspect ping, {THEIRS} runs: {their_wall:.0} ms wall (median), {their_cpu:.0} ms CPU (mean): {:.0} times the \
         wall, {:.0} times the CPU",
        their_wall / our_wall,
        their_cpu / our_cpu
    );
    let slow = verdict("under 15 ms wall", our_wall < 15.0);
    verdict("at least 100 times less CPU", their_cpu / our_cpu >= 100.0) || slow
}

fn memory(redis: &RedisServer, worker: &Worker) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let mut command = orch(
        redis,
        &["--node", "w1@test", "--node", "nobody@test", "--timeout", "300ms"],
    );
    // The ping waits for a stopped worker, long enough for its memory to be read.
    worker.process.signal(nix::sys::signal::Signal::SIGSTOP);
    let mut ping = Process::start("orch celery ping", &mut command, &directory.path().join("log"));
    let mut peak = 0;
    while ping.ended().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", ping.pid())).unwrap_or_default();
        let ours = status.starts_with("Name:\torch\n");
        let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let high = high.and_then(|text| text.trim().split(' ').next()?.parse::<u64>().ok());
        peak = peak.max(high.filter(|_| ours).unwrap_or(0));
        std::thread::park_timeout(Duration::from_millis(5));
    }
    worker.process.signal(nix::sys::signal::Signal::SIGCONT);
    assert!(peak > 0, "the memory of the ping was not read");
    let mib = peak as f64 / 1024.0;
    println!("orch celery ping: {mib:.2} MiB peak resident (VmHWM)");
    verdict("under 10 MiB", mib < 10.0)
}

fn in_process(redis: &RedisServer) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = Client::connect(Endpoints::from_urls(&redis.url(0), &redis.url(0)).unwrap()).unwrap();
    let node = NodeName::from("w1@test");
    let target = ControlTarget::from(&node);
    let mut socket = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PING_TIMEOUT)).unwrap();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for number in 0..EXCHANGES {
        let started = Instant::now();
        let replies = runtime.block_on(client.control().ping(&target, PING_TIMEOUT)).unwrap();
        ours.push(started.elapsed().as_secs_f64() * 1000.0);
        assert!(replies.of(&node).is_some());

        let started = Instant::now();
        exchange(&mut socket, &number.to_string());
        bare.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let (ours, bare) = (median(ours), median(bare));
    println!("in a process, {EXCHANGES} each in turn, medians: ping {ours:.2} ms, bare socket {bare:.2} ms");
    verdict("within 1 ms of the bare socket", ours - bare < 1.0)
}

/// Sends a request and reads its reply without any library.
fn exchange(socket: &mut TcpStream, ticket: &str) {
    let body = json!({"method": "ping", "arguments": {}, "destination": ["w1@test"], "pattern": null, "matcher": null,
        "ticket": ticket, "reply_to": {"exchange": "", "routing_key": "bare"}});
    let message = json!({"body": body.to_string(), "content-type": "application/json", "content-encoding": "utf-8",
        "headers": {"clock": 1}, "properties": {"delivery_tag": ticket,
        "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""}}});
    send(socket, &["PUBLISH", "/0.celery.pidbox", &message.to_string()]);
    until(socket, |answer| answer.ends_with(b"\r\n"));
    send(socket, &["BRPOP", "bare", "5"]);
    // Redis replies with the name of the list, then the length of the message and the message.
    let answer = until(socket, |answer| answer.ends_with(b"}\r\n"));
    assert!(String::from_utf8_lossy(&answer).contains(&format!("\"ticket\": \"{ticket}\"")));
}

fn send(socket: &mut TcpStream, words: &[&str]) {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    socket.write_all(command.as_bytes()).unwrap();
}

fn until(socket: &mut TcpStream, complete: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !complete(&answer) {
        let read = socket.read(&mut buffer).unwrap();
        assert!(read > 0, "Redis closed the connection");
        answer.extend_from_slice(&buffer[..read]);
    }
    answer
}
