//! Retention of runs by number, age and size. Each kind of run is counted apart, so that neither twenty `orch up` nor a
//! night of failing starts removes the data that `--resume`, the medians and the circuit breaker need.
//!
//! Only the start of each journal is read, because this happens at each start of orch.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::event_values::RunCommand;
use crate::journal_file::{JOURNAL_NAME, is_being_written};
use crate::journal_head::{JournalHead, has_begun};

/// Limits of the runs that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRetention {
    /// Number of the last runs of each kind that are kept at any age, 1 or more.
    pub runs: usize,
    /// Age in days up to which more nights are kept.
    pub days: u64,
    /// Disk space of all ended runs together, in bytes. 0: no limit.
    pub size: u64,
}

impl Default for RunRetention {
    fn default() -> Self {
        Self {
            runs: 20,
            days: 30,
            size: 2 << 30,
        }
    }
}

/// Number of nights that are kept at most because of their age.
const MAX_YOUNG_NIGHTS: usize = 100;

/// Number of the last nights whose journals are kept at any size: later runs compare themselves with them.
const COMPARED_NIGHTS: usize = 10;

/// Kind of a run that decides the retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RunKind {
    /// An `orch run` that has begun a site, or followed an earlier run's job further.
    Begun,
    /// An `orch up`.
    Up,
    /// An `orch run` that ended before that, or a start that has written nothing.
    NotBegun,
}

impl RunKind {
    fn of(journal: &Path) -> Self {
        match JournalHead::read(journal) {
            Some(start) if start.command != RunCommand::Run => RunKind::Up,
            Some(_) if has_begun(journal) => RunKind::Begun,
            Some(_) | None => RunKind::NotBegun,
        }
    }
}

/// A run that has ended, with the facts that decide its retention.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndedRun<P> {
    kind: RunKind,
    /// Time of the last activity.
    time: SystemTime,
    /// Disk space of all files.
    size: u64,
    /// Disk space of the logs.
    logs: u64,
    path: P,
}

/// Part of a run that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunRemoval {
    Run,
    /// The journal and the summary stay.
    Logs,
}

/// Removes old runs, but not the new one. An active run is kept and not counted: a healthy `orch up` writes nothing for
/// weeks, while other runs come and go each night.
pub(crate) fn prune(runs: &Path, newest: &Path, keep: RunRetention) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    let paths = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != newest);
    let mut found: Vec<EndedRun<PathBuf>> = paths.filter_map(|path| found_run(path).ok()).collect();
    let size: u64 = found.iter().map(|run| run.size).sum();
    if found.len() <= keep.runs && (keep.size == 0 || size <= keep.size) {
        return;
    }
    found.retain(|run| !is_being_written(&run.path.join(JOURNAL_NAME)));
    for run in &mut found {
        run.kind = RunKind::of(&run.path.join(JOURNAL_NAME));
    }
    for (path, removal) in removals(found, keep, SystemTime::now()) {
        let removed = match removal {
            RunRemoval::Run => fs::remove_dir_all(&path),
            RunRemoval::Logs => remove_logs(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "could not remove an old run");
        }
    }
}

/// Returns a run of which the kind is not known yet.
fn found_run(path: PathBuf) -> io::Result<EndedRun<PathBuf>> {
    let journal = path.join(JOURNAL_NAME);
    // The journal's modification time is the run's last activity.
    let modified = fs::metadata(&journal).and_then(|journal| journal.modified());
    let time = modified.or_else(|_| fs::symlink_metadata(&path)?.modified())?;
    let (mut size, mut logs) = (0, 0);
    for entry in fs::read_dir(&path)?.flatten() {
        // Blocks, since a log may have a hole.
        let used = entry.metadata().map_or(0, |file| file.blocks() * 512);
        size += used;
        logs += if is_log(&entry.path()) { used } else { 0 };
    }
    Ok(EndedRun {
        kind: RunKind::NotBegun,
        time,
        size,
        logs,
        path,
    })
}

/// Returns whether a file of a run is a log or a piece of one.
fn is_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name
        .rsplit_once(".log.")
        .filter(|(_, number)| number.parse::<u32>().is_ok() || *number == "part");
    stem.is_some() || name.ends_with(".log")
}

fn remove_logs(run: &Path) -> io::Result<()> {
    // The modification time of the journal stays, which is the time of the run.
    for entry in fs::read_dir(run)?.flatten() {
        if is_log(&entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns what is removed of these runs: the runs beyond number and age, then the oldest until the others fit the size.
/// Of each kind the last run stays: `--resume` continues the last night.
fn removals<P: Ord>(mut runs: Vec<EndedRun<P>>, keep: RunRetention, now: SystemTime) -> Vec<(P, RunRemoval)> {
    // The latest first.
    runs.sort_by(|one, other| (other.time, &other.path).cmp(&(one.time, &one.path)));
    let mut places: BTreeMap<RunKind, usize> = BTreeMap::new();
    let (mut removed, mut kept) = (Vec::new(), Vec::new());
    for run in runs {
        let place = places.entry(run.kind).or_default();
        // A time in the future comes from a clock that was set back.
        let age = now.duration_since(run.time).unwrap_or_default();
        let is_young = run.kind == RunKind::Begun && age < Duration::from_secs(keep.days * 24 * 60 * 60);
        if *place < keep.runs.max(1) || (is_young && *place < MAX_YOUNG_NIGHTS) {
            kept.push((*place, run));
            *place += 1;
        } else {
            removed.push((run.path, RunRemoval::Run));
        }
    }
    let mut total: u64 = kept.iter().map(|(_, run)| run.size).sum();
    // The oldest first.
    for (place, run) in kept.into_iter().rev() {
        if keep.size == 0 || total <= keep.size {
            break;
        }
        let removal = match (run.kind, place) {
            (_, 0) => continue,
            (RunKind::Begun, 1..COMPARED_NIGHTS) if run.logs == 0 => continue,
            (RunKind::Begun, 1..COMPARED_NIGHTS) => RunRemoval::Logs,
            _ => RunRemoval::Run,
        };
        total -= match removal {
            RunRemoval::Run => run.size,
            RunRemoval::Logs => run.logs,
        };
        removed.push((run.path, removal));
    }
    removed
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
