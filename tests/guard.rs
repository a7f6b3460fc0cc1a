//! The guard alone, with the test in the place of orch: its reports, the orders that it refuses, the failures that it
//! survives.
//!
//! orch and its guard together are tested in `up` and `guard_killed`.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

mod support;
use support::silent_files::SilentFiles;
use support::watch;

/// Time that any step may take on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Guard whose orch is the test.
struct Guard {
    child: Child,
    socket: UnixStream,
    reports: BufReader<UnixStream>,
    directory: TempDir,
}

impl Guard {
    fn start() -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_orch")).arg("guard"))
    }

    /// Starts the guard by a command that becomes `orch guard`, with its socket as standard input.
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn start_by(command: &mut Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (socket, theirs) = UnixStream::pair().unwrap();
        let child = command
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("guard.log")).unwrap())
            .spawn()
            .unwrap();
        // The command would keep the guard's end of the socket open.
        command.stdin(Stdio::null());
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let reports = BufReader::new(socket.try_clone().unwrap());
        Self {
            child,
            socket,
            reports,
            directory,
        }
    }

    fn greet(&mut self) {
        let hello = json!({"run_id": "a1b2c3", "state_dir": self.directory.path()});
        self.order(&hello);
    }

    fn begun(mut self) -> Self {
        self.greet();
        assert_eq!(self.report()["report"], "started");
        self
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn order(&mut self, order: &Value) {
        let line = format!("{order}\n");
        self.socket.write_all(line.as_bytes()).unwrap();
    }

    /// Returns an order to spawn; fields that are not set have defaults.
    fn spawn_order(&self, service: &str, argv: &[&str]) -> Value {
        json!({
            "order": "spawn",
            "service": service,
            "argv": argv,
            "environment": [["PATH", std::env::var("PATH").unwrap()]],
            "directory": self.directory.path(),
            "log": self.file("service.log"),
            "stop": {"rank": 0, "steps": [{"signal": 15, "grace": {"secs": 10, "nanos": 0}}]},
        })
    }

    fn spawn(&mut self, service: &str, argv: &[&str]) -> i32 {
        self.order(&self.spawn_order(service, argv));
        let spawned = self.report();
        assert_eq!(
            (&spawned["report"], &spawned["service"]),
            (&"spawned".into(), &service.into())
        );
        i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap()
    }

    fn report(&mut self) -> Value {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the guard has ended: {}", self.log());
        serde_json::from_str(&line).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("guard.log")).unwrap()
    }

    /// Waits for the end of the guard, which comes only after the end of all of its processes; returns whether the
    /// guard succeeded.
    fn wait(&mut self) -> bool {
        let status = watch::exit(&mut self.child, WAIT_TIMEOUT);
        status
            .unwrap_or_else(|| panic!("it does not end: {}", self.log()))
            .success()
    }

    fn stop_all(&mut self) {
        self.order(&json!({"order": "stop_all"}));
        while self.report()["report"] != "all_gone" {}
        self.order(&json!({"order": "goodbye"}));
        assert!(self.wait(), "{}", self.log());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the guard's log:\n{}", self.log());
        }
        // The closed socket orders the guard to end everything.
        self.socket.shutdown(std::net::Shutdown::Both).ok();
        if !std::thread::panicking() {
            self.wait();
        }
    }
}

fn lives(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')
}

const SLEEP: [&str; 2] = ["sleep", "600"];

#[test]
fn reports_that_nobody_reads_do_not_stop_it() {
    let mut guard = Guard::start().begun();
    let pid = guard.spawn("web", &SLEEP);
    // Far more orders than a socket holds; each is answered by a report.
    let nobody = "x".repeat(1000);
    for _ in 0..3000 {
        guard.order(&json!({"order": "stop", "service": nobody}));
    }
    let closed = Instant::now();
    guard.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(guard.wait(), "{}", guard.log());
    assert!(!lives(pid));
    assert!(closed.elapsed() < Duration::from_secs(3), "{:?}", closed.elapsed());
}

