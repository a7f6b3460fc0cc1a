//! A whole `orch run` of many sites with a real Redis and a simulated worker that replies as fast as possible:
//! resources of orch (including its guard), and their growth with the number of sites.
//!
//! `cargo bench --bench scale`. `ORCH_SCALE_SITES` (default `100,1000`) is the list of runs by their number of sites,
//! `ORCH_SCALE_CHUNKS` (100) is the number of chunks of a site, `ORCH_SCALE_PARALLEL` (64) is `max_parallel_sites`;
//! `ORCH_SCALE_SITES=100,1000,10000` is the full benchmark. `ORCH_SCALE_PROGRAM` is another build of orch, to compare
//! with. Each run has a time limit of 120 s.
//!
//! `ORCH_SCALE_LIST` (default 2) is the number of events in a message. Celery 5.4 with 4 and 16 slots has a mean of 1.6
//! to
//! 2.5 and a maximum of 8 at 150 events per second, and a mean of 1.1 at 50; neither reaches Celery's limit of 24.
//! `ORCH_SCALE_RATE` (default 0: as fast as possible) is the number of events per second: `ORCH_SCALE_SITES=64
//! ORCH_SCALE_CHUNKS=6 ORCH_SCALE_RATE=65` corresponds to 64 sites on a few slots.
//!
//! The counted Redis commands are all commands except those of the simulated worker. Each command within a script
//! counts, and so does each command of a batch that is one round trip.
#![allow(clippy::unwrap_used, reason = "in a bench an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

#[path = "../../tests/support/mod.rs"]
mod support;
mod wire;
mod worker;

use support::redis::RedisServer;
use worker::EventOptions;

/// Environment variable that makes this program the simulated worker: port of Redis, chunks of a site, events in a
/// message, events per second.
const WORKER: &str = "ORCH_BENCH_WORKER";
/// Log filter of orch, for the count of round trips only.
const ROUND_TRIPS_LOG: &str = "orch_celery::redis::connection=debug";
/// Time limit of one run.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum CPU time in percent of the run's wall time on one core.
const CPU_WANTED: f64 = 15.0;
/// Maximum memory in MiB.
const MEMORY_WANTED: f64 = 100.0;
/// Maximum factor between the costs of a site in the largest and in the smallest run.
const GROWTH_WANTED: f64 = 1.2;

fn main() {
    if let Ok(role) = std::env::var(WORKER) {
        let words: Vec<&str> = role.split(' ').collect();
        let [port, chunks, list, rate] = words.as_slice() else {
            panic!("{role}");
        };
        let sending = EventOptions {
            list: list.parse().unwrap(),
            rate: rate.parse().unwrap(),
        };
        return worker::work(port.parse().unwrap(), chunks.parse().unwrap(), sending);
    }
    let sizes = std::env::var("ORCH_SCALE_SITES").unwrap_or_else(|_| "100,1000".to_owned());
    let chunks = number("ORCH_SCALE_CHUNKS", 100);
    let sending = EventOptions {
        list: number("ORCH_SCALE_LIST", 2),
        rate: u32::try_from(number("ORCH_SCALE_RATE", 0)).unwrap(),
    };
    let runs: Vec<MeasuredRun> = sizes
        .split(',')
        .map(|sites| {
            let measured = measure(sites.trim().parse().unwrap(), chunks, sending);
            measured.print(chunks, sending);
            measured
        })
        .collect();
    if let [first, .., last] = runs.as_slice() {
        let growth = |what: &str, of: fn(&MeasuredRun) -> f64| {
            let times = of(last) / of(first);
            println!(
                "{what} a site, {} sites over {}: {times:.2} times: {}",
                last.sites,
                first.sites,
                verdict(times <= GROWTH_WANTED)
            );
        };
        growth("orch's CPU", |run| run.cpu / run.sites as f64);
        growth("orch's commands", |run| run.commands() as f64 / run.sites as f64);
        growth("orch's round trips", |run| run.round_trips as f64 / run.sites as f64);
    }
}

fn verdict(passed: bool) -> &'static str {
    if passed { "pass" } else { "FAIL" }
}

