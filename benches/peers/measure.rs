//! Measurements of one supervisor.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::peer::{SupervisedService, SupervisorKind};
use crate::{RUNS, median, probe};

/// Script of a service with seven processes: the shell, three children, and three daemons of these children.
const TREE: &str = "for n in 1 2 3; do sh -c 'setsid -f sleep 600; exec sleep 600' & done; wait";
/// Script like [`TREE`] that ignores the signals which request the end of a process.
const STUBBORN: &str =
    "trap '' TERM HUP INT; for n in 1 2 3; do sh -c 'setsid -f sleep 600; exec sleep 600' & done; wait";
const TREES: usize = 3;
const PROCESSES: usize = 21;
/// Environment variable of every process of a tree, and of no other process.
const TAG: &str = "PEERS_TREE";
/// Time in which remaining processes may still end by themselves.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(6);
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which memory and CPU are measured.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct SupervisorFigures {
    left_killed: usize,
    left_stopped: usize,
    left_stubborn: usize,
    start_1: Duration,
    start_20: Duration,
    restart_young: Duration,
    restart_old: Duration,
    stop_20: Duration,
    idle: IdleFigures,
}

#[derive(Debug, Default)]
struct IdleFigures {
    pss: f64,
    anonymous: f64,
    cpu_percent: f64,
    wake_ups_a_second: f64,
}

impl fmt::Display for SupervisorFigures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        let of = |left: usize| format!("{left} of {PROCESSES}");
        write!(
            out,
            "{:>9} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>8} {:>9.2} {:>9.2} {:>7.2} {:>8.2}",
            of(self.left_killed),
            of(self.left_stopped),
            of(self.left_stubborn),
            ms(self.start_1),
            ms(self.start_20),
            ms(self.restart_young),
            ms(self.restart_old),
            ms(self.stop_20),
            self.idle.pss,
            self.idle.anonymous,
            self.idle.cpu_percent,
            self.idle.wake_ups_a_second,
        )
    }
}

impl SupervisorFigures {
    pub fn of(peer: SupervisorKind) -> Self {
        let (restart_young, restart_old) = restarts(peer);
        Self {
            left_killed: left(peer, TREE, false),
            left_stopped: left(peer, TREE, true),
            left_stubborn: left(peer, STUBBORN, true),
            start_1: median((0..RUNS).map(|_| start_and_stop(peer, 1).0).collect()),
            start_20: median((0..RUNS).map(|_| start_and_stop(peer, 20).0).collect()),
            restart_young,
            restart_old,
            stop_20: median((0..RUNS).map(|_| start_and_stop(peer, 20).1).collect()),
            idle: idle(peer),
        }
    }
}

/// Supervisor in its own directory. The drop ends all remaining processes.
struct MeasuredSupervisor {
    peer: SupervisorKind,
    directory: TempDir,
    supervisor: Child,
    started: u64,
}

impl MeasuredSupervisor {
    /// Starts a supervisor with services that record their start time.
    fn of_probes(peer: SupervisorKind, count: usize) -> Self {
        let this = std::env::current_exe().unwrap();
        Self::of(peer, count, |stamps| {
            let words = [this.to_str().unwrap(), probe::ARGUMENT, stamps.to_str().unwrap()];
            words.map(str::to_owned).to_vec()
        })
    }

    /// Starts a supervisor with services that run a shell script.
    fn of_trees(peer: SupervisorKind, script: &str) -> Self {
        Self::of(peer, TREES, |stamps| {
            let file = stamps.parent().unwrap().join("tree.sh");
            fs::write(&file, script).unwrap();
            let tag = format!("{TAG}={}", stamps.parent().unwrap().display());
            ["/usr/bin/env", &tag, "/bin/sh", file.to_str().unwrap()]
                .map(str::to_owned)
                .to_vec()
        })
    }

    fn of(peer: SupervisorKind, count: usize, words: impl Fn(&Path) -> Vec<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("peers-").tempdir().unwrap();
        let words = words(&directory.path().join("stamps"));
        let services: Vec<SupervisedService> = (0..count)
            .map(|number| SupervisedService {
                name: format!("s{number}"),
                words: words.clone(),
            })
            .collect();
        peer.configure(directory.path(), &services);
        let started = probe::now();
        let supervisor = peer.start(directory.path());
        Self {
            peer,
            directory,
            supervisor,
            started,
        }
    }

    fn stamps(&self) -> PathBuf {
        self.directory.path().join("stamps")
    }

    /// Waits until `count` services have started and returns the pid and time of each start.
    fn until_stamped(&self, count: usize) -> Vec<(i32, u64)> {
        self.until(format!("{count} starts"), || {
            let stamps = probe::read(&self.stamps());
            (stamps.len() >= count).then_some(stamps)
        })
    }

    fn until<T>(&self, what: String, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{}: no {what} within {WAIT_TIMEOUT:?}",
                self.peer.name()
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Returns the living processes of the services' trees.
    fn tree(&self) -> Vec<i32> {
        let tag = format!("{TAG}={}", self.directory.path().display());
        living().into_iter().filter(|pid| has_variable(*pid, &tag)).collect()
    }

    /// Returns the supervisor and its helpers: its descendants without the supervised processes.
    fn own_processes(&self, services: &BTreeSet<i32>) -> Vec<i32> {
        let mut found = vec![self.supervisor.id().cast_signed()];
        let mut next = 0;
        while let Some(parent) = found.get(next) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
            found.extend(children.filter(|pid| !services.contains(pid)));
            next += 1;
        }
        found
    }
}

