//! A crash at every write: orch, its guard, or both are killed before, and in the middle of, each system call that changes
//! the state directory, and each of these calls is made to fail. After each the state directory must be whole, nothing
//! may be left, and `orch clean` and the next `orch up` must work.
//!
//! Not here: crashes at other moments; `tests/chaos` has those.
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod call;
mod tracer;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use call::{Actor, Call};
use tracer::{End, Fault, Victims, watch};

/// A service with a grandchild that has daemonised itself, and a port that is remembered.
const WEB: &str = r#"
[redis]
mode = "off"
[ports]
web = 0
[services.web]
command = ["sh", "-c", "setsid -f sleep 600; exec sleep 600"]
"#;

/// A Redis of orch's own, whose configuration orch writes.
const REDIS: &str = "[redis]\nmode = \"own\"\nport = 0\n";

/// For what has been killed to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory with a configuration, in which lives take place one after the other.
struct Place {
    directory: TempDir,
}

/// What one life of orch was.
struct Life {
    end: End,
    told: String,
}

impl Place {
    fn new(configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("orch.toml"), configuration).unwrap();
        Self { directory }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join(".orch")
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// Runs this command of orch call by call; one that comes up is asked to end.
    fn live(&self, argument: &str, fault: &mut dyn FnMut(&Call) -> Option<Fault>) -> Option<Life> {
        let output = fs::File::create(self.output()).unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_orch")])
            .arg(argument)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let state = self.state();
        match watch(&mut command, &state, &state.join("instance.json"), fault) {
            Ok(end) => Some(Life {
                end,
                told: fs::read_to_string(self.output()).unwrap(),
            }),
            Err(forbidden) => {
                eprintln!("skipped: no process may be traced here: {}", forbidden.0);
                None
            }
        }
    }

