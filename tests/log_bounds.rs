//! Logs are bounded while services write to them: pieces and live file are one stream without a gap, on each kind of file
//! system; probes and messages survive the cuts; a quiet service wakes nobody.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use support::orch::{Orch, Project, lives, wait_until};
use support::skip::skip;

const MIB: u64 = 1 << 20;

/// Prints numbered lines, at most `rate` bytes a second, until `total` bytes are printed, then the number of lines to the file
/// `printed`, with the number of writes that failed.
const PRINTER: &str = r#"
import os, sys, time
total, rate = int(sys.argv[1]), int(sys.argv[2])
lines = sent = failed = 0
print("begin", flush=True)
begin = time.monotonic()
while sent < total:
    block = b"".join(b"%010d a line of a service that prints very fast\n" % number for number in range(lines, lines + 500))
    lines += 500
    sent += len(block)
    while block:
        try:
            block = block[os.write(1, block):]
        except OSError:
            failed += 1
            time.sleep(0.01)
    ahead = sent / rate - (time.monotonic() - begin)
    if ahead > 0: time.sleep(ahead)
    # A process that was not scheduled for a while must not print faster afterwards.
    elif ahead < -0.02: begin -= ahead
with open("printed.new", "w") as file: file.write(f"{lines} {failed}")
os.rename("printed.new", "printed")
time.sleep(600)
"#;

/// Creates a service that prints, with the state directory in `state_dir`.
fn project(state_dir: &Path, printed: u64, rate: u64, service: &str) -> Project {
    let project = Project::new(&format!(
        "[orch]\nstate_dir = \"{}\"\n[redis]\nmode = \"off\"\n[services.web]\n\
         command = [\"python3\", \"print.py\", \"{printed}\", \"{rate}\"]\n{service}",
        state_dir.display()
    ));
    fs::write(project.file("print.py"), PRINTER).unwrap();
    project
}

/// Returns the log of the service in the only run of a state directory.
fn log_in(state_dir: &Path) -> PathBuf {
    let run = || fs::read_dir(state_dir.join("runs")).ok()?.flatten().next();
    wait_until("the directory of the run", || {
        run().is_some_and(|run| run.path().join("web.log").exists())
    });
    run().unwrap().path().join("web.log")
}

/// Returns the pieces of a log, the oldest first, and the live file.
fn files(log: &Path) -> Vec<PathBuf> {
    let piece = |number: u32| PathBuf::from(format!("{}.{number}", log.display()));
    let mut files: Vec<PathBuf> = (1..=1000).map(piece).take_while(|piece| piece.exists()).collect();
    files.reverse();
    files.push(log.to_owned());
    files
}

/// Returns the disk space of a log and its pieces, with one that is being written.
fn used(log: &Path) -> u64 {
    let part = PathBuf::from(format!("{}.part", log.display()));
    let used = || -> u64 {
        let files = files(log).into_iter().chain([part.clone()]);
        files
            .filter_map(|file| fs::metadata(file).ok())
            .map(|file| file.blocks() * 512)
            .sum()
    };
    // A head that becomes a piece between two looks at files is counted twice.
    (0..3).map(|_| used()).min().unwrap()
}

/// Asserts that the files of a log, one after the other, have each line of the end of the output once.
fn assert_complete(log: &Path, lines: u64, least: u64) {
    let contents = |file: PathBuf| fs::read(file).unwrap().into_iter().skip_while(|byte| *byte == 0);
    let stream: Vec<u8> = files(log).into_iter().flat_map(contents).collect();
    assert!(stream.len() as u64 >= least, "{} bytes are kept", stream.len());
    let text = String::from_utf8(stream).expect("no line is damaged");
    // The first line may be the end of one whose head is gone.
    let first = usize::from(text.lines().next().is_some_and(|line| line.len() != 52));
    let numbers: Vec<u64> = text
        .lines()
        .skip(first)
        .map(|line| {
            assert!(line.len() == 52, "a damaged line: {line}");
            line[..10].parse().unwrap()
        })
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "a gap in {}",
        log.display()
    );
    assert_eq!(numbers.last(), Some(&(lines - 1)));
}

/// Waits for the end of the output; returns the number of lines, of failed writes, and the largest use of the disk.
fn watch_output(project: &Project, log: &Path, orch: &Orch<'_>) -> (u64, u64, u64) {
    let mut largest = 0;
    wait_until("the end of the output", || {
        largest = largest.max(used(log));
        assert!(lives(orch.pid), "{}", orch.stderr());
        project.file("printed").exists()
    });
    let printed = fs::read_to_string(project.file("printed")).unwrap();
    let (lines, failed) = printed.split_once(' ').unwrap();
    (lines.parse().unwrap(), failed.parse().unwrap(), largest)
}

