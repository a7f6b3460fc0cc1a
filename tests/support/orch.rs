//! One `orch`, started from the binary under test and observed from outside: its journal, its output, its leftovers.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::watch::{Unmet, Watch};
use super::{server, wait, watch};

/// Time that a step of a test may take on a busy machine with two cores.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns whether a process runs; a zombie does not run.
pub fn lives(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Returns whether a process is stopped, such as by SIGSTOP.
pub fn is_stopped(pid: i32) -> bool {
    state(pid) == Some('T')
}

/// Kills orch and its guard at the same instant: both are stopped first, with all of their threads, so that neither can
/// react to the death of the other.
#[track_caller]
pub fn kill_both_at_once(orch: i32, guard: i32) {
    let both = [guard, orch];
    for pid in both {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("could not stop orch and its guard");
    }
    wait_until("orch and its guard stopped", || {
        both.into_iter().all(is_stopped_with_all_threads)
    });
    for pid in both {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("could not kill orch and its guard");
    }
}

/// Returns whether a process is stopped with all threads: each thread needs a processor to stop.
fn is_stopped_with_all_threads(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of a process");
    threads
        .flatten()
        .all(|thread| state_in(&thread.path().join("stat")) == Some('T'))
}

/// Returns the state of a process as the letter of the kernel.
fn state(pid: i32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}/stat")))
}

fn state_in(stat: &Path) -> Option<char> {
    let stat = fs::read_to_string(stat).ok()?;
    // The name of the program comes before and may contain any characters.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Waits until a condition holds that no event announces; panics after [`WAIT_TIMEOUT`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait::until(what, WAIT_TIMEOUT, || condition().then_some(()));
}

/// Directory with a configuration. The end of the test removes the directory, unless the test fails: then the logs are
/// printed.
pub struct Project {
    directory: PathBuf,
}

impl Project {
    /// Creates a directory with a space in its name, with `orch.toml` in it.
    pub fn new(configuration: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("orch test ")
            .tempdir()
            .expect("a temporary directory")
            .keep();
        fs::write(directory.join("orch.toml"), configuration).expect("could not write orch.toml");
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

    /// Waits until this file of the project exists.
    #[track_caller]
    pub fn wait_for_file(&self, name: &str) {
        watch::file(&self.file(name), WAIT_TIMEOUT);
    }

    /// Returns the directories in which orch writes its output, its journal and the files that describe the instance.
    pub fn watched_directories(&self) -> Vec<PathBuf> {
        let runs = self.state_dir().join("runs");
        let fixed = [self.directory.clone(), self.state_dir(), runs];
        fixed.into_iter().chain(runs_in(&self.state_dir())).collect()
    }

    /// Starts orch in the project.
    pub fn orch(&self, arguments: &[&str]) -> Orch<'_> {
        self.orch_with(arguments, &[], Duration::from_secs(15))
    }

    /// Starts orch in the project as cron does: with no variables but PATH and HOME.
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

    /// Starts orch in the project with further variables; `grace` is the time after its end in which the last process
    /// must end.
    pub fn orch_with(&self, arguments: &[&str], environment: &[(&str, &str)], grace: Duration) -> Orch<'_> {
        let mut reaper = reaper();
        reaper.envs(environment.iter().copied());
        self.start(reaper, &words(env!("CARGO_BIN_EXE_orch"), arguments), grace)
    }

    /// Starts a shell in the project in which `$ORCH` is orch; pid and exit code are those of the shell.
    pub fn shell(&self, script: &str) -> Orch<'_> {
        self.shell_with(script, &[])
    }

    /// Starts a shell as [`Project::shell`] does, with further variables.
    pub fn shell_with(&self, script: &str, environment: &[(&str, &str)]) -> Orch<'_> {
        let mut reaper = reaper();
        reaper.envs(environment.iter().copied());
        reaper.env("ORCH", env!("CARGO_BIN_EXE_orch"));
        self.start(reaper, &words("/bin/sh", &["-c", script]), Duration::from_secs(15))
    }

    /// Starts this copy of orch in the project as another user, the owner of the project.
    pub fn orch_as(&self, user: u32, program: &Path, arguments: &[&str]) -> Orch<'_> {
        let mut reaper = reaper();
        reaper.env("REAPER_USER", user.to_string()).env("HOME", &self.directory);
        let program = program.to_str().expect("a path of text");
        self.start(reaper, &words(program, arguments), Duration::from_secs(15))
    }

    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn start(&self, mut reaper: Command, words: &[&str], grace: Duration) -> Orch<'_> {
        // Not from the existing files: a process that was killed at once has created none.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = |suffix: &str| self.directory.join(format!("orch-{number}.{suffix}"));
        let (report, stdout, stderr) = (name("report"), name("stdout"), name("stderr"));
        let known = runs_in(&self.state_dir());
        let mut reaper = reaper
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/reaper.py"))
            .arg(&report)
            .arg(grace.as_secs_f64().to_string())
            .args([&stdout, &stderr])
            .args(words)
            .current_dir(&self.directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("could not start python3 with tests/support/reaper.py");
        let mut line = String::new();
        BufReader::new(reaper.stdout.take().expect("its standard output"))
            .read_line(&mut line)
            .expect("could not read the pid");
        let pid = line.trim().parse().expect("a pid");
        Orch {
            project: self,
            watch: Watch::with_child(&reaper),
            reaper,
            pid,
            report,
            stdout,
            stderr,
            known,
        }
    }
}