    /// Runs orch undisturbed; exit code and what it said.
    fn orch(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Processes that live here, by their working directory.
    fn alive(&self) -> Vec<i32> {
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

    fn wait_until_alone(&self, but: usize) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let alive = self.alive();
            if alive.len() <= but {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left behind: {alive:?}"));
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Every directory in which there is a file below the state directory.
    fn directories(&self) -> Vec<PathBuf> {
        let files = self.files();
        files.iter().map(|file| file.parent().unwrap().to_owned()).collect()
    }

    /// Every file below the state directory.
    fn files(&self) -> Vec<PathBuf> {
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

/// What is done to the lives of a campaign, one call after the other.
#[derive(Clone, Copy)]
struct Campaign {
    configuration: &'static str,
    /// `up`, which is asked to end once it is up, or `clean`.
    command: &'static str,
    /// The state directory has a history: the most runs that are kept, and what a dead run has left.
    aged: bool,
    /// The call may be hit.
    hits: fn(&Call) -> bool,
    fault: Fault,
    /// What becomes of calls after the one that was hit.
    afterwards: fn(&Call) -> Option<Fault>,
}

const ONCE: fn(&Call) -> Option<Fault> = |_| None;

impl Campaign {
    /// Hits the first call of a life, the second of another, until a life has no more.
    fn run(self, name: &str) {
        let began = Instant::now();
        let mut problems = Vec::new();
        let mut hits: BTreeMap<String, usize> = BTreeMap::new();
        for number in 1.. {
            let place = Place::new(self.configuration);
            if self.aged {
                age(&place);
            }
            let (mut seen, mut hit) = (0, None);
            let life = place.live(self.command, &mut |call| {
                if hit.is_some() {
                    return (self.afterwards)(call);
                }
                seen += usize::from((self.hits)(call));
                let due = seen == number;
                hit = due.then(|| call.clone());
                due.then_some(self.fault)
            });
            let Some(life) = life else { return };
            let Some(hit) = hit else {
                assert_eq!(life.end, self.undisturbed(), "undisturbed: {}", life.told);
                break;
            };
            let shown = place.shown(&hit);
            if let Err(problem) = self.judge(&place, &life, &hit, number) {
                problems.push(format!("call {number}, {shown}: {problem}\n{}", life.told));
            }
            *hits.entry(shown).or_default() += 1;
        }
        let count: usize = hits.values().sum();
        println!("{name}: {count} calls hit in {:?}", began.elapsed());
        for (call, count) in &hits {
            println!("    {count:3} {call}");
        }
        assert!(
            problems.is_empty(),
            "{} problems\n{}",
            problems.len(),
            problems.join("\n")
        );
    }

    fn undisturbed(self) -> End {
        End::Code(if self.command == "clean" { 0 } else { 143 })
    }

    /// Whether what followed is what is promised.
    fn judge(self, place: &Place, life: &Life, hit: &Call, number: usize) -> Result<(), String> {
        // Of both killed nobody is left to end what has daemonised.
        let stray = usize::from(matches!(
            self.fault,
            Fault::Kill(Victims::Both) | Fault::KillHalfway(Victims::Both)
        ));
        place.wait_until_alone(stray)?;
        match (self.fault, life.end) {
            (Fault::Kill(Victims::Orch | Victims::Both) | Fault::KillHalfway(Victims::Orch | Victims::Both), end) => {
                // The guard's last calls come when orch may have ended already.
                let ended = hit.actor == Actor::Guard && end == self.undisturbed();
                if end != End::Signal(Signal::SIGKILL) && !ended {
                    return Err(format!("killed, and ended with {end:?}"));
                }
            }
            (Fault::Kill(Victims::Guard) | Fault::KillHalfway(Victims::Guard), End::Code(3)) => {
                if !life.told.contains("guard") {
                    return Err("the guard's death is not told".to_owned());
                }
            }
            // After its goodbye nobody misses it.
            (Fault::Kill(Victims::Guard), End::Code(143)) if hit.name == "unlink" => {}
            (Fault::Fail(errno), end) if end == End::Code(3) || end == self.undisturbed() => {
                let why = std::io::Error::from(errno).to_string();
                if !place.told_anywhere(life).contains(&why) {
                    return Err(format!("`{why}` is not told; ended with {:?}", life.end));
                }
            }
            (Fault::Halve, end) if end == self.undisturbed() => {}
            // A process writes its own record, and cannot do so twice.
            (Fault::Halve, End::Code(3)) if hit.actor == Actor::Service => {}
            (_, end) => return Err(format!("ended with {end:?}")),
        }
        place.whole()?;
        // In turn, so that each also meets what the other would have mended.
        if number.is_multiple_of(2) {
            place.next_start()?;
            place.tidy(&[place.state(), place.state().join("redis")])?;
            place.clean()?;
        } else {
            place.clean()?;
            place.next_start()?;
        }
        place.tidy(&place.directories())
    }
}

impl Place {
    fn shown(&self, call: &Call) -> String {
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

    /// What orch and its guard said, to the user and in the logs.
    fn told_anywhere(&self, life: &Life) -> String {
        let logs = self.files().into_iter().filter(|file| file.ends_with("guard.log"));
        let logs = logs.map(|log| fs::read_to_string(log).unwrap_or_default());
        logs.fold(life.told.clone(), |all, log| all + &log)
    }

    /// No file is half of what it should be.
    fn whole(&self) -> Result<(), String> {
        for file in self.files() {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let whole = match name.as_str() {
                "version" => text == "1\n",
                "instance.json" | "ports.json" | "summary.json" => serde_json::from_str::<Value>(&text).is_ok(),
                // Appended to: the last line may be torn.
                "journal.jsonl" => {
                    let lines: Vec<&str> = text.split('\n').collect();
                    let (_, whole) = lines.split_last().unwrap();
                    let is_whole = |line: &&str| line.is_empty() || serde_json::from_str::<Value>(line).is_ok();
                    whole.iter().all(is_whole)
                }
                _ => true,
            };
            if !whole {
                return Err(format!("{} is not whole: {text:?}", file.display()));
            }
        }
        Ok(())
    }

    fn clean(&self) -> Result<(), String> {
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

    fn next_start(&self) -> Result<(), String> {
        let output = fs::File::create(self.output()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
        let mut orch = Command::new(env!("CARGO_BIN_EXE_orch"))
            .arg("up")
            .current_dir(self.directory.path())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let told = || fs::read_to_string(self.output()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut asked = false;
        let status = loop {
            if let Some(status) = orch.try_wait().unwrap() {
                break status;
            }
            if !asked && self.is_up(orch.id()) {
                asked = true;
                kill(Pid::from_raw(orch.id().cast_signed()), Signal::SIGTERM).unwrap();
            }
            if Instant::now() > deadline {
                orch.kill().unwrap();
            }
            std::thread::park_timeout(Duration::from_millis(1));
        };
        if status.code() != Some(143) {
            return Err(format!("the next start ended with {status}: {}", told()));
        }
        self.wait_until_alone(0)
    }

    /// Whether this orch has published how to use it.
    fn is_up(&self, orch: u32) -> bool {
        let text = fs::read(self.state().join("instance.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|instance| instance["pid"] == orch)
    }

    /// Nothing that should not survive a life has survived in these directories.
    fn tidy(&self, directories: &[PathBuf]) -> Result<(), String> {
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
fn age(place: &Place) {
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

fn of_orch(call: &Call) -> bool {
    call.actor == Actor::Orch
}

fn of_all(_: &Call) -> bool {
    true
}

const KILL_ORCH: Campaign = Campaign {
    configuration: WEB,
    command: "up",
    aged: false,
    hits: of_orch,
    fault: Fault::Kill(Victims::Orch),
    afterwards: ONCE,
};

#[test]
fn orch_killed_before_each() {
    KILL_ORCH.run("orch killed before each");
}

#[test]
fn orch_killed_before_each_in_a_directory_with_a_history() {
    let aged = Campaign {
        aged: true,
        ..KILL_ORCH
    };
    aged.run("orch killed before each, in a directory with a history");
}

#[test]
fn the_guard_killed_before_each_of_its_own() {
    let guard = Campaign {
        hits: |call| call.actor != Actor::Orch,
        fault: Fault::Kill(Victims::Guard),
        ..KILL_ORCH
    };
    guard.run("the guard killed before each of its own");
}

#[test]
fn both_killed_before_each() {
    let both = Campaign {
        hits: of_all,
        fault: Fault::Kill(Victims::Both),
        ..KILL_ORCH
    };
    both.run("orch and the guard killed before each");
}

#[test]
fn both_killed_in_the_middle_of_each() {
    let halfway = Campaign {
        hits: Call::writes,
        fault: Fault::KillHalfway(Victims::Both),
        ..KILL_ORCH
    };
    halfway.run("orch and the guard killed in the middle of each");
}

#[test]
fn each_refused_by_a_full_disk() {
    let refused = Campaign {
        hits: Call::needs_room,
        fault: Fault::Fail(Errno::ENOSPC),
        ..KILL_ORCH
    };
    refused.run("each refused for want of room");
}

#[test]
fn each_failing_by_a_bad_disk() {
    let refused = Campaign {
        hits: of_all,
        fault: Fault::Fail(Errno::EIO),
        ..KILL_ORCH
    };
    refused.run("each failing");
}

#[test]
fn each_cut_short() {
    let halved = Campaign {
        hits: Call::writes,
        fault: Fault::Halve,
        ..KILL_ORCH
    };
    halved.run("each cut short");
}

#[test]
fn a_disk_that_is_full_from_each_on() {
    let full = Campaign {
        hits: Call::needs_room,
        fault: Fault::Fail(Errno::ENOSPC),
        afterwards: |call| call.needs_room().then_some(Fault::Fail(Errno::ENOSPC)),
        ..KILL_ORCH
    };
    full.run("a disk that is full from each on");
}

const CLEAN: Campaign = Campaign {
    command: "clean",
    aged: true,
    ..KILL_ORCH
};

#[test]
fn clean_killed_before_each() {
    CLEAN.run("`orch clean` killed before each");
}

#[test]
fn clean_with_each_failing() {
    let failing = Campaign {
        fault: Fault::Fail(Errno::EIO),
        ..CLEAN
    };
    failing.run("`orch clean` with each failing");
}

/// What orch writes for Redis.
fn of_redis(call: &Call) -> bool {
    call.path.components().any(|word| word.as_os_str() == "redis")
}

#[test]
fn killed_before_each_about_redis() {
    let redis = Campaign {
        configuration: REDIS,
        hits: of_redis,
        ..KILL_ORCH
    };
    redis.run("orch killed before each about Redis");
}

#[test]
fn each_about_redis_failing() {
    let redis = Campaign {
        configuration: REDIS,
        hits: of_redis,
        fault: Fault::Fail(Errno::ENOSPC),
        ..KILL_ORCH
    };
    redis.run("each about Redis refused for want of room");
}
