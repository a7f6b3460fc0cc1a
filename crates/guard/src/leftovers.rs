//! Leftover processes of dead runs. They are found by the control group of a run if there was one, by pid and start
//! time from the records, and by the run id in the environment; then they are ended.
//!
//! Processes are never found by name, and each is ended by pid and start time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::control_group::RunGroup;
use crate::kill_exactly::kill_exactly;
use crate::protocol::{RUN_ID_VARIABLE, SERVICE_VARIABLE};
use crate::records;
use crate::records::DeadRun;
use orch_base::system::processes;
use orch_base::system::processes::Process;

/// Longest wait for the end of killed processes.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest time for reading the service names of a group's members before the group is ended, beyond the members that
/// are shown. A process that executes a program answers late, and a fork bomb keeps growing during that time.
const NAMING_TIMEOUT: Duration = Duration::from_millis(50);
/// Number of processes whose services are looked up, even if that takes long.
const SHOWN: usize = 20;

/// The processes that were found or ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Pid and service of each ended process.
    pub ended: Vec<(i32, String)>,
    /// Processes that survived SIGKILL so far; the next start tries again.
    pub alive: Vec<(i32, String)>,
    /// Number of other users' processes that may belong to a dead run: they started after the run, and their data
    /// cannot be read.
    pub hidden: usize,
}

impl Leftovers {
    /// Returns true if there was no leftover process.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.alive.is_empty()
    }
}

/// Returns the directory of a run's service logs, in the form of the kernel, without symbolic links.
fn run_directory(state_dir: &Path, run_id: &str) -> PathBuf {
    let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    state_dir.join("runs").join(run_id)
}

/// Lists this process and all ancestors: if they were started within a run that died since, they may carry its run id.
fn own_line() -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut next = std::process::id().cast_signed();
    while next > 0 && line.insert(next) {
        let process = processes::look_up(next).ok().flatten();
        next = process.map_or(0, |process| process.parent);
    }
    line
}