/// Returns the program that starts orch and waits for all of its leftovers, in an environment in which orch finds a
/// Redis server.
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

/// Prints the end of every log and journal below `directory`.
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

/// Returns the path of the interpreter itself: the program in PATH may be a script that needs further programs of the
/// same PATH.
fn python() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let asked = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output();
        let path = asked.expect("could not start python3").stdout;
        PathBuf::from(String::from_utf8(path).expect("a path").trim())
    })
}

fn runs_in(state_dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(state_dir.join("runs"))
        .map(|runs| runs.flatten().map(|run| run.path()).collect())
        .unwrap_or_default()
}

/// Running orch.
pub struct Orch<'a> {
    project: &'a Project,
    reaper: Child,
    /// Watch on the project and on the end of the reaper, which ends after orch.
    watch: Watch,
    pub pid: i32,
    report: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Runs that existed before the start of this orch.
    known: Vec<PathBuf>,
}

/// End of an orch, and its leftovers.
#[derive(Debug)]
#[must_use]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Time from the end of orch to the end of the last process that it had started.
    pub gone_after: Duration,
    /// Processes that still lived at the end of the grace period.
    pub left: Vec<String>,
    pub stdout: String,
    pub stderr: String,
    pub events: Vec<Value>,
}

impl Ended {
    /// Asserts the exit code, and that no process is left.
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

    /// Returns the events of one kind.
    pub fn events_of(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == kind).collect()
    }
}

impl Orch<'_> {
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        // The reaper reaps orch at once, but the pid is not reused within the seconds of a test.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
    }

    /// Sends SIGINT until orch counts one as a second Ctrl+C: signals within a short time count once.
    #[track_caller]
    pub fn hurry(&mut self) {
        wait::until("the stop is hurried", WAIT_TIMEOUT, || {
            let is_hurried = self.events().iter().any(|event| event["event"] == "stop_hurried");
            if !is_hurried {
                self.signal(Signal::SIGINT);
            }
            is_hurried.then_some(())
        });
    }

    /// Returns the directory of the run, once it exists.
    pub fn run_directory(&self) -> Option<PathBuf> {
        runs_in(&self.project.state_dir())
            .into_iter()
            .find(|run| !self.known.contains(run))
    }

    fn journal(&self) -> Option<PathBuf> {
        Some(self.run_directory()?.join("journal.jsonl"))
    }

    /// Returns the events of its journal so far.
    pub fn events(&self) -> Vec<Value> {
        let Some(journal) = self.journal() else {
            return Vec::new();
        };
        let text = fs::read_to_string(journal).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for an event; panics with all output when orch ends without the event or the time is over.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(wanted).unwrap_or_else(|unmet| self.fail(what, unmet))
    }

    /// Waits until a condition on files of the project holds; panics as [`Orch::wait_for`] does.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let holds = self.wait_within(WAIT_TIMEOUT, &[], || condition().then_some(()));
        holds.unwrap_or_else(|unmet| self.fail(what, unmet));
    }

    #[track_caller]
    fn fail(&self, what: &str, unmet: Unmet) -> ! {
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        match unmet {
            Unmet::ProcessEnded => panic!("orch ended before: {what}\n{stdout}\n{stderr}"),
            Unmet::TimedOut => {
                let events = self.events();
                panic!("not within {WAIT_TIMEOUT:?}: {what}\n{stdout}\n{stderr}\n{events:#?}")
            }
        }
    }

    /// Waits until the journal has an event for which `wanted` holds.
    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Unmet> {
        // Most changes in the watched directories do not concern the journal.
        let mut parsed = None;
        self.wait_within(WAIT_TIMEOUT, &[], || {
            let length = self.journal().and_then(|journal| journal.metadata().ok())?.len();
            if parsed.replace(length) == Some(length) {
                return None;
            }
            self.events().into_iter().find(&wanted)
        })
    }

    /// Waits until `condition` returns a value; the condition depends on files of the project or of these further
    /// directories.
    ///
    /// # Errors
    /// orch has ended, or the time is over, and the condition has returned no value.
    pub fn wait_within<T>(
        &self,
        timeout: Duration,
        further: &[PathBuf],
        condition: impl FnMut() -> Option<T>,
    ) -> Result<T, Unmet> {
        let directories = || [self.project.watched_directories(), further.to_owned()].concat();
        self.watch.until(timeout, directories, condition)
    }

    /// Waits for an event; returns `None` when orch ends without it.
    #[track_caller]
    pub fn wait_for_or_end(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        match self.find(wanted) {
            Ok(event) => Some(event),
            Err(Unmet::ProcessEnded) => None,
            Err(Unmet::TimedOut) => panic!("neither the event nor the end of orch within {WAIT_TIMEOUT:?}"),
        }
    }

    /// Waits for the event of this kind about this service.
    #[track_caller]
    pub fn wait_for_service(&mut self, kind: &str, service: &str) -> Value {
        self.wait_for(&format!("{kind} {service}"), |event| {
            event["event"] == kind && event["service"] == service
        })
    }

    /// Returns the standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for the end of orch and for the report on its leftovers.
    #[track_caller]
    pub fn finish(mut self) -> Ended {
        let status = watch::exit(&mut self.reaper, WAIT_TIMEOUT * 3);
        assert!(
            status.is_some(),
            "orch does not end\n{}\n{}",
            read(&self.stdout),
            read(&self.stderr)
        );
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
