//! Where the output goes: a terminal that is drawn on and given back, a closed pipe, outputs that take nothing.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::orch::{PATIENCE, Project};

const CONFIGURATION: &str = r#"
[redis]
mode = "off"
[services.web]
kind = "daemon"
command = ["sleep", "600"]
[services.slow]
kind = "daemon"
command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
readiness = { log = "up" }
grace = "700ms"
"#;

/// Hidden, shown; from the frame's first column to the end of the screen.
const HIDE_CURSOR: &str = "\x1b[?25l";
const GIVE_BACK: &str = "\r\x1b[J\x1b[?25h";

/// An `orch up` with a standard output of the test's choice.
struct Up(Child);

impl Up {
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn start(project: &Project, stdout: impl Into<Stdio>) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_orch"))
            .arg("up")
            .current_dir(project.path())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env_remove("ORCH_LOG")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(project.file("orch.stderr")).unwrap())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// Presses Ctrl+C until the terminal shows this: what comes together with the last one counts once.
    fn interrupt_until(&self, terminal: &mut Terminal, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !terminal.shows(wanted) {
            assert!(Instant::now() < deadline, "not shown: {wanted:?}\n{:?}", terminal.seen);
            self.signal(Signal::SIGINT);
        }
    }

    /// Its exit code, and how long it took from here.
    fn end(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status, started.elapsed());
            }
            assert!(started.elapsed() < PATIENCE, "orch does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

/// The events of the project's one run, as far as they are written.
fn wait_for_event(project: &Project, wanted: &str) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let runs = std::fs::read_dir(project.state_dir().join("runs"))
            .into_iter()
            .flatten()
            .flatten();
        for run in runs {
            let text = std::fs::read_to_string(run.path().join("journal.jsonl")).unwrap_or_default();
            if let Some(line) = text.lines().find(|line| line.contains(wanted)) {
                return serde_json::from_str(line).unwrap();
            }
        }
        assert!(Instant::now() < deadline, "no event with {wanted}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The master side of a terminal: what was written to it so far.
struct Terminal {
    written: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open() -> (Self, OwnedFd) {
        let size = Winsize {
            ws_row: 20,
            ws_col: 70,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let (sender, written) = channel();
        let mut master = File::from(pty.master);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO: the last writer is gone.
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let terminal = Self {
            written,
            seen: String::new(),
        };
        (terminal, pty.slave)
    }

    fn wait_for(&mut self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(wanted) {
            match self
                .written
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error}, not shown: {wanted:?}\n{:?}", self.seen),
            }
        }
    }

    /// Whether it shows this by now, or within some milliseconds.
    fn shows(&mut self, wanted: &str) -> bool {
        let until = Instant::now() + Duration::from_millis(50);
        while let Ok(bytes) = self
            .written
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        self.seen.contains(wanted)
    }

    /// All that was written until nobody has it open any more.
    fn close(mut self) -> String {
        loop {
            match self.written.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => return self.seen,
                Err(RecvTimeoutError::Timeout) => panic!("the terminal is still open"),
            }
        }
    }
}

#[test]
fn a_terminal_is_drawn_on_and_given_back() {
    let project = Project::new(CONFIGURATION);
    let (mut terminal, slave) = Terminal::open();
    let orch = Up::start(&project, slave);
    terminal.wait_for("all 2 services up; Ctrl+C stops");
    assert!(terminal.seen.contains(HIDE_CURSOR));
    orch.signal(Signal::SIGINT);
    terminal.wait_for("still there: slow");
    let (status, _) = orch.end();
    assert_eq!(status.code(), Some(130));
    let seen = terminal.close();
    assert_eq!(seen.matches(GIVE_BACK).count(), 1, "{seen:?}");
    assert!(seen.trim_end().ends_with(GIVE_BACK), "nothing is drawn after: {seen:?}");
    assert!(seen.contains("interrupted after"), "{seen:?}");
}

