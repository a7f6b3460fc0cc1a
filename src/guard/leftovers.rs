//! Ending what dead runs have left: by their control groups where they had such, by pid and start time from their records,
//! and by the run id in the environment.
//!
//! Never by name. A pid is held by a pidfd while it is checked who has it, so that its reuse cannot hit a stranger.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::RunGroup;
use super::process_table::{self, Process};
use super::records::{self, DeadRun};
use super::{RUN_ID_VARIABLE, SERVICE_VARIABLE};

/// How long the end of killed processes is awaited.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// How long the members of a group are asked for their names before they are ended, beyond those that are shown: who
/// executes a program answers late, and what forks does so meanwhile.
const NAMING: Duration = Duration::from_millis(50);
/// As many processes as a line names.
const SHOWN: usize = 20;

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Pid and service of each process.
    pub ended: Vec<(i32, String)>,
    /// What lives on, though it was told to end: the next start tries again.
    pub alive: Vec<(i32, String)>,
    /// Processes of other users that may be of a dead run: they started since it did, and cannot be looked into.
    pub hidden: usize,
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
            let shown = processes.iter().take(SHOWN);
            let mut names: Vec<String> = shown.map(|(pid, service)| format!("{service} ({pid})")).collect();
            if processes.len() > SHOWN {
                names.push(format!("{} more", processes.len() - SHOWN));
            }
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

/// Sends SIGKILL to the process of this pid if it started at this time; false: it has ended, and the pid may be another's.
///
/// # Errors
/// It lives, and cannot be signalled; or it cannot be told.
pub fn kill_exactly(pid: i32, start_time: u64) -> io::Result<bool> {
    let held = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(held)) => held,
        None | Some(Err(Errno::SRCH)) => return Ok(false),
        Some(Err(error)) => return Err(error.into()),
    };
    // From here on the pid may be reused, but not what is held.
    let same = |process: Process| process.start_time == start_time && !process.zombie;
    if !process_table::look_up(pid)?.is_some_and(same) {
        return Ok(false);
    }
    match pidfd_send_signal(&held, Signal::KILL) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
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
        let process = process_table::look_up(next).ok().flatten();
        next = process.map_or(0, |process| process.parent);
    }
    line
}

/// What the dead runs of this state directory have left alive. Nothing is done about it.
///
/// # Errors
/// The records or the processes cannot be read.
pub fn find_leftovers(state_dir: &Path) -> io::Result<Leftovers> {
    let runs = records::of_dead_runs(state_dir)?;
    if runs.is_empty() {
        return Ok(Leftovers::default());
    }
    let (own, members) = (own_line(), members(&runs));
    let others = process_table::all()?
        .into_iter()
        .filter(|process| !process.zombie && !own.contains(&process.pid));
    let alive = others
        .filter_map(|process| Some((process.pid, service_of(&process, &runs, &members, state_dir)?)))
        .collect();
    Ok(Leftovers {
        alive,
        hidden: hidden(&runs)?,
        ..Leftovers::default()
    })
}

/// How many processes of other users that this one may not look into started since the first of these runs.
fn hidden(runs: &[DeadRun]) -> io::Result<usize> {
    let records = runs.iter().flat_map(|run| &run.records);
    let Some(since) = records.map(|record| record.start_time).min() else {
        return Ok(0);
    };
    let all = process_table::all()?.into_iter();
    // The kernel's own threads are children of one of pid 2.
    let may_be_ours = all.filter(|process| !process.zombie && process.start_time >= since && process.parent != 2);
    Ok(may_be_ours
        .filter(|process| process_table::is_hidden(process.pid))
        .count())
}

/// Whoever is in a control group of one of these runs.
fn members(runs: &[DeadRun]) -> BTreeSet<i32> {
    let groups = runs.iter().filter_map(|run| run.group.as_ref());
    groups.flat_map(RunGroup::processes).collect()
}

/// Ends all that is in the control groups of these runs at once, before what forks can fork on; but for those groups that
/// this process is in. Pid and service of each process.
fn end_groups(runs: &[DeadRun], own: &BTreeSet<i32>) -> io::Result<BTreeMap<i32, String>> {
    let mut ended = BTreeMap::new();
    let over = Instant::now() + NAMING;
    for run in runs {
        let Some(group) = &run.group else { continue };
        let members = group.processes();
        if members.iter().any(|pid| own.contains(pid)) {
            continue;
        }
        for pid in members {
            let session = process_table::look_up(pid)?.map_or(0, |process| process.session);
            let leader = run.records.iter().find(|record| record.pid == session);
            let named = || match ended.len() < SHOWN || Instant::now() < over {
                true => process_table::variable(pid, SERVICE_VARIABLE),
                false => None,
            };
            let service = leader.map(|leader| leader.service.clone()).or_else(named);
            ended.insert(pid, service.unwrap_or_else(unnamed));
        }
        if let Err(error) = group.kill() {
            tracing::warn!(%error, group = %group.path().display(), "end what a dead run has left");
        }
    }
    Ok(ended)
}

