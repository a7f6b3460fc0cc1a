//! Services that die all the time, for as long as `ORCH_SOAK_SECONDS` says: orch and its guard hold as many descriptors,
//! threads and as much memory at the end as at the beginning, and each death takes little of the disk.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::orch::{PATIENCE, Project, lives};

/// Unless the variable says otherwise.
const SECONDS: u64 = 60;
/// What it takes until everything has happened a few times, at most.
const WARM_UP: Duration = Duration::from_secs(60);
/// From one look at both processes to the next.
const PACE: Duration = Duration::from_millis(100);
/// Each has its fewest descriptors and threads several times, between two deaths...
const PERIOD: Duration = Duration::from_secs(10);
/// ... which is seen in so many looks: on a busy machine a period is longer.
const LOOKS: u32 = 60;
/// By which anonymous memory may be more than it was after the warm-up, KiB.
const MEMORY: u64 = 4 << 10;
/// Orch keeps the newest events of a run, as many as this, bytes (`src/run/feed.rs`): until then they become more, and its
/// memory with them.
const EVENTS: u64 = 8 << 20;
/// Of the journal and of the services' logs, bytes.
const DISK_OF_A_DEATH: u64 = 2 << 10;
/// Beside what deaths take: Redis's own files, the settings of the run, bytes.
const DISK: u64 = 4 << 20;
/// From one SIGKILL of Redis to the next.
const REDIS_LIVES: Duration = Duration::from_secs(3);

/// Every way to die: by itself, with daemonised children, before it is ready (but for its first start), by an end that a probe finds, by a signal from
/// outside; and one that lives.
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

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// KiB
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

/// Over a period.
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

/// Orch or its guard.
struct Watched {
    name: &'static str,
    pid: i32,
    warm: Option<Range>,
    /// Since when its memory is to stay as it is, KiB.
    full: Option<u64>,
    problems: Vec<String>,
}

impl Watched {
    /// A period is over: the fewest descriptors and threads are those of the warm-up, the memory is about the same, once as
    /// many events are kept as are kept at most.
    fn judge(&mut self, at: Duration, now: Range, is_full: bool) {
        println!("{:>6.0} s {:<5} {now}", at.as_secs_f64(), self.name);
        let warm = *self.warm.get_or_insert(now);
        if is_full && self.full.is_none() {
            self.full = Some(now.most.anonymous);
            println!("{:>6.0} s {:<5} is to stay so", at.as_secs_f64(), self.name);
        }
        let memory = self.full.unwrap_or(warm.most.anonymous + (EVENTS >> 10));
        let is_same = now.least.descriptors == warm.least.descriptors
            && now.least.threads == warm.least.threads
            && now.most.anonymous <= memory + MEMORY;
        if !is_same {
            self.problems
                .push(format!("{} after {at:?}: {now}; after the warm-up: {warm}", self.name));
        }
    }
}

/// Files below a directory, with their sizes.
fn files(directory: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    // What is written anew may be gone between being listed and being looked at.
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

/// Kills the Redis that the guard has, if it has one at this moment.
fn kill_redis(guard: i32) {
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap();
    for pid in children.split_whitespace() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with("redis-server") || name.starts_with("valkey-server") {
            // It may have ended in between, and is reaped by its guard alone: the pid is not reused within that time.
            let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
        }
    }
}

#[test]
#[ignore = "takes the seconds of ORCH_SOAK_SECONDS; the nightly job runs it"]
fn deaths_leave_nothing_in_orch_and_its_guard() {
    let seconds = std::env::var("ORCH_SOAK_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let all = Duration::from_secs(seconds);
    let warm_up = WARM_UP.min(all / 4);
    let project = Project::new(DYING);
    let mut orch = project.orch_with(&["up", "-q"], &[], PATIENCE);
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
        std::thread::park_timeout(PACE);
        assert!(lives(orch.pid) && lives(guard), "{}", orch.stderr());
        if killed.elapsed() > REDIS_LIVES {
            killed = Instant::now();
            kill_redis(guard);
        }
        for (range, watched) in ranges.iter_mut().zip(&watched) {
            *range = Some(Range::add(range.take(), Held::of(watched.pid)));
        }
        looks += 1;
        if period.elapsed() < PERIOD || looks < LOOKS {
            continue;
        }
        (period, looks) = (Instant::now(), 0);
        let ranges = std::mem::take(&mut ranges);
        // What was held at the end of the warm-up is what may be held.
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