#[test]
fn an_execution_that_a_dead_file_system_holds_up_holds_up_nothing_else() {
    let mut guard = Guard::start().begun();
    let Some(files) = SilentFiles::mount(guard.file("dead")) else {
        guard.stop_all();
        return;
    };
    let program = guard.file("dead/program");
    guard.order(&guard.spawn_order("hung", &[program.to_str().unwrap()]));
    let mut in_dead_directory = guard.spawn_order("lost", &SLEEP);
    in_dead_directory["directory"] = json!(guard.file("dead/directory"));
    guard.order(&in_dead_directory);
    // The first report, since this is the only one of the services that is started.
    let pid = guard.spawn("web", &SLEEP);
    guard.order(&json!({"order": "stop", "service": "web"}));
    assert_eq!(guard.report()["report"], "exited");
    assert_eq!(guard.report(), json!({"report": "gone", "service": "web"}));
    assert!(!lives(pid));
    for service in ["hung", "lost"] {
        guard.order(&json!({"order": "stop", "service": service}));
    }
    // The process is killed at once, and can end when the file system does.
    drop(files);
    let mut gone = 0;
    while gone < 2 {
        gone += i32::from(guard.report()["report"] == "gone");
    }
    guard.stop_all();
}

#[test]
fn an_execution_that_does_not_come_about_is_reported_in_time() {
    let mut guard = Guard::start().begun();
    let Some(files) = SilentFiles::mount(guard.file("dead")) else {
        guard.stop_all();
        return;
    };
    let program = guard.file("dead/program");
    guard.order(&guard.spawn_order("hung", &[program.to_str().unwrap()]));
    let failed = guard.report();
    assert_eq!(
        (&failed["report"], &failed["service"]),
        (&"spawn_failed".into(), &"hung".into())
    );
    assert!(
        failed["error"].as_str().unwrap().contains("does not answer"),
        "{failed}"
    );
    // A guard that is killed in this state closes the socket, although the child cannot end.
    guard.child.kill().unwrap();
    let mut rest = String::new();
    assert_eq!(guard.reports.read_line(&mut rest).unwrap(), 0, "{rest}");
    drop(files);
}

#[test]
fn late_readers_get_every_report() {
    let mut guard = Guard::start().begun();
    let nobody = "x".repeat(1000);
    for _ in 0..3000 {
        guard.order(&json!({"order": "stop", "service": nobody}));
    }
    for _ in 0..3000 {
        assert_eq!(guard.report()["report"], "gone");
    }
    guard.stop_all();
}

#[test]
fn an_end_by_a_real_time_signal_is_an_end() {
    let mut guard = Guard::start().begun();
    guard.spawn("odd", &["python3", "-c", "import os; os.kill(os.getpid(), 40)"]);
    let exited = guard.report();
    assert_eq!(exited["ended"]["signal"]["signal"], 40, "{exited}");
    assert_eq!(guard.report()["report"], "gone");
    guard.spawn("next", &["true"]);
    assert_eq!(guard.report()["ended"]["code"], 0);
    guard.stop_all();
}

/// Shows that the guard waits for its children: after a caller that ignores SIGCHLD, a process has no zombies to wait
/// for.
#[test]
fn a_caller_that_ignores_sigchld_changes_nothing() {
    let ignoring =
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    let mut guard =
        Guard::start_by(Command::new("python3").args(["-c", ignoring, env!("CARGO_BIN_EXE_orch"), "guard"])).begun();
    guard.spawn("short", &["sh", "-c", "exit 7"]);
    assert_eq!(guard.report()["ended"]["code"], 7);
    assert_eq!(guard.report()["report"], "gone");
    guard.stop_all();
}

#[test]
fn what_cannot_be_started_says_why() {
    let mut guard = Guard::start().begun();
    fs::write(guard.file("text"), "no program").unwrap();
    let cases: [(Value, &str); 7] = [
        (
            json!({"argv": ["no-such-program"]}),
            "`no-such-program` is not found in PATH (/",
        ),
        (
            json!({"argv": ["no-such-program"], "environment": []}),
            "`no-such-program` is not found in PATH (not set)",
        ),
        (json!({"argv": ["./missing"]}), "`./missing` does not exist"),
        (json!({"argv": ["./text"]}), "`./text` may not be executed"),
        (
            json!({"directory": "/no/such/place"}),
            "the directory /no/such/place does not exist",
        ),
        (json!({"log": "/no/such/place/log"}), "open its log /no/such/place/log"),
        (json!({"argv": []}), "no program"),
    ];
    for (change, expected) in cases {
        let mut order = guard.spawn_order("web", &["true"]);
        for (key, value) in change.as_object().unwrap() {
            order[key] = value.clone();
        }
        guard.order(&order);
        let report = guard.report();
        assert_eq!(report["report"], "spawn_failed", "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}\n  is not: {expected}");
    }
    guard.stop_all();
}