fn unnamed() -> String {
    "a service".to_owned()
}

/// Ends what the dead runs of this state directory have left. The caller holds the instance's lock. Their records are
/// removed when nothing of them is left.
///
/// # Errors
/// The records or the processes cannot be read, or the records not removed.
pub fn end_leftovers(state_dir: &Path) -> io::Result<Leftovers> {
    let runs = records::of_dead_runs(state_dir)?;
    if runs.is_empty() {
        return Ok(Leftovers::default());
    }
    let own = own_line();
    let hidden = hidden(&runs)?;
    let deadline = Instant::now() + PATIENCE;
    let mut seen = end_groups(&runs, &own)?;
    // Only who has come since is looked at until there is nobody further to kill: what forks is met at its next fork.
    let mut strangers: BTreeSet<i32> = BTreeSet::new();
    let alive = loop {
        let whole = strangers.is_empty();
        let members = members(&runs);
        let (mut alive, mut further) = (BTreeMap::new(), false);
        let pids = process_table::pids()?;
        for pid in pids.difference(&strangers).copied().collect::<Vec<_>>() {
            let Some(process) = process_table::look_up(pid)?.filter(|process| !process.zombie) else {
                continue;
            };
            let service = match own.contains(&pid) {
                true => None,
                false => service_of(&process, &runs, &members, state_dir),
            };
            let Some(service) = service else {
                strangers.insert(pid);
                continue;
            };
            match kill_exactly(pid, process.start_time) {
                Ok(true) => {}
                Ok(false) => continue,
                // Another user's by now; or it can be tried again.
                Err(error) => tracing::warn!(%error, pid, service, "end what a dead run has left"),
            }
            // Who is dying has no variables any more: what it was called first is its name.
            let service = match seen.entry(pid) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(place) => {
                    further = true;
                    place.insert(service).clone()
                }
            };
            alive.insert(pid, service);
        }
        if (whole && alive.is_empty()) || Instant::now() >= deadline {
            break alive;
        }
        if alive.is_empty() {
            strangers.clear();
        } else {
            // A pid that is free again may be given to one of ours.
            strangers.retain(|pid| pids.contains(pid));
        }
        if !further {
            std::thread::park_timeout(PAUSE);
        }
    };
    seen.retain(|pid, _| !alive.contains_key(pid));
    if alive.is_empty() {
        for run in &runs {
            // One that cannot be removed yet is known by the records.
            if run.group.as_ref().is_none_or(RunGroup::remove) {
                std::fs::remove_file(&run.path)?;
            }
        }
    }
    Ok(Leftovers {
        ended: seen.into_iter().collect(),
        alive: alive.into_iter().collect(),
        hidden,
    })
}

/// Of which service of one of these dead runs a process is.
fn service_of(process: &Process, runs: &[DeadRun], members: &BTreeSet<i32>, state_dir: &Path) -> Option<String> {
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
            && writes_below(process.pid, &run_directory(state_dir, &run.run_id)))
        .then(|| leader.service.clone())
    };
    let named = || process_table::variable(process.pid, SERVICE_VARIABLE).unwrap_or_else(unnamed);
    let tagged = || {
        let run_id = process_table::variable(process.pid, RUN_ID_VARIABLE)?;
        runs.iter().any(|run| run.run_id == run_id).then(named)
    };
    runs.iter()
        .find_map(recorded)
        .or_else(tagged)
        .or_else(|| runs.iter().find_map(of_session))
        .or_else(|| members.contains(&process.pid).then(named))
}

fn writes_below(pid: i32, directory: &Path) -> bool {
    process_table::outputs(pid)
        .iter()
        .any(|file| file.starts_with(directory))
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
            kill_exactly(self.0.pid, self.0.start_time).unwrap();
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
        let orphan = Orphan(process_table::look_up(line.trim().parse().unwrap()).unwrap().unwrap());
        assert_eq!(orphan.0.session, leader.id().cast_signed());
        leader.wait().unwrap();
        orphan
    }

    fn lives(orphan: &Orphan) -> bool {
        let process = process_table::look_up(orphan.0.pid).unwrap();
        process.is_some_and(|process| process.start_time == orphan.0.start_time && !process.zombie)
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