/// Finds the living processes of the dead runs in this state directory, without ending them.
///
/// # Errors
/// The records or the processes cannot be read.
pub fn find_leftovers(state_dir: &Path) -> io::Result<Leftovers> {
    let runs = records::read_dead_runs(state_dir)?;
    if runs.is_empty() {
        return Ok(Leftovers::default());
    }
    let (own, members) = (own_line(), members(&runs));
    let others = processes::all()?
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

/// Counts the other users' processes that cannot be read and that started after the first of these runs.
fn hidden(runs: &[DeadRun]) -> io::Result<usize> {
    let records = runs.iter().flat_map(|run| &run.records);
    let Some(since) = records.map(|record| record.start_time).min() else {
        return Ok(0);
    };
    let all = processes::all()?.into_iter();
    // Kernel threads are children of pid 2.
    let may_be_ours = all.filter(|process| !process.zombie && process.start_time >= since && process.parent != 2);
    Ok(may_be_ours.filter(|process| processes::is_hidden(process.pid)).count())
}

/// Lists the processes in the control groups of these runs.
fn members(runs: &[DeadRun]) -> BTreeSet<i32> {
    let groups = runs.iter().filter_map(|run| run.group.as_ref());
    groups.flat_map(RunGroup::processes).collect()
}

/// Ends all processes in the control groups of these runs at once, before they can fork again; skips a group that
/// contains this process. Returns pid and service of each process.
fn end_groups(runs: &[DeadRun], own: &BTreeSet<i32>) -> io::Result<BTreeMap<i32, String>> {
    let mut ended = BTreeMap::new();
    let over = Instant::now() + NAMING_TIMEOUT;
    for run in runs {
        let Some(group) = &run.group else { continue };
        let members = group.processes();
        if members.iter().any(|pid| own.contains(pid)) {
            continue;
        }
        for pid in members {
            let session = processes::look_up(pid)?.map_or(0, |process| process.session);
            let leader = run.records.iter().find(|record| record.pid == session);
            let named = || match ended.len() < SHOWN || Instant::now() < over {
                true => processes::environment_variable(pid, SERVICE_VARIABLE),
                false => None,
            };
            let service = leader.map(|leader| leader.service.clone()).or_else(named);
            ended.insert(pid, service.unwrap_or_else(unnamed));
        }
        if let Err(error) = group.kill() {
            tracing::warn!(%error, group = %group.path().display(), "could not end the control group of a dead run");
        }
    }
    Ok(ended)
}

fn unnamed() -> String {
    "a service".to_owned()
}

/// Ends the leftover processes of the dead runs in this state directory. The caller holds the instance's lock. The
/// records are removed when nothing of their run is left.
///
/// # Errors
/// The records or the processes cannot be read, or the records cannot be removed.
pub fn end_leftovers(state_dir: &Path) -> io::Result<Leftovers> {
    let runs = records::read_dead_runs(state_dir)?;
    if runs.is_empty() {
        return Ok(Leftovers::default());
    }
    let own = own_line();
    let hidden = hidden(&runs)?;
    let deadline = Instant::now() + END_TIMEOUT;
    let mut seen = end_groups(&runs, &own)?;
    // Only new processes are looked at until there is no further one to kill; a process that forks is found through the
    // child.
    let mut strangers: BTreeSet<i32> = BTreeSet::new();
    let alive = loop {
        let whole = strangers.is_empty();
        let members = members(&runs);
        let (mut alive, mut further) = (BTreeMap::new(), false);
        let pids = processes::pids()?;
        for pid in pids.difference(&strangers).copied().collect::<Vec<_>>() {
            let Some(process) = processes::look_up(pid)?.filter(|process| !process.zombie) else {
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
                // The process may run as another user by now, or the kill can be tried again.
                Err(error) => tracing::warn!(%error, pid, service, "could not end a process of a dead run"),
            }
            // A dying process has no environment any more, so the name that was read first is kept.
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
            // A free pid may be given to a process of a dead run.
            strangers.retain(|pid| pids.contains(pid));
        }
        if !further {
            std::thread::park_timeout(POLL_INTERVAL);
        }
    };
    seen.retain(|pid, _| !alive.contains_key(pid));
    if alive.is_empty() {
        for run in &runs {
            // While a group cannot be removed, the records keep the group known.
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

/// Returns the service of a dead run that a process belongs to, if any.
fn service_of(process: &Process, runs: &[DeadRun], members: &BTreeSet<i32>, state_dir: &Path) -> Option<String> {
    let recorded = |run: &DeadRun| {
        let found = run
            .records
            .iter()
            .find(|record| record.pid == process.pid && record.start_time == process.start_time)?;
        Some(found.service.clone())
    };
    // A session outlives the leader: a process that daemonised halfway is known by the session. But the session's
    // number alone proves nothing: the leader's pid may have been reused by a process with another session. So the
    // process must also still write to a log of that dead run.
    let of_session = |run: &DeadRun| {
        let leader = run.records.iter().find(|record| record.pid == process.session)?;
        (process.start_time >= leader.start_time
            && !processes::is_alive(leader.pid)
            && writes_below(process.pid, &run_directory(state_dir, &run.run_id)))
        .then(|| leader.service.clone())
    };
    let named = || processes::environment_variable(process.pid, SERVICE_VARIABLE).unwrap_or_else(unnamed);
    let tagged = || {
        let run_id = processes::environment_variable(process.pid, RUN_ID_VARIABLE)?;
        runs.iter().any(|run| run.run_id == run_id).then(named)
    };
    runs.iter()
        .find_map(recorded)
        .or_else(tagged)
        .or_else(|| runs.iter().find_map(of_session))
        .or_else(|| members.contains(&process.pid).then(named))
}

fn writes_below(pid: i32, directory: &Path) -> bool {
    processes::output_files(pid)
        .iter()
        .any(|file| file.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::{Command, Stdio};

    use super::*;

    const LEADER_GONE: &str = "sleep 600 & echo $!";

    /// A process that is killed when the test ends, whatever the result is.
    struct Orphan(processes::Process);

    impl Drop for Orphan {
        fn drop(&mut self) {
            kill_exactly(self.0.pid, self.0.start_time).unwrap();
        }
    }

    /// Starts a process as daemons are: the leader of the session is dead. Standard error is `log`.
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn orphan(log: Stdio) -> Orphan {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LEADER_GONE])
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        orch_linux::sys::start_in_new_session(&mut command);
        let mut leader = command.spawn().unwrap();
        let mut output = std::io::BufReader::new(leader.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let orphan = Orphan(processes::look_up(line.trim().parse().unwrap()).unwrap().unwrap());
        assert_eq!(orphan.0.session, leader.id().cast_signed());
        leader.wait().unwrap();
        orphan
    }

    fn lives(orphan: &Orphan) -> bool {
        let process = processes::look_up(orphan.0.pid).unwrap();
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