/// Waits until a log to which nobody writes has `pieces`, and nothing is left to cut: the live file has less than `max`.
fn wait_for_pieces(log: &Path, pieces: usize, max: u64) {
    wait_until("pieces", || {
        let live = fs::metadata(log).unwrap();
        // A log with a hole is shorter than it seems; a RAM file system counts no blocks.
        let size = [live.len(), live.blocks() * 512]
            .into_iter()
            .filter(|size| *size > 0)
            .min();
        files(log).len() > pieces && size.unwrap_or(0) < max
    });
}

/// Directories for state on the file systems of this machine.
fn directories() -> Vec<tempfile::TempDir> {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok();
    [Some(tempfile::tempdir().unwrap()), in_memory]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn a_service_that_prints_slowly_keeps_its_last_lines_in_pieces() {
    for directory in directories() {
        let state_dir = directory.path().join("state");
        let project = project(&state_dir, 9 * MIB, 4 * MIB, "log = { max = \"1MiB\", keep = 2 }\n");
        let orch = project.orch(&["up"]);
        let log = log_in(&state_dir);
        let (lines, failed, largest) = watch_output(&project, &log, &orch);
        assert_eq!(failed, 0);
        assert!(
            largest <= 3 * MIB + 3 * MIB / 5,
            "{largest} bytes in {}",
            directory.path().display()
        );
        wait_for_pieces(&log, 2, MIB);
        assert_complete(&log, lines, 2 * MIB);
        orch.signal(Signal::SIGTERM);
        orch.finish().expect_code(143);
    }
}

#[test]
fn a_service_that_floods_its_log_stays_within_the_bound_and_its_pieces_return() {
    for directory in directories() {
        let state_dir = directory.path().join("state");
        let project = project(&state_dir, 120 * MIB, 50 * MIB, "log = { max = \"4MiB\", keep = 3 }\n");
        let orch = project.orch(&["up"]);
        let log = log_in(&state_dir);
        let (lines, failed, largest) = watch_output(&project, &log, &orch);
        assert_eq!(failed, 0);
        assert!(
            largest <= 16 * MIB + 16 * MIB / 5,
            "{largest} bytes in {}",
            directory.path().display()
        );
        wait_for_pieces(&log, 2, 4 * MIB);
        assert_complete(&log, lines, 11 * MIB);
        orch.signal(Signal::SIGTERM);
        orch.finish().expect_code(143);
    }
}

#[test]
fn half_of_a_log_without_pieces_stays() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let project = project(&state_dir, 9 * MIB, 9 * MIB, "log = { max = \"2MiB\", keep = 0 }\n");
    let orch = project.orch(&["up"]);
    let log = log_in(&state_dir);
    let (lines, _, largest) = watch_output(&project, &log, &orch);
    assert!(largest <= 2 * MIB + 2 * MIB / 5, "{largest}");
    assert_complete(&log, lines, MIB - 8192);
    assert_eq!(files(&log).len(), 1);
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// Starts orch with a file system of its own for the state directory; `None` if none can be mounted here.
fn on_disk<'p>(project: &'p Project, mount: &str) -> Option<Orch<'p>> {
    let script = format!("mkdir -m 700 state && {mount} state && chmod 700 state");
    let possible = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(project.path())
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        skip("no mount namespace can be made here");
        return None;
    }
    fs::remove_dir(project.file("state")).unwrap();
    Some(project.shell(&format!("exec unshare -m sh -c '{script} && exec \"$ORCH\" up'")))
}

/// Returns the state directory of an orch in its own mount namespace.
fn state_of(project: &Project, orch: &Orch<'_>) -> PathBuf {
    let state = project.file("state");
    PathBuf::from(format!("/proc/{}/root{}", orch.pid, state.display()))
}

#[test]
fn a_file_system_that_can_only_empty_a_log_is_reported_and_the_log_stays_within_its_bound() {
    let project = project(
        Path::new("state"),
        12 * MIB,
        4 * MIB,
        "log = { max = \"1MiB\", keep = 2 }\n",
    );
    let Some(orch) = on_disk(&project, "mount -t ramfs none") else {
        return;
    };
    let log = log_in(&state_of(&project, &orch));
    let (_, failed, _) = watch_output(&project, &log, &orch);
    assert_eq!(failed, 0);
    wait_for_pieces(&log, 2, MIB);
    // A RAM file system counts no blocks.
    let size: u64 = files(&log).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(size <= 3 * MIB + 3 * MIB / 5, "{size}");
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert_eq!(
        ended.stdout.matches("can only empty a log").count(),
        1,
        "{}",
        ended.stdout
    );
}

#[test]
fn a_disk_without_space_for_a_copy_is_reported_and_no_write_of_the_service_fails() {
    let project = project(
        Path::new("state"),
        40 * MIB,
        6 * MIB,
        "log = { max = \"4MiB\", keep = 1 }\n",
    );
    // The copy of 4 MiB would leave less than 4 MiB.
    let Some(orch) = on_disk(&project, "mount -t tmpfs -o size=11m none") else {
        return;
    };
    let log = log_in(&state_of(&project, &orch));
    let (lines, failed, largest) = watch_output(&project, &log, &orch);
    assert_eq!(failed, 0, "failed writes");
    assert!(largest <= 8 * MIB + 8 * MIB / 5, "{largest}");
    assert_complete(&log, lines, 4 * MIB - 8192);
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert_eq!(
        ended.stdout.matches("could not copy the head of").count(),
        1,
        "{}",
        ended.stdout
    );
}