impl Drop for MeasuredSupervisor {
    fn drop(&mut self) {
        self.supervisor.kill().ok();
        self.supervisor.wait().ok();
        let directory = self.directory.path().to_owned();
        // Every process that was started here has a working directory in this directory, or has the tag.
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let mut left: BTreeSet<i32> = self.tree().into_iter().collect();
            left.extend(probe::read(&self.stamps()).iter().map(|(pid, _)| *pid).filter(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|words| String::from_utf8_lossy(&words).contains(directory.to_str().unwrap()))
            }));
            left.extend(living().into_iter().filter(|pid| {
                fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|home| home.starts_with(&directory))
            }));
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in left {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn living() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    })
    .collect()
}

fn has_variable(pid: i32, wanted: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == wanted.as_bytes())
}

/// Counts the processes that are alive some time after the end of the supervisor.
fn left(peer: SupervisorKind, script: &str, gracefully: bool) -> usize {
    let mut scene = MeasuredSupervisor::of_trees(peer, script);
    scene.until("whole trees".to_owned(), || {
        (scene.tree().len() == PROCESSES).then_some(())
    });
    if gracefully {
        peer.ask_to_stop(&scene.supervisor);
    } else {
        scene.supervisor.kill().unwrap();
    }
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut left = PROCESSES;
    while left > 0 && Instant::now() < deadline {
        scene.supervisor.try_wait().unwrap();
        left = scene.tree().len();
        std::thread::sleep(Duration::from_millis(20));
    }
    left
}

/// Measures the time from exec to the first instruction of the last service, and from the stop request to the end of
/// the supervisor and its services.
fn start_and_stop(peer: SupervisorKind, count: usize) -> (Duration, Duration) {
    let mut scene = MeasuredSupervisor::of_probes(peer, count);
    let stamps = scene.until_stamped(count);
    let last = stamps.iter().map(|(_, time)| *time).max().unwrap();
    let asked = Instant::now();
    peer.ask_to_stop(&scene.supervisor);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while scene.supervisor.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(100));
    }
    // A supervisor that ends before its services has not stopped them yet.
    let alive = |pid: &i32| Path::new(&format!("/proc/{pid}")).exists();
    let pids: Vec<i32> = stamps.iter().map(|(pid, _)| *pid).collect();
    scene.until("end of the services".to_owned(), || {
        (!pids.iter().any(alive)).then_some(())
    });
    (Duration::from_nanos(last - scene.started), asked.elapsed())
}

/// Measures the time from the death of a process to the first instruction of its replacement, for processes that are
/// killed as soon as they run and for processes that are killed after 1.5 s.
fn restarts(peer: SupervisorKind) -> (Duration, Duration) {
    let scene = MeasuredSupervisor::of_probes(peer, 2 * RUNS);
    let first = scene.until_stamped(2 * RUNS);
    let mut measured = [Vec::new(), Vec::new()];
    let mut count = first.len();
    for (number, (pid, _)) in first.iter().enumerate() {
        if number == RUNS {
            std::thread::sleep(Duration::from_millis(1500));
        }
        let killed = probe::now();
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        count += 1;
        let stamps = scene.until_stamped(count);
        measured[number / RUNS].push(Duration::from_nanos(stamps[count - 1].1 - killed));
    }
    let [young, old] = measured;
    (median(young), median(old))
}

fn idle(peer: SupervisorKind) -> IdleFigures {
    let scene = MeasuredSupervisor::of_probes(peer, 3);
    let services = scene.until_stamped(3).iter().map(|(pid, _)| *pid).collect();
    // Waits until the supervisor has finished all work after the start.
    std::thread::sleep(Duration::from_secs(2));
    let own = scene.own_processes(&services);
    let sum = |look: &dyn Fn(i32) -> f64| own.iter().map(|pid| look(*pid)).sum::<f64>();
    let (cpu, wake_ups) = (sum(&cpu_seconds), sum(&switches));
    std::thread::sleep(IDLE_INTERVAL);
    IdleFigures {
        pss: sum(&|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss:") / 1024.0),
        anonymous: sum(&|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Anonymous:") / 1024.0),
        cpu_percent: (sum(&cpu_seconds) - cpu) / IDLE_INTERVAL.as_secs_f64() * 100.0,
        wake_ups_a_second: (sum(&switches) - wake_ups) / IDLE_INTERVAL.as_secs_f64(),
    }
}

/// Sums the CPU time of all threads, as the scheduler counts it.
fn cpu_seconds(pid: i32) -> f64 {
    let of_thread = |thread: &Path| {
        let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|time| time.parse::<f64>().ok());
        nanoseconds.unwrap_or_default() / 1e9
    };
    threads(pid).iter().map(|thread| of_thread(thread)).sum()
}

fn switches(pid: i32) -> f64 {
    let of_thread = |thread: &PathBuf| field(thread.join("status").to_str().unwrap(), "voluntary_ctxt_switches:");
    threads(pid).iter().map(of_thread).sum()
}

fn threads(pid: i32) -> Vec<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads.map(|thread| thread.path()).collect()
}

fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok());
    value.unwrap_or_default()
}
