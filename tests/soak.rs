//! Services that die all the time, for the seconds of `ORCH_SOAK_SECONDS`: orch and its guard hold as many descriptors
//! and threads and as much memory at the end as at the beginning, and each death takes little of the disk.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::orch::{Project, WAIT_TIMEOUT, lives};
use support::schedule::pause_until;

/// Seconds unless the variable sets another number.
const SECONDS: u64 = 60;
/// Longest time until everything has happened a few times.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Time from one sample of both processes to the next.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Period in which each process has its fewest descriptors and threads several times, between two deaths.
const PERIOD_INTERVAL: Duration = Duration::from_secs(10);
/// Samples that a period needs: on a busy machine it is longer.
const LOOKS: u32 = 60;
/// KiB by which anonymous memory may exceed that after the warm-up.
const MEMORY: u64 = 4 << 10;
/// Bytes of the newest events that orch keeps (`crates/journal/src/feed.rs`): until then their number and the memory of
/// orch grow.
const EVENTS: u64 = 8 << 20;
/// Bytes of the journal and of the services' logs for each death.
const DISK_OF_A_DEATH: u64 = 2 << 10;
/// Bytes in addition to those of deaths: Redis's own files, the settings of the run.
const DISK: u64 = 4 << 20;
/// Time from one SIGKILL of Redis to the next.
const KILL_INTERVAL: Duration = Duration::from_secs(3);

/// Services that die in every way: by themselves, with daemonised children, before they are ready (except at the first
/// start), by an end that a probe finds, by a signal from outside; and one that lives.
const DYING: &str = r#"
[redis]
mode = "own"
port = 0
restart = { limit = 100000, backoff = "100ms", backoff_max = "400ms", stable = "1s" }
[services.lives]
command = ["sleep", "36000"]
[services.ends]
command = ["sh", "-c", "echo up; sleep 0.3; exit 3"]
readiness = { log = "up" }
restart = { limit = 100000, backoff = "100ms", backoff_max = "400ms" }
[services.daemonises]
command = ["sh", "-c", "setsid -f sleep 600; touch daemonised; sleep 0.4"]
readiness = { file = "daemonised" }
restart = { limit = 100000, backoff = "100ms", backoff_max = "400ms" }
[services.early]
command = ["sh", "-c", "if [ -e once ]; then echo no; exit 1; fi; touch once; echo ready; sleep 0.3"]
readiness = { log = "ready" }
restart = { limit = 100000, backoff = "200ms", backoff_max = "500ms" }
[services.sick]
command = ["sleep", "600"]
liveness = { exec = ["false"], interval = "300ms", failures = 1 }
restart = { limit = 100000, backoff = "100ms", backoff_max = "400ms" }
"#;

/// Resources that a process holds at one moment.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// Anonymous memory in KiB.
    anonymous: u64,
}

impl Held {
    fn of(pid: i32) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let anonymous = memory.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            anonymous: anonymous.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

/// Extremes of the resources over a period.
#[derive(Clone, Copy, Debug)]
struct Range {
    least: Held,
    most: Held,
}

impl Range {
    fn add(range: Option<Self>, held: Held) -> Self {
        let Some(Self { least, most }) = range else {
            return Self {
                least: held,
                most: held,
            };
        };
        Self {
            least: Held {
                descriptors: least.descriptors.min(held.descriptors),
                threads: least.threads.min(held.threads),
                anonymous: least.anonymous.min(held.anonymous),
            },
            most: Held {
                descriptors: most.descriptors.max(held.descriptors),
                threads: most.threads.max(held.threads),
                anonymous: most.anonymous.max(held.anonymous),
            },
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { least, most } = self;
        write!(
            formatter,
            "descriptors {}-{}, threads {}-{}, anonymous {}-{} KiB",
            least.descriptors, most.descriptors, least.threads, most.threads, least.anonymous, most.anonymous
        )
    }
}

/// orch or its guard.
struct Watched {
    name: &'static str,
    pid: i32,
    warm: Option<Range>,
    /// Memory in KiB that must not grow any more.
    full: Option<u64>,
    problems: Vec<String>,
}

impl Watched {
    /// Judges the end of a period: the fewest descriptors and threads are at most those of the warm-up; the memory is
    /// about the same, once orch keeps the largest number of events.
    fn judge(&mut self, at: Duration, now: Range, is_full: bool) {
        println!("{:>6.0} s {:<5} {now}", at.as_secs_f64(), self.name);
        let warm = *self.warm.get_or_insert(now);
        if is_full && self.full.is_none() {
            self.full = Some(now.most.anonymous);
            println!("{:>6.0} s {:<5} must not grow any more", at.as_secs_f64(), self.name);
        }
        let memory = self.full.unwrap_or(warm.most.anonymous + (EVENTS >> 10));
        // Fewer are no leak: in some periods Redis is down at every sample.
        let is_same = now.least.descriptors <= warm.least.descriptors
            && now.least.threads <= warm.least.threads
            && now.most.anonymous <= memory + MEMORY;
        if !is_same {
            self.problems
                .push(format!("{} after {at:?}: {now}; after the warm-up: {warm}", self.name));
        }
    }
}

/// Returns the files below a directory, with their sizes.
fn files(directory: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    // A file that is written anew may disappear between the listing and the look at it.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else {
            continue;
        };
        match metadata.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.display().to_string(), metadata.len())),
        }
    }
    found
}