#[test]
fn log_probes_and_the_hint_to_an_empty_log_survive_the_cuts() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let probes = "log = { max = \"1MiB\", keep = 0 }\nreadiness = { log = \"begin\" }\n\
                  liveness = { log = \"begin\", interval = \"100ms\", failures = 1 }\n";
    let project = project(&state_dir, 24 * MIB, 8 * MIB, probes);
    let orch = project.orch(&["up"]);
    let log = log_in(&state_dir);
    let (lines, _, _) = watch_output(&project, &log, &orch);
    assert_complete(&log, lines, MIB / 2 - 8192);
    let journal = fs::read_to_string(log.with_file_name("journal.jsonl")).unwrap();
    assert!(
        !journal.contains("service_unhealthy") && !journal.contains("service_restarting"),
        "{journal}"
    );
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
}

#[test]
fn the_last_lines_of_a_service_that_fails_are_found_after_a_cut() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let service = "log = { max = \"1MiB\", keep = 1 }\nrestart = { limit = 1, backoff = \"1s\" }\n";
    let project = project(&state_dir, 3 * MIB, 4 * MIB, service);
    // The log is cut, then the service ends.
    let script = fs::read_to_string(project.file("print.py")).unwrap();
    let end = "time.sleep(2)\nprint('the last words', flush=True)\nsys.exit(3)";
    fs::write(project.file("print.py"), script.replace("time.sleep(600)", end)).unwrap();
    let orch = project.orch(&["up", "--output", "json"]);
    let log = log_in(&state_dir);
    let ended = orch.finish();
    ended.expect_code(3);
    let pieces = files(&log).len() - 1;
    assert_eq!(pieces, 1, "the log was cut");
    assert!(ended.stdout.contains("the last words"), "{}", ended.stdout);
    assert!(ended.stdout.contains("a line of a service"), "{}", ended.stdout);
}

/// Returns the number of times that the threads of a process were woken.
fn wake_ups(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let count = |status: String| -> u64 {
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"))
            .unwrap()
            .to_owned();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    statuses.map(count).sum()
}

#[test]
fn a_quiet_service_wakes_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let project = project(&state_dir, 3 * MIB, 20 * MIB, "log = { max = \"1MiB\", keep = 1 }\n");
    let orch = project.orch(&["up"]);
    let log = log_in(&state_dir);
    watch_output(&project, &log, &orch);
    let seconds = std::env::var("ORCH_IDLE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let pause = Duration::from_secs(seconds);
    // The looks end some seconds after the last write; then none may come.
    let mut before = 0;
    wait_until("quiet", || {
        before = wake_ups(orch.pid);
        std::thread::sleep(pause);
        wake_ups(orch.pid) == before
    });
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// Returns the CPU time of a process in seconds.
fn cpu_time(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// Prints 50 MB a second for ten minutes, with the default bound. `ORCH_LOG_SECONDS` sets another time.
#[test]
#[ignore = "takes ten minutes"]
fn a_flood_of_ten_minutes_stays_within_the_default_bound() {
    let seconds: u64 = std::env::var("ORCH_LOG_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(600);
    for directory in directories() {
        let state_dir = directory.path().join("state");
        let project = project(&state_dir, seconds * 50_000_000, 50_000_000, "");
        let orch = project.orch(&["up"]);
        let log = log_in(&state_dir);
        let (cpu, begin) = (cpu_time(orch.pid), std::time::Instant::now());
        let mut largest = 0;
        let printed = support::wait::within(Duration::from_secs(seconds * 2 + 60), || {
            largest = largest.max(used(&log));
            let is_over = project.file("printed").exists() || !lives(orch.pid);
            is_over.then_some(())
        });
        assert!(printed.is_some() && lives(orch.pid), "{}", orch.stderr());
        let (cpu, time) = (cpu_time(orch.pid) - cpu, begin.elapsed().as_secs_f64());
        println!(
            "{}: {:.1} MiB at most, orch used {:.2} % of a processor, {time:.0} s",
            directory.path().display(),
            largest as f64 / MIB as f64,
            100.0 * cpu / time
        );
        assert!(largest <= 240 * MIB, "{largest}");
        let (lines, failed, _) = watch_output(&project, &log, &orch);
        assert_eq!(failed, 0);
        wait_for_pieces(&log, 2, 50 * MIB);
        assert_complete(&log, lines, 120 * MIB);
        orch.signal(Signal::SIGTERM);
        orch.finish().expect_code(143);
    }
}
