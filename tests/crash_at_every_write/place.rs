//! A directory with a configuration, in which several orch run one after the other, and the checks after each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::call::Call;
use crate::support::server;
use crate::support::skip::skip;
use crate::support::watch::{self, Watch};
use crate::tracer::{self, End, Fault};

/// Time in which killed processes must have ended.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Directory with a configuration, in which several orch run one after the other.
pub struct TestDirectory {
    directory: TempDir,
}

/// End and output of one orch.
pub struct Life {
    pub end: End,
    pub output: String,
}

impl TestDirectory {
    pub fn new(configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("orch.toml"), configuration).unwrap();
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join(".orch")
    }

    pub fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// Runs this command of orch call by call; `orch up` is asked to end once it is up.
    pub fn live(&self, argument: &str, fault: &mut dyn FnMut(&Call) -> Option<Fault>) -> Option<Life> {
        let output = fs::File::create(self.output()).unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_orch")])
            .arg(argument)
            .current_dir(self.directory.path())
            .env("PATH", server::path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let state = self.state();
        let up = (argument == "up").then(|| state.join("instance.json"));
        match tracer::watch(&mut command, &state, up.as_deref(), fault) {
            Ok(end) => Some(Life {
                end,
                output: fs::read_to_string(self.output()).unwrap(),
            }),
            Err(forbidden) => {
                skip(format_args!("no process may be traced here: {}", forbidden.0));
                None
            }
        }
    }

    /// Runs orch undisturbed; returns its exit code and its output.
    pub fn orch(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(arguments)
            .current_dir(self.directory.path())
            .env("PATH", server::path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Returns the processes with a working directory below this one.
    pub fn alive(&self) -> Vec<i32> {
        let here = self.directory.path().canonicalize().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|process| {
                let directory = fs::read_link(process.path().join("cwd"));
                directory.is_ok_and(|directory| directory.starts_with(&here))
            })
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .collect()
    }

    pub fn wait_until_alone(&self, but: usize) -> Result<(), String> {
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            let alive = self.alive();
            if alive.len() <= but {
                return Ok(());
            }
            if !watch::any_ends(&alive, deadline.saturating_duration_since(Instant::now())) {
                return Err(format!("left behind: {alive:?}"));
            }
        }
    }

    /// Returns every directory with a file below the state directory.
    pub fn directories(&self) -> Vec<PathBuf> {
        let files = self.files();
        files.iter().map(|file| file.parent().unwrap().to_owned()).collect()
    }

    /// Returns every file below the state directory.
    pub fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut pending) = (Vec::new(), vec![self.state()]);
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => pending.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found
    }
}

impl TestDirectory {
    pub fn shown(&self, call: &Call) -> String {
        let path = call.path.strip_prefix(self.directory.path()).unwrap_or(&call.path);
        let words: Vec<String> = path
            .to_string_lossy()
            .split('/')
            .map(|word| {
                let (word, number) = word.split_once(".being-written-by-").unwrap_or((word, ""));
                let is_run = word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
                let mark = if number.is_empty() { "" } else { ".being-written" };
                format!("{}{mark}", if is_run { "RUN" } else { word })
            })
            .collect();
        format!("{} {} by {:?}", call.name, words.join("/"), call.actor)
    }

    /// Returns the output of orch and the log of its guard.
    pub fn output_and_guard_log(&self, life: &Life) -> String {
        let logs = self.files().into_iter().filter(|file| file.ends_with("guard.log"));
        let logs = logs.map(|log| fs::read_to_string(log).unwrap_or_default());
        logs.fold(life.output.clone(), |all, log| all + &log)
    }

    /// Checks that no file is incomplete.
    pub fn whole(&self) -> Result<(), String> {
        for file in self.files() {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            // Other files are not written by orch, or are no text.
            let ours = [
                "version",
                "instance.json",
                "ports.json",
                "app-settings.json",
                "summary.json",
                "journal.jsonl",
            ];
            if !ours.contains(&name.as_str()) {
                continue;
            }
            let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let whole = match name.as_str() {
                "version" => text == "1\n",
                "instance.json" | "ports.json" | "app-settings.json" | "summary.json" => {
                    serde_json::from_str::<Value>(&text).is_ok()
                }
                // Lines are appended to this file: the last one may be incomplete.
                _ => {
                    let lines: Vec<&str> = text.split('\n').collect();
                    let (_, whole) = lines.split_last().unwrap();
                    let is_whole = |line: &&str| line.is_empty() || serde_json::from_str::<Value>(line).is_ok();
                    whole.iter().all(is_whole)
                }
            };
            if !whole {
                return Err(format!("{} is not whole: {text:?}", file.display()));
            }
        }
        Ok(())
    }

    pub fn clean(&self) -> Result<(), String> {
        for arguments in [&["clean", "--dry-run"][..], &["clean"]] {
            let (code, said) = self.orch(arguments);
            if code != Some(0) {
                return Err(format!("{arguments:?} ended with {code:?}: {said}"));
            }
            if arguments.len() == 1 {
                self.wait_until_alone(0)?;
                self.tidy(&self.directories())?;
            }
        }
        Ok(())
    }

    pub fn next_start(&self) -> Result<(), String> {
        let output = fs::File::create(self.output()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
        let mut orch = Command::new(env!("CARGO_BIN_EXE_orch"))
            .arg("up")
            .current_dir(self.directory.path())
            .env("PATH", server::path())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let output = || fs::read_to_string(self.output()).unwrap();
        let deadline = Instant::now() + END_TIMEOUT;
        let directories = || vec![self.path().to_owned(), self.state()];
        let is_up = || self.is_up(orch.id()).then_some(());
        if Watch::with_child(&orch).until(END_TIMEOUT, directories, is_up).is_ok() {
            kill(Pid::from_raw(orch.id().cast_signed()), Signal::SIGTERM).unwrap();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let status = watch::exit(&mut orch, left).unwrap_or_else(|| {
            orch.kill().unwrap();
            orch.wait().unwrap()
        });
        if status.code() != Some(143) {
            return Err(format!("the next start ended with {status}: {}", output()));
        }
        self.wait_until_alone(0)
    }

    /// Returns whether this orch has published `instance.json`.
    fn is_up(&self, orch: u32) -> bool {
        let text = fs::read(self.state().join("instance.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|instance| instance["pid"] == orch)
    }

    /// Checks that these directories have no file that should not survive a life.
    pub fn tidy(&self, directories: &[PathBuf]) -> Result<(), String> {
        let untidy = |file: &PathBuf| {
            let (directory, name) = (file.parent().unwrap(), file.file_name().unwrap().to_string_lossy());
            let stale = name.contains(".being-written-by-") || name == "instance.json";
            (stale && directories.iter().any(|one| one == directory)) || directory == self.state().join("pids")
        };
        match self.files().iter().find(|file| untidy(file)) {
            Some(file) => Err(format!("{} is still there", file.display())),
            None => Ok(()),
        }
    }
}

/// Gives the state directory a history.
pub fn age(place: &TestDirectory) {
    let state = place.state();
    for run in 0..20 {
        let directory = state.join(format!("runs/{run:012x}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("journal.jsonl"), "").unwrap();
    }
    fs::create_dir(state.join("pids")).unwrap();
    for (name, text) in [
        ("version", "1\n"),
        ("pids/00000000000a", "boot of-another-start\n7 99 web\n"),
        ("instance.json.being-written-by-2147483647", "{"),
        ("ports.json.being-written-by-2147483647", ""),
        ("services.lock", "{\"pid\":7,"),
    ] {
        fs::write(state.join(name), text).unwrap();
    }
}