/// Kills the Redis of the guard, if it has one at this moment.
fn kill_redis(guard: i32) {
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap();
    for pid in children.split_whitespace() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with("redis-server") || name.starts_with("valkey-server") {
            // Redis may have ended in between, and only its guard reaps it: the pid is not reused within that time.
            let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
        }
    }
}

#[test]
#[ignore = "takes the seconds of ORCH_SOAK_SECONDS; the nightly job runs it"]
fn deaths_leave_nothing_in_orch_and_its_guard() {
    let seconds = std::env::var("ORCH_SOAK_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let all = Duration::from_secs(seconds);
    let warm_up = WARM_UP_TIMEOUT.min(all / 4);
    let project = Project::new(DYING);
    let mut orch = project.orch_with(&["up", "-q"], &[], WAIT_TIMEOUT);
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    let guard = i32::try_from(started["guard_pid"].as_i64().unwrap()).unwrap();
    orch.wait_for_service("service_ready", "redis");
    orch.wait_for_service("service_ready", "lives");
    let mut watched = [("orch", orch.pid), ("guard", guard)].map(|(name, pid)| Watched {
        name,
        pid,
        warm: None,
        full: None,
        problems: Vec::new(),
    });
    let (began, mut killed) = (Instant::now(), Instant::now());
    let (mut period, mut looks, mut ranges) = (began, 0, [None, None]);
    let mut warm_files = 0;
    while began.elapsed() < all {
        // Samples at a fixed interval are the measurement; no event stands for one.
        pause_until(Instant::now() + SAMPLE_INTERVAL);
        assert!(lives(orch.pid) && lives(guard), "{}", orch.stderr());
        if killed.elapsed() > KILL_INTERVAL {
            killed = Instant::now();
            kill_redis(guard);
        }
        for (range, watched) in ranges.iter_mut().zip(&watched) {
            *range = Some(Range::add(range.take(), Held::of(watched.pid)));
        }
        looks += 1;
        if period.elapsed() < PERIOD_INTERVAL || looks < LOOKS {
            continue;
        }
        (period, looks) = (Instant::now(), 0);
        let ranges = std::mem::take(&mut ranges);
        // Resources at the end of the warm-up are the limit.
        if began.elapsed() < warm_up {
            continue;
        }
        if watched[0].warm.is_none() {
            warm_files = files(&project.state_dir()).len();
        }
        let journal = orch.run_directory().unwrap().join("journal.jsonl");
        // An event counts for its line and for itself, which is longer than these lines.
        let events = 2 * fs::metadata(journal).unwrap().len();
        for (watched, range) in watched.iter_mut().zip(ranges) {
            let is_full = watched.name == "guard" || events >= EVENTS;
            watched.judge(began.elapsed(), range.unwrap(), is_full);
        }
    }
    let (state, left) = (files(&project.state_dir()), files(&project.state_dir()).len());
    let size: u64 = state.values().sum();
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    let mut deaths: BTreeMap<&str, u64> = BTreeMap::new();
    for event in ended.events_of("service_restarting") {
        *deaths.entry(event["service"].as_str().unwrap()).or_default() += 1;
    }
    let died: u64 = deaths.values().sum();
    println!("{died} deaths in {seconds} s: {deaths:?}");
    println!("state directory: {size} bytes in {left} files, {warm_files} after the warm-up");
    for (file, size) in &state {
        println!("{size:>9} {file}");
    }
    for service in ["redis", "ends", "daemonises", "early", "sick"] {
        assert!(
            deaths.get(service).is_some_and(|died| *died > seconds / 10),
            "{service}: {deaths:?}"
        );
    }
    let problems: Vec<String> = watched.into_iter().flat_map(|watched| watched.problems).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(size < DISK + died * DISK_OF_A_DEATH, "{size} bytes after {died} deaths");
    // A file that is written anew has a second name for a moment.
    assert!(
        left <= warm_files + 2,
        "{left} files, {warm_files} after the warm-up: {state:#?}"
    );
}
