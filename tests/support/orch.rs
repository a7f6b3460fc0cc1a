//! One `orch`, started from the binary under test, seen from outside: its journal, its output, what it leaves.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::server;

/// How long anything in a test may take, on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a process runs; a zombie does not.
pub fn lives(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Whether a process is stopped, as by SIGSTOP.
pub fn is_stopped(pid: i32) -> bool {
    state(pid) == Some('T')
}

/// Kills orch and its guard in one instant: each is stopped first, with all of its threads, so that neither can act on the
/// other's death.
#[track_caller]
pub fn kill_both_at_once(orch: i32, guard: i32) {
    let both = [guard, orch];
    for pid in both {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stop orch and its guard");
    }
    wait_until("orch and its guard stopped", || {
        both.into_iter().all(is_stopped_with_all_threads)
    });
    for pid in both {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill orch and its guard");
    }
}

/// A thread goes on until it has a processor to stop on.
fn is_stopped_with_all_threads(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of a process");
    threads
        .flatten()
        .all(|thread| state_in(&thread.path().join("stat")) == Some('T'))
}

/// The state of a process, as the kernel's letter for it.
fn state(pid: i32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}/stat")))
}

fn state_in(stat: &Path) -> Option<char> {
    let stat = fs::read_to_string(stat).ok()?;
    // The name before it may hold anything.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Waits for what no event tells; panics when the patience is over.
#[track_caller]
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A directory with a configuration, removed at the end (kept when the test fails, and its logs printed).
pub struct Project {
    directory: PathBuf,
}

impl Project {
    /// A directory of its own, with a space in its name, holding `orch.toml`.
    pub fn new(configuration: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("orch test ")
            .tempdir()
            .expect("a temporary directory")
            .keep();
        fs::write(directory.join("orch.toml"), configuration).expect("write orch.toml");
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.join(".orch")
    }

    /// Starts orch here.
    pub fn orch(&self, arguments: &[&str]) -> Orch<'_> {
        self.orch_with(arguments, &[], Duration::from_secs(15))
    }

    /// Starts orch here as cron would: no variables but PATH and HOME.
    pub fn orch_bare(&self, arguments: &[&str]) -> Orch<'_> {
        let mut reaper = Command::new(python());
        let path = server::path_before(OsStr::new("/usr/bin:/bin"));
        reaper.env_clear().env("PATH", path).env("HOME", "/");
        self.start(
            reaper,
            &words(env!("CARGO_BIN_EXE_orch"), arguments),
            Duration::from_secs(15),
        )
    }

    /// Starts orch here with further variables; what is left is waited for `grace` after its end.
    pub fn orch_with(&self, arguments: &[&str], environment: &[(&str, &str)], grace: Duration) -> Orch<'_> {
        let mut reaper = reaper();
        reaper.envs(environment.iter().copied());
        self.start(reaper, &words(env!("CARGO_BIN_EXE_orch"), arguments), grace)
    }

    /// Starts a shell here in which `$ORCH` is orch; pid and exit code are the shell's.
    pub fn shell(&self, script: &str) -> Orch<'_> {
        self.shell_with(script, &[])
    }

    /// The same with further variables.
    pub fn shell_with(&self, script: &str, environment: &[(&str, &str)]) -> Orch<'_> {
        let mut reaper = reaper();
        reaper.envs(environment.iter().copied());
        reaper.env("ORCH", env!("CARGO_BIN_EXE_orch"));
        self.start(reaper, &words("/bin/sh", &["-c", script]), Duration::from_secs(15))
    }

    /// Starts this copy of orch here as another user, who must own the project.
    pub fn orch_as(&self, user: u32, program: &Path, arguments: &[&str]) -> Orch<'_> {
        let mut reaper = reaper();
        reaper.env("REAPER_USER", user.to_string()).env("HOME", &self.directory);
        let program = program.to_str().expect("a path of text");
        self.start(reaper, &words(program, arguments), Duration::from_secs(15))
    }

    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn start(&self, mut reaper: Command, words: &[&str], grace: Duration) -> Orch<'_> {
        // Not by what is there: a process that is killed at once has made no file yet.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = |suffix: &str| self.directory.join(format!("orch-{number}.{suffix}"));
        let (report, stdout, stderr) = (name("report"), name("stdout"), name("stderr"));
        let known = runs(&self.state_dir());
        let mut reaper = reaper
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/reaper.py"))
            .arg(&report)
            .arg(grace.as_secs_f64().to_string())
            .args([&stdout, &stderr])
            .args(words)
            .current_dir(&self.directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3 with tests/support/reaper.py");
        let mut line = String::new();
        BufReader::new(reaper.stdout.take().expect("its standard output"))
            .read_line(&mut line)
            .expect("read the pid");
        let pid = line.trim().parse().expect("a pid");
        Orch {
            project: self,
            reaper,
            pid,
            report,
            stdout,
            stderr,
            known,
        }
    }
}

/// The program that starts orch and waits for all that it leaves, in an environment in which orch finds a Redis server.
fn reaper() -> Command {
    let mut reaper = Command::new(python());
    reaper.env("PATH", server::path());
    reaper
}

