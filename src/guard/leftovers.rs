//! Ending what dead runs have left: by pid and start time from their records, and by the run id in the environment.
//!
//! Never by name. A pid is held by a pidfd while it is checked who has it, so that its reuse cannot hit a stranger.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process_table::{self, Process};
use super::records::{self, DeadRun};
use super::{RUN_ID_VARIABLE, SERVICE_VARIABLE};

/// How long the end of killed processes is awaited.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Pid and service of each process.
    pub ended: Vec<(i32, String)>,
    /// What lives on, though it was told to end: the next start tries again.
    pub alive: Vec<(i32, String)>,
}

impl Leftovers {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.alive.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |processes: &[(i32, String)]| {
            let names: Vec<String> = processes
                .iter()
                .map(|(pid, service)| format!("{service} ({pid})"))
                .collect();
            names.join(", ")
        };
        match (self.ended.is_empty(), self.alive.is_empty()) {
            (_, true) => write!(formatter, "ended what dead runs had left: {}", list(&self.ended)),
            (true, false) => write!(formatter, "cannot end what dead runs have left: {}", list(&self.alive)),
            (false, false) => write!(
                formatter,
                "ended what dead runs had left: {}; cannot end: {}",
                list(&self.ended),
                list(&self.alive)
            ),
        }
    }
}

/// Sends SIGKILL to the process of this pid if it started at this time; whether it did.
pub fn kill_exactly(pid: i32, start_time: u64) -> bool {
    let Some(held) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    // From here on the pid may be reused, but not what is held.
    let same = process_table::look_up(pid).is_some_and(|process| process.start_time == start_time && !process.zombie);
    same && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// Where a run keeps its services' logs; as the kernel names it, without symbolic links.
fn run_directory(state_dir: &Path, run_id: &str) -> PathBuf {
    let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    state_dir.join("runs").join(run_id)
}

/// This process and those above it: started from within a run that died since, they may bear its tag.
fn own_line() -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut next = std::process::id().cast_signed();
    while next > 0 && line.insert(next) {
        next = process_table::look_up(next).map_or(0, |process| process.parent);
    }
    line
}

/// What the dead runs of this state directory have left alive: pid and service of each. Nothing is done about it.
///
/// # Errors
/// The records cannot be read.
pub fn find_leftovers(state_dir: &Path) -> io::Result<Vec<(i32, String)>> {
    let runs = records::of_dead_runs(state_dir)?;
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let own = own_line();
    let found = process_table::all()
        .into_iter()
        .filter(|process| !process.zombie && !own.contains(&process.pid));
    Ok(found
        .filter_map(|process| Some((process.pid, service_of(&process, &runs, state_dir)?)))
        .collect())
}

/// Ends what the dead runs of this state directory have left. The caller holds the instance's lock. Their records are
/// removed when nothing of them is left.
///
/// # Errors
/// The records cannot be read or removed.
pub fn end_leftovers(state_dir: &Path) -> io::Result<Leftovers> {
    let runs = records::of_dead_runs(state_dir)?;
    let mut leftovers = Leftovers::default();
    if runs.is_empty() {
        return Ok(leftovers);
    }
    let own = own_line();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut killed = false;
        leftovers.alive.clear();
        for process in process_table::all() {
            if process.zombie || own.contains(&process.pid) {
                continue;
            }
            let Some(service) = service_of(&process, &runs, state_dir) else {
                continue;
            };
            if kill_exactly(process.pid, process.start_time) {
                killed = true;
                if !leftovers.ended.iter().any(|(pid, _)| *pid == process.pid) {
                    leftovers.ended.push((process.pid, service.clone()));
                }
            } else if process_table::look_up(process.pid).is_none_or(|now| now.zombie || !now.same_as(&process)) {
                continue;
            }
            leftovers.alive.push((process.pid, service));
        }
        if !killed || Instant::now() >= deadline {
            break;
        }
        std::thread::park_timeout(PAUSE);
    }
    let alive: BTreeSet<i32> = leftovers.alive.iter().map(|(pid, _)| *pid).collect();
    leftovers.ended.retain(|(pid, _)| !alive.contains(pid));
    if alive.is_empty() {
        for run in &runs {
            std::fs::remove_file(&run.path)?;
        }
    }
    Ok(leftovers)
}

/// Of which service of one of these dead runs a process is.
fn service_of(process: &Process, runs: &[DeadRun], state_dir: &Path) -> Option<String> {
    let recorded = |run: &DeadRun| {
        let found = run
            .records
            .iter()
            .find(|record| record.pid == process.pid && record.start_time == process.start_time)?;
        Some(found.service.clone())
    };
    // A session outlives its leader: what daemonised halfway is known by it. But the number alone proves nothing: the
    // leader's pid may be another's since, whose own session then bears it. So the process must also still write to a
    // log of that dead run.
    let of_session = |run: &DeadRun| {
        let leader = run.records.iter().find(|record| record.pid == process.session)?;
        (process.start_time >= leader.start_time
            && !process_table::is_alive(leader.pid)
            && process_table::writes_below(process.pid, &run_directory(state_dir, &run.run_id)))
        .then(|| leader.service.clone())
    };
    let tagged = || {
        let run_id = process_table::variable(process.pid, RUN_ID_VARIABLE)?;
        runs.iter()
            .any(|run| run.run_id == run_id)
            .then(|| process_table::variable(process.pid, SERVICE_VARIABLE).unwrap_or_else(|| "a service".to_owned()))
    };
    runs.iter()
        .find_map(recorded)
        .or_else(tagged)
        .or_else(|| runs.iter().find_map(of_session))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::{Command, Stdio};

    use super::*;

    const LEADER_GONE: &str = "sleep 600 & echo $!";

    /// Ends its process when the test ends, whatever became of it.
    struct Orphan(process_table::Process);

    impl Drop for Orphan {
        fn drop(&mut self) {
            kill_exactly(self.0.pid, self.0.start_time);
        }
    }

    /// A process whose session's leader is dead, as daemons are, with this standard error; and the session.
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn orphan(log: Stdio) -> Orphan {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LEADER_GONE])
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        super::super::sys::in_own_session(&mut command);
        let mut leader = command.spawn().unwrap();
        let mut output = std::io::BufReader::new(leader.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let orphan = Orphan(process_table::look_up(line.trim().parse().unwrap()).unwrap());
        assert_eq!(orphan.0.session, leader.id().cast_signed());
        leader.wait().unwrap();
        orphan
    }

    fn lives(orphan: &Orphan) -> bool {
        process_table::look_up(orphan.0.pid)
            .is_some_and(|process| process.start_time == orphan.0.start_time && !process.zombie)
    }

    #[test]
    fn a_session_whose_number_was_a_dead_service_is_ended_only_if_it_writes_to_that_runs_log() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("runs/dead1");
        fs::create_dir_all(&run).unwrap();
        fs::create_dir(directory.path().join("pids")).unwrap();
        let ours = orphan(File::create(run.join("web.log")).unwrap().into());
        let stranger = orphan(Stdio::null());
        let records = format!("{} 1 web\n{} 1 web\n", ours.0.session, stranger.0.session);
        fs::write(directory.path().join("pids/dead1"), records).unwrap();

        let leftovers = end_leftovers(directory.path()).unwrap();
        assert_eq!(leftovers.ended, [(ours.0.pid, "web".to_owned())]);
        assert!(!lives(&ours));
        assert!(lives(&stranger), "a stranger was touched");
    }
}
