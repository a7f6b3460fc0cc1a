//! Runs of a state directory with living processes, by the locks that their orch and guard hold.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::locks::LOCKS;
use orch_base::system::processes;
use orch_guard::{InstanceLock, LockHolder, death_of_orch};
use orch_journal::{KeptRun, RunDirectory, RunId};
use orch_views::{LeftProcesses, RunLife};

/// Returns the paths of the locks, which change when a run ends.
pub fn lock_files(state_dir: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    LOCKS.iter().map(|name| state_dir.join(name))
}

/// Returns the holders of the locks of a state directory: the orch of each run, even if only its guard is alive.
pub fn holders(state_dir: &Path) -> Vec<LockHolder> {
    let held = lock_files(state_dir).filter(|lock| InstanceLock::is_held(lock));
    let mut found: Vec<LockHolder> = Vec::new();
    for holder in held.filter_map(|lock| InstanceLock::holder(&lock)) {
        // An `orch run` without an `orch up` holds both locks.
        if holder.is_run() && !found.iter().any(|known| known.run_id == holder.run_id) {
            found.push(holder);
        }
    }
    found
}

/// Lists the runs with living processes, an `orch run` before an `orch up`.
pub fn living_runs(state_dir: &Path, kept: &[KeptRun]) -> Vec<(RunId, RunDirectory)> {
    let holders = holders(state_dir);
    let is_held = |run: &KeptRun| holders.iter().any(|holder| holder.run_id == run.run_id.as_str());
    // If the lock files were removed, the lock on the journal shows the run.
    let without_lock = kept.iter().filter(|run| !is_held(run) && run.is_alive());
    let without_lock = without_lock.map(|run| (run.run_id.clone(), run.directory.clone()));
    let with_lock = holders.iter().map(|holder| {
        let run_id = RunId::from(holder.run_id.as_str());
        let directory = RunDirectory::of(state_dir, &run_id);
        (run_id, directory)
    });
    with_lock.chain(without_lock).collect()
}

/// Returns the life of a run.
///
/// # Errors
/// The process of orch cannot be looked up.
pub fn life(state_dir: &Path, run_id: &RunId, directory: &RunDirectory) -> io::Result<RunLife> {
    let holders = holders(state_dir);
    let holder = holders.iter().find(|holder| holder.run_id == run_id.as_str());
    let died_at = || death_of_orch(&directory.log("guard"));
    Ok(match holder {
        Some(holder) if holder.is_alive() => match processes::look_up(holder.pid)? {
            Some(process) if process.stopped => RunLife::Suspended,
            Some(_) | None => RunLife::Active,
        },
        Some(holder) => RunLife::EndedByGuard {
            guard_pid: holder.guard_pid,
            died_at: died_at(),
            stop_bound: Duration::from_millis(holder.stop_bound_ms),
        },
        None if orch_journal::is_being_written(&directory.journal()) => RunLife::Active,
        None => RunLife::Over {
            died_at: died_at(),
            left: left_processes(state_dir, run_id),
        },
    })
}

/// Looks for processes that a run without orch and guard has left. The guard removes the records of the run when all of its
/// processes have ended.
fn left_processes(state_dir: &Path, run_id: &RunId) -> LeftProcesses {
    if !orch_guard::has_records(state_dir, run_id.as_str()) {
        return LeftProcesses::Ended;
    }
    match orch_guard::find_leftovers(state_dir).map(|found| found.alive.len()) {
        Ok(0) => LeftProcesses::Ended,
        Ok(number) => LeftProcesses::Alive(number),
        Err(error) => {
            tracing::debug!(%error, "could not look for processes of dead runs");
            LeftProcesses::Unknown
        }
    }
}
