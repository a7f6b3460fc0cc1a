//! Child process of a test: the drop kills the process; when the test fails, the log is printed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{wait, watch};

/// Number of bytes of a log that a failing test prints.
const LOG_TAIL: usize = 8 * 1024;

pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a command with both output streams appended to `log`.
    #[expect(clippy::disallowed_methods, reason = "the one place where tests start servers")]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .expect("a log in the test's own directory")
        };
        let child = command.stdin(Stdio::null()).stdout(open()).stderr(open()).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("the process is ours and not yet reaped");
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    /// Returns the exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `ready` holds; panics when the process ends before that, or after `limit`.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut ready: impl FnMut(&Self) -> bool) {
        let outcome = wait::within(limit, || {
            if ready(self) {
                return Some(Ok(()));
            }
            self.ended().map(Err)
        });
        match outcome {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!(
                "{} ended with {status} before it {what}:\n{}",
                self.name,
                tail(&self.log())
            ),
            None => panic!("{} has not {what} after {limit:?}", self.name),
        }
    }

    /// Waits for the end of the process; panics after `limit`.
    #[track_caller]
    pub fn wait_for_end(&mut self, limit: Duration) -> ExitStatus {
        let status = watch::exit(&mut self.child, limit);
        status.unwrap_or_else(|| panic!("{} has not ended after {limit:?}:\n{}", self.name, tail(&self.log())))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {} (pid {}), end of its log:\n{}\n---",
                self.name,
                self.pid(),
                tail(&self.log())
            );
        }
        if self.ended().is_none() {
            self.kill();
        }
    }
}

fn tail(log: &str) -> &str {
    let start = log.len().saturating_sub(LOG_TAIL);
    let start = (start..log.len())
        .find(|index| log.is_char_boundary(*index))
        .unwrap_or(log.len());
    &log[start..]
}