#[test]
fn the_third_signal_gives_the_terminal_back_too() {
    let project = Project::new(CONFIGURATION);
    let (mut terminal, slave) = Terminal::open();
    let orch = Up::start(&project, slave);
    terminal.wait_for("all 2 services up");
    let guard = wait_for_event(&project, "run_started")["guard_pid"].as_i64().unwrap();
    let guard = Pid::from_raw(guard.try_into().unwrap());
    // A guard that does not answer: only so does a stop last until the third signal.
    kill(guard, Signal::SIGSTOP).unwrap();
    orch.signal(Signal::SIGINT);
    terminal.wait_for("Ctrl+C again: without grace");
    orch.interrupt_until(&mut terminal, "Ctrl+C leaves at once");
    orch.interrupt_until(&mut terminal, GIVE_BACK);
    let (status, _) = orch.end();
    kill(guard, Signal::SIGCONT).unwrap();
    assert_eq!(status.code(), Some(130));
    let seen = terminal.close();
    assert!(seen.ends_with(GIVE_BACK), "{seen:?}");
}

#[test]
fn a_closed_pipe_ends_the_view_and_not_the_run() {
    let project = Project::new(CONFIGURATION);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let orch = Up::start(&project, writer);
    reader.read_exact(&mut [0]).unwrap();
    drop(reader);
    wait_for_event(&project, r#""event":"service_ready","service":"slow""#);
    orch.signal(Signal::SIGTERM);
    assert_eq!(orch.end().0.code(), Some(143));
    wait_for_event(&project, "run_finished");
}

/// The stop is bounded by 0.7 s + 3 s here, and the view's patience is 2 s; the rest is for a busy machine.
const STOP_AND_PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_the_stop() {
    let project = Project::new(CONFIGURATION);
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // A pipe holds 64 KiB (pipe(7)): full, so that the first line blocks.
    writer.write_all(&[b'.'; 65536]).unwrap();
    let orch = Up::start(&project, writer);
    wait_for_event(&project, r#""event":"service_ready","service":"slow""#);
    orch.signal(Signal::SIGTERM);
    let (status, took) = orch.end();
    assert_eq!(status.code(), Some(143));
    assert!(took < STOP_AND_PATIENCE, "{took:?}");
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_the_stop() {
    let project = Project::new(CONFIGURATION);
    let pty = openpty(None, None).unwrap();
    fcntl(&pty.slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut slave = File::from(pty.slave);
    while slave.write(&[b'.'; 512]).is_ok() {}
    fcntl(&slave, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let orch = Up::start(&project, slave);
    wait_for_event(&project, r#""event":"service_ready","service":"slow""#);
    orch.signal(Signal::SIGTERM);
    let (status, took) = orch.end();
    assert_eq!(status.code(), Some(143));
    assert!(took < STOP_AND_PATIENCE, "{took:?}");
    drop(pty.master);
}

/// `dies` ends when the test says so, and again when it was started again.
const ONE_DIES: &str = r#"
[redis]
mode = "off"
[services.stays]
kind = "daemon"
command = ["sleep", "600"]
[services.dies]
kind = "daemon"
command = ["sh", "-c", "until [ -e now ]; do sleep 0.02; done; exit 3"]
restart = { limit = 1 }
"#;

/// What `orch up` prints while one of its two services is given up.
fn printed_while_one_dies(flag: &str) -> Vec<String> {
    let project = Project::new(ONE_DIES);
    let mut orch = project.orch(&["up", flag]);
    for service in ["stays", "dies"] {
        orch.wait_for_service("service_ready", service);
    }
    File::create(project.file("now")).unwrap();
    orch.wait_for("the notice", |event| event["event"] == "noticed");
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    ended.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_quiet_view_tells_failures_and_nothing_else() {
    let lines = printed_while_one_dies("-q");
    assert!(
        lines[0].contains("error: ") && lines[0].contains("`dies`"),
        "{lines:#?}"
    );
    let told = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(
        told("the other services are kept up") && told("(exit code 143)"),
        "{lines:#?}"
    );
    assert!(!told("stays") && !told("ready"), "{lines:#?}");
}

#[test]
fn a_verbose_view_tells_each_step() {
    let lines = printed_while_one_dies("-v");
    for step in ["stays starting", "stays has pid ", "stays ready", "dies has pid "] {
        assert!(lines.iter().any(|line| line.contains(step)), "{step}: {lines:#?}");
    }
}