fn words<'a>(program: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&[program], arguments].concat()
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.directory.display());
            print_logs(&self.directory);
        } else {
            fs::remove_dir_all(&self.directory).ok();
        }
    }
}

/// Prints every log and journal below `directory`, shortened to its end.
fn print_logs(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with(".venv") && !path.ends_with("out") {
                print_logs(&path);
            }
            continue;
        }
        let shown = ["log", "stdout", "stderr", "report"];
        if path
            .extension()
            .is_some_and(|extension| shown.contains(&extension.to_string_lossy().as_ref()))
        {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("----- {} ({} lines)", path.display(), lines.len());
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                eprintln!("{line}");
            }
        }
    }
}

/// The interpreter itself, by its path: what PATH names may be a script that needs further programs of the same PATH.
fn python() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let asked = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output();
        let told = asked.expect("start python3").stdout;
        PathBuf::from(String::from_utf8(told).expect("a path").trim())
    })
}

fn runs(state_dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(state_dir.join("runs"))
        .map(|runs| runs.flatten().map(|run| run.path()).collect())
        .unwrap_or_default()
}

/// A running orch.
pub struct Orch<'a> {
    project: &'a Project,
    reaper: Child,
    pub pid: i32,
    report: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Runs that were there before it.
    known: Vec<PathBuf>,
}

/// How it ended, and what it left.
#[derive(Debug)]
#[must_use]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// From its own end to the end of the last process that it had started.
    pub gone_after: Duration,
    /// What was still alive when the grace was over.
    pub left: Vec<String>,
    pub stdout: String,
    pub stderr: String,
    pub events: Vec<Value>,
}

impl Ended {
    /// Asserts the exit code and that nothing is left.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n{}\n{}\n{:#?}",
            self.stdout,
            self.stderr,
            self.events.last()
        );
        assert!(self.left.is_empty(), "left behind: {:?}", self.left);
        self
    }

    /// The events of one kind.
    pub fn events_of(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == kind).collect()
    }
}

impl Orch<'_> {
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        // Its zombie is reaped by its parent at once, but the pid is not reused within the tests' seconds.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
    }

    /// Sends a further Ctrl+C until it is taken for one: what comes together with the last counts once.
    #[track_caller]
    pub fn hurry(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.events().iter().any(|event| event["event"] == "stop_hurried") {
            assert!(Instant::now() < deadline, "the stop is not hurried: {}", self.stderr());
            self.signal(Signal::SIGINT);
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The directory of its run, once there is one.
    pub fn run_directory(&self) -> Option<PathBuf> {
        runs(&self.project.state_dir())
            .into_iter()
            .find(|run| !self.known.contains(run))
    }

    /// Its journal so far.
    pub fn events(&self) -> Vec<Value> {
        let Some(run) = self.run_directory() else {
            return Vec::new();
        };
        let text = fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for an event; panics with everything known when orch ends without it or the patience is over.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.reaper.try_wait().expect("ask for the reaper").is_some();
            let events = self.events();
            if let Some(event) = events.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
            assert!(!ended, "orch ended before: {what}\n{stdout}\n{stderr}");
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}\n{stdout}\n{stderr}\n{events:#?}"
            );
            // The journal is another process's file; looking again is the portable way to wait for a line in it.
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits for an event; `None` when orch ends without it. Panics when the patience is over.
    #[track_caller]
    pub fn wait_for_or_end(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.reaper.try_wait().expect("ask for the reaper").is_some();
            let found = self.events().into_iter().find(&wanted);
            if found.is_some() || ended {
                return found;
            }
            assert!(Instant::now() < deadline, "neither within {PATIENCE:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits for the event of this kind about this service.
    #[track_caller]
    pub fn wait_for_service(&mut self, kind: &str, service: &str) -> Value {
        self.wait_for(&format!("{kind} {service}"), |event| {
            event["event"] == kind && event["service"] == service
        })
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for its end and the report of what it left.
    #[track_caller]
    pub fn finish(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE * 3;
        while self.reaper.try_wait().expect("ask for the reaper").is_none() {
            let over = Instant::now() >= deadline;
            assert!(
                !over,
                "orch does not end\n{}\n{}",
                read(&self.stdout),
                read(&self.stderr)
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let report: Value = serde_json::from_str(&read(&self.report)).expect("the reaper's report");
        let number = |name: &str| report[name].as_i64().and_then(|number| i32::try_from(number).ok());
        let left = report["left"].as_array().into_iter().flatten();
        Ended {
            code: number("code"),
            signal: number("signal"),
            gone_after: Duration::from_secs_f64(report["gone_after"].as_f64().unwrap_or(f64::INFINITY)),
            left: left
                .map(|words| words.as_str().unwrap_or_default().to_owned())
                .collect(),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            events: self.events(),
        }
    }
}

impl Drop for Orch<'_> {
    fn drop(&mut self) {
        if self.reaper.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(nix::sys::signal::Signal::SIGKILL);
            self.reaper.wait().ok();
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