fn number(variable: &str, default: usize) -> usize {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct MeasuredRun {
    sites: usize,
    wall: f64,
    /// CPU time of orch and its guard, in seconds.
    cpu: f64,
    redis_cpu: f64,
    /// Peak memory in MiB.
    peak: f64,
    events: u64,
    complete: usize,
    /// Number of completed chunks in the events about finished sites.
    chunks: u64,
    by_command: BTreeMap<String, u64>,
    /// Number of times that orch waited for a reply of Redis, without subscriptions.
    round_trips: u64,
}

impl MeasuredRun {
    fn commands(&self) -> u64 {
        self.by_command.values().sum()
    }

    fn print(&self, chunks: usize, sending: EventOptions) {
        let sites = self.sites as f64;
        let share = self.cpu / self.wall * 100.0;
        println!(
            "{} sites x {chunks} chunks: {:.1} s, {:.0} sites/s, {:.0} events/s in lists of {} (Redis' CPU {:.0} %)",
            self.sites,
            self.wall,
            sites / self.wall,
            self.events as f64 / self.wall,
            sending.list,
            self.redis_cpu / self.wall * 100.0
        );
        println!(
            "  orch: CPU {share:.1} % of one core ({:.2} ms a site): {}; peak {:.0} MiB: {}",
            self.cpu * 1000.0 / sites,
            verdict(share <= CPU_WANTED),
            self.peak,
            verdict(self.peak <= MEMORY_WANTED)
        );
        println!("  orch: {:.1} us of CPU an event", self.cpu * 1e6 / self.events as f64);
        let a_second = CPU_WANTED / 100.0 / (self.cpu / sites);
        println!(
            "  orch: {:.1} s of CPU for a million chunks; {CPU_WANTED:.0} % of one core are {a_second:.0} sites/s, {:.0} chunks/s",
            self.cpu / (sites * chunks as f64) * 1e6,
            a_second * chunks as f64
        );
        let commands = self.commands();
        let mut most: Vec<(&String, &u64)> = self.by_command.iter().collect();
        most.sort_by(|one, other| other.1.cmp(one.1));
        let most = most.iter().take(8).fold(String::new(), |mut text, (name, count)| {
            write!(text, " {name} {:.1}", **count as f64 / sites).unwrap();
            text
        });
        println!(
            "  its round trips to Redis: {:.0}/s, {:.1} a site; commands: {:.0}/s, {:.1} a site ({})",
            self.round_trips as f64 / self.wall,
            self.round_trips as f64 / sites,
            commands as f64 / self.wall,
            commands as f64 / sites,
            most.trim_start()
        );
        let has_all_chunks = self.chunks == (self.sites * chunks) as u64;
        println!(
            "  missed completions: {}: {}",
            self.sites - self.complete,
            verdict(self.complete == self.sites && has_all_chunks)
        );
    }
}

fn measure(sites: usize, chunks: usize, sending: EventOptions) -> MeasuredRun {
    let redis = RedisServer::start();
    let mut connection = redis.connection(0);
    // Switches persistence off, so that the disk does not affect the measurement.
    let set = |name: &str, value: &str, connection: &mut redis::Connection| {
        redis::cmd("CONFIG")
            .arg("SET")
            .arg(name)
            .arg(value)
            .exec(connection)
            .unwrap();
    };
    set("appendonly", "no", &mut connection);
    let mut worker = stand_in(redis.port, chunks, sending);
    let project = tempfile::tempdir().unwrap();
    write_project(project.path(), redis.port, sites);

    let (before, cpu_before) = (commands(&mut connection), redis_cpu(&mut connection));
    let used_before = children_cpu();
    let started = Instant::now();
    let mut orch = orch(project.path());
    let peak = watch(&mut orch, started + RUN_TIMEOUT);
    let wall = started.elapsed().as_secs_f64();
    let cpu = children_cpu() - used_before;
    let redis_cpu = redis_cpu(&mut connection) - cpu_before;
    let after = commands(&mut connection);

    drop(worker.stdin.take());
    let of_worker = worker.wait_with_output().unwrap();
    let of_worker: Value = serde_json::from_slice(&of_worker.stdout).unwrap();
    let mut by_command = BTreeMap::new();
    for (name, count) in after {
        let others = before.get(&name).copied().unwrap_or(0) + of_worker["commands"][&name].as_u64().unwrap_or(0);
        // The bench itself sends `INFO`.
        if count > others && name != "info" {
            by_command.insert(name, count - others);
        }
    }
    let (complete, chunks) = ends(project.path());
    let round_trips = round_trips(project.path());
    MeasuredRun {
        sites,
        wall,
        cpu,
        redis_cpu,
        peak,
        events: of_worker["events"].as_u64().unwrap(),
        complete,
        chunks,
        by_command,
        round_trips,
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench starts what it measures")]
fn stand_in(port: u16, chunks: usize, sending: EventOptions) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(WORKER, format!("{port} {chunks} {} {}", sending.list, sending.rate))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn write_project(directory: &Path, port: u16, sites: usize) {
    let parallel = number("ORCH_SCALE_PARALLEL", 64);
    let configuration = format!(
        "[orch]\nsites_file = \"sites.yaml\"\nmax_parallel_sites = {parallel}\n\
         [redis]\nmode = \"external\"\nport = {port}\n\
         [celery]\napp = \"scale\"\nprogram = \"/bin/true\"\n\
         [sites.defaults]\ndispatch = {{ task = \"{}\", args = [\"{{site}}\", \"{{start_urls}}\"] }}\n",
        worker::DISPATCH
    );
    fs::write(directory.join("orch.toml"), configuration).unwrap();
    let mut file = std::io::BufWriter::new(File::create(directory.join("sites.yaml")).unwrap());
    for site in 0..sites {
        writeln!(file, "site-{site:05}.example: [\"https://site-{site:05}.example/\"]").unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench starts what it measures")]
fn orch(directory: &Path) -> Child {
    let output = File::create(directory.join("output")).unwrap();
    let given = std::env::var("ORCH_SCALE_PROGRAM");
    let mut command = Command::new(given.as_deref().unwrap_or(env!("CARGO_BIN_EXE_orch")));
    command
        .arg("run")
        .env("ORCH_LOG", ROUND_TRIPS_LOG)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    command.spawn().unwrap()
}

/// Sums the round trips that orch has logged at the end of its connections.
fn round_trips(directory: &Path) -> u64 {
    let output = fs::read_to_string(directory.join("output")).unwrap();
    let counts = output.lines().filter_map(|line| {
        line.split_once("round_trips=")?
            .1
            .split(' ')
            .next()?
            .parse::<u64>()
            .ok()
    });
    counts.sum()
}

/// Waits for the end of orch and returns the peak of its resident memory in MiB.
fn watch(orch: &mut Child, deadline: Instant) -> f64 {
    let status = format!("/proc/{}/status", orch.id());
    let mut peak = 0.0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        peak = kibibytes.map_or(peak, |kibibytes| kibibytes / 1024.0);
        if orch.try_wait().unwrap().is_some() {
            return peak;
        }
        if Instant::now() > deadline {
            println!("  orch has not finished within {RUN_TIMEOUT:?} and gets SIGTERM");
            let pid = nix::unistd::Pid::from_raw(orch.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            orch.wait().unwrap();
            return peak;
        }
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// Returns the CPU time of all ended children and of their ended children, in seconds.
fn children_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn info(connection: &mut redis::Connection, section: &str) -> String {
    redis::cmd("INFO").arg(section).query(connection).unwrap()
}

/// Returns the number of calls of each command so far.
fn commands(connection: &mut redis::Connection) -> BTreeMap<String, u64> {
    let text = info(connection, "commandstats");
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn redis_cpu(connection: &mut redis::Connection) -> f64 {
    let text = info(connection, "cpu");
    let times = text
        .lines()
        .filter(|line| line.starts_with("used_cpu_sys:") || line.starts_with("used_cpu_user:"));
    times
        .filter_map(|line| line.split_once(':')?.1.trim().parse::<f64>().ok())
        .sum()
}

/// Counts the complete sites and their completed chunks in the journal.
fn ends(directory: &Path) -> (usize, u64) {
    let run = fs::read_dir(directory.join(".orch/runs")).unwrap().next();
    let Some(run) = run else {
        println!("{}", fs::read_to_string(directory.join("output")).unwrap());
        return (0, 0);
    };
    let journal = fs::read_to_string(run.unwrap().path().join("journal.jsonl")).unwrap();
    let (mut complete, mut chunks) = (0, 0);
    for line in journal.lines().filter(|line| line.contains("\"site_finished\"")) {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["status"] == "complete" {
            complete += 1;
            chunks += event["counts"]["completed_chunks"].as_u64().unwrap_or(0);
        } else {
            println!("  {line}");
        }
    }
    if complete == 0 {
        println!("{}", fs::read_to_string(directory.join("output")).unwrap());
    }
    (complete, chunks)
}
