//! Outputs: a terminal that is drawn on and given back, a closed pipe, outputs that take nothing.
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
use support::orch::{Project, WAIT_TIMEOUT, is_stopped, wait_until};
use support::watch::{self, Watch};

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

/// Control sequences: cursor hidden; and from the first column of the frame to the end of the screen erased, cursor
/// shown.
const HIDE_CURSOR: &str = "\x1b[?25l";
const GIVE_BACK: &str = "\r\x1b[J\x1b[?25h";
/// Written by the guard for an orch that was killed: colours off, the rest of the screen erased, cursor shown.
const GIVE_BACK_AFTER_KILL: &str = "\x1b[0m\x1b[J\x1b[?25h";

/// `orch up` with a standard output of the test.
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

    /// Sends SIGINT until the terminal shows this text: signals within a short time count once.
    fn interrupt_until(&self, terminal: &mut Terminal, wanted: &str) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !terminal.shows(wanted) {
            assert!(Instant::now() < deadline, "not shown: {wanted:?}\n{:?}", terminal.seen);
            self.signal(Signal::SIGINT);
        }
    }

    /// Waits for the end; returns the status, and the time from the call to the end.
    fn end(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let status = watch::exit(&mut self.0, WAIT_TIMEOUT);
        (status.expect("orch ends"), started.elapsed())
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

/// Waits for an event in the journal of the project's only run.
fn wait_for_event(project: &Project, wanted: &str) -> serde_json::Value {
    let find = || {
        let runs = std::fs::read_dir(project.state_dir().join("runs")).ok()?.flatten();
        let mut journals =
            runs.map(|run| std::fs::read_to_string(run.path().join("journal.jsonl")).unwrap_or_default());
        journals.find_map(|text| {
            let line = text.lines().find(|line| line.contains(wanted))?;
            Some(serde_json::from_str(line).unwrap())
        })
    };
    let found = Watch::new().until(WAIT_TIMEOUT, || project.watched_directories(), find);
    found.unwrap_or_else(|_| panic!("no event with {wanted}"))
}

/// Master side of a terminal, with the text that was written so far.
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
        let deadline = Instant::now() + WAIT_TIMEOUT;
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

    /// Returns whether the terminal shows this text now, or within some milliseconds.
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

    /// Returns everything that was written until no process has the terminal open any more.
    fn close(mut self) -> String {
        loop {
            match self.written.recv_timeout(WAIT_TIMEOUT) {
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
    terminal.wait_for("still running: slow");
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
    let guard = Pid::from_raw(guard_of(&project));
    // A guard that does not answer: only then does a stop last until the third signal.
    kill(guard, Signal::SIGSTOP).unwrap();
    orch.signal(Signal::SIGINT);
    terminal.wait_for("Ctrl+C again: skip grace periods");
    orch.interrupt_until(&mut terminal, "Ctrl+C exits at once");
    orch.interrupt_until(&mut terminal, GIVE_BACK);
    let (status, _) = orch.end();
    kill(guard, Signal::SIGCONT).unwrap();
    assert_eq!(status.code(), Some(130));
    let seen = terminal.close();
    assert!(seen.ends_with(GIVE_BACK), "{seen:?}");
}

/// Returns the pid of the guard of the project's only run.
fn guard_of(project: &Project) -> i32 {
    let started = wait_for_event(project, "run_started");
    started["guard_pid"].as_i64().unwrap().try_into().unwrap()
}

#[test]
fn the_guard_gives_the_terminal_of_a_killed_orch_back() {
    for leaves_reports_unread in [false, true] {
        let project = Project::new(CONFIGURATION);
        let (mut terminal, slave) = Terminal::open();
        let orch = Up::start(&project, slave);
        terminal.wait_for("all 2 services up");
        if leaves_reports_unread {
            let spawned = wait_for_event(&project, r#""event":"service_spawned","service":"web""#);
            let web = Pid::from_raw(spawned["pid"].as_i64().unwrap().try_into().unwrap());
            orch.signal(Signal::SIGSTOP);
            kill(web, Signal::SIGKILL).unwrap();
            // The guard reports the end of each process that it reaps.
            wait_until("the guard has reaped", || kill(web, None).is_err());
        }
        orch.signal(Signal::SIGKILL);
        orch.end();
        let seen = terminal.close();
        assert!(seen.contains(HIDE_CURSOR));
        assert_eq!(seen.matches(GIVE_BACK_AFTER_KILL).count(), 1, "{seen:?}");
        assert!(seen.ends_with(GIVE_BACK_AFTER_KILL), "{seen:?}");
    }
}

/// Starts orch in a terminal and suspends it by Ctrl+Z: the shell, and the next program, have the terminal.
fn suspended_up() -> (Project, Terminal, Up) {
    let project = Project::new(CONFIGURATION);
    let (mut terminal, slave) = Terminal::open();
    let orch = Up::start(&project, slave);
    terminal.wait_for("all 2 services up");
    orch.signal(Signal::SIGTSTP);
    let pid = orch.0.id().cast_signed();
    wait_until("orch is stopped", || is_stopped(pid));
    (project, terminal, orch)
}

#[test]
fn the_guard_writes_nothing_to_a_terminal_that_orch_does_not_use() {
    let (_project, terminal, orch) = suspended_up();
    orch.signal(Signal::SIGKILL);
    orch.end();
    let seen = terminal.close();
    assert!(seen.ends_with(GIVE_BACK), "{seen:?}");
    assert!(!seen.contains(GIVE_BACK_AFTER_KILL), "{seen:?}");

    let (_project, mut terminal, orch) = suspended_up();
    terminal.seen.clear();
    // `fg`: orch uses the terminal again.
    orch.signal(Signal::SIGCONT);
    terminal.wait_for("all 2 services up");
    orch.signal(Signal::SIGKILL);
    orch.end();
    let seen = terminal.close();
    assert!(seen.ends_with(GIVE_BACK_AFTER_KILL), "{seen:?}");
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_the_guard_of_a_killed_orch() {
    let project = Project::new(CONFIGURATION);
    let (pty, slave) = full_terminal();
    let orch = Up::start(&project, slave);
    wait_for_event(&project, r#""event":"service_ready","service":"slow""#);
    let guard = guard_of(&project);
    orch.signal(Signal::SIGKILL);
    orch.end();
    assert!(watch::ends(guard, STOP_TIMEOUT));
    drop(pty);
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

/// Upper bound of a stop: the stop is bounded by 0.7 s + 3 s, and the view waits at most 2 s; the rest is for a busy
/// machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_the_stop() {
    let project = Project::new(CONFIGURATION);
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // A pipe holds 64 KiB (pipe(7)): full, so that the first line blocks.
    writer.write_all(&vec![b'.'; 65536]).unwrap();
    let orch = Up::start(&project, writer);
    wait_for_event(&project, r#""event":"service_ready","service":"slow""#);
    orch.signal(Signal::SIGTERM);
    let (status, took) = orch.end();
    assert_eq!(status.code(), Some(143));
    assert!(took < STOP_TIMEOUT, "{took:?}");
}

/// Returns the master side of a terminal that accepts no more output, and the slave side.
fn full_terminal() -> (OwnedFd, File) {
    let pty = openpty(None, None).unwrap();
    fcntl(&pty.slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut slave = File::from(pty.slave);
    while slave.write(&[b'.'; 512]).is_ok() {}
    fcntl(&slave, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (pty.master, slave)
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_the_stop() {
    let project = Project::new(CONFIGURATION);
    let (master, slave) = full_terminal();
    let orch = Up::start(&project, slave);
    wait_for_event(&project, r#""event":"service_ready","service":"slow""#);
    orch.signal(Signal::SIGTERM);
    let (status, took) = orch.end();
    assert_eq!(status.code(), Some(143));
    assert!(took < STOP_TIMEOUT, "{took:?}");
    drop(master);
}

/// Configuration in which `dies` ends when the test creates a file, and again after the restart.
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

/// Returns the output of `orch up` while one of its two services is given up.
fn printed_while_one_dies(flag: &str) -> Vec<String> {
    let project = Project::new(ONE_DIES);
    let mut orch = project.orch(&["up", flag]);
    for service in ["stays", "dies"] {
        orch.wait_for_service("service_ready", service);
    }
    File::create(project.file("now")).unwrap();
    orch.wait_for_service("service_given_up", "dies");
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
        told("the other services keep running") && told("(exit code 143)"),
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

#[test]
fn a_working_directory_that_was_removed_is_named_and_a_whole_path_does_without() {
    let project = Project::new("[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"true\"]\n");
    let gone = "mkdir gone; cd gone; rmdir ../gone; exec \"$ORCH\"";
    let ended = project.shell(&format!("{gone} plan")).finish();
    ended.expect_code(2);
    assert!(
        ended.stderr.contains("could not find the working directory"),
        "{}",
        ended.stderr
    );
    let file = project.file("orch.toml");
    let ended = project
        .shell(&format!("{gone} plan --config '{}'", file.display()))
        .finish();
    assert!(ended.stderr.contains("configures no site"), "{}", ended.stderr);
}

#[test]
fn a_project_below_a_name_that_is_no_text_is_refused_before_anything_is_made() {
    let project = Project::new("[redis]\nmode = \"off\"\n[services.web]\ncommand = [\"true\"]\n");
    let script = "odd=$(printf 'odd\\377'); mkdir \"$odd\"; cp orch.toml \"$odd\"; cd \"$odd\"; exec \"$ORCH\" up";
    let ended = project.shell(script).finish();
    ended.expect_code(2);
    assert!(ended.stderr.contains("is not valid UTF-8"), "{}", ended.stderr);
    let made = std::fs::read_dir(project.path()).unwrap().flatten();
    for directory in made.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"odd")) {
        assert!(!directory.path().join(".orch").exists());
    }
}
