//! Retention of runs. Each kind of run has separate limits, so that neither twenty `orch up` nor a night of failing
//! starts removes the data that `--resume`, the medians and the circuit breaker need.
//!
//! Only the start of each journal is read, because this happens at each start of orch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::event_values::RunCommand;
use crate::journal_file::{JOURNAL_NAME, is_being_written};
use crate::journal_head::{JournalHead, has_begun};

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

/// Retention limits of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RetentionLimits {
    /// Number of the last runs that are kept at any age.
    always: usize,
    /// Number of runs that are kept at most, if they are younger than `for_days`.
    at_most: usize,
    for_days: u64,
}

impl RunKind {
    const fn limits(self) -> RetentionLimits {
        match self {
            RunKind::Begun => RetentionLimits {
                always: 30,
                at_most: 100,
                for_days: 30,
            },
            RunKind::Up | RunKind::NotBegun => RetentionLimits {
                always: 20,
                at_most: 20,
                for_days: 0,
            },
        }
    }

    fn of(journal: &Path) -> Self {
        match JournalHead::read(journal) {
            Some(start) if start.command != RunCommand::Run => RunKind::Up,
            Some(_) if has_begun(journal) => RunKind::Begun,
            Some(_) | None => RunKind::NotBegun,
        }
    }
}

/// Number of runs up to which nothing can be surplus.
const MIN_RUNS: usize = 20;

/// Removes old runs, but not the new one. An active run is kept: a healthy `orch up` writes nothing for weeks, while
/// other runs come and go each night.
pub(crate) fn prune(runs: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    let found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path() != newest)
        .filter_map(|entry| {
            // The journal's modification time is the run's last activity.
            let journal = fs::metadata(entry.path().join(JOURNAL_NAME)).and_then(|journal| journal.modified());
            let time = journal.or_else(|_| entry.metadata().and_then(|directory| directory.modified()));
            Some((time.ok()?, entry.path()))
        })
        .collect();
    if found.len() <= MIN_RUNS {
        return;
    }
    let found = found
        .into_iter()
        .map(|(time, path)| (RunKind::of(&path.join(JOURNAL_NAME)), time, path));
    for path in surplus(found.collect(), SystemTime::now()) {
        if is_being_written(&path.join(JOURNAL_NAME)) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(%error, path = %path.display(), "could not remove an old run");
        }
    }
}

/// Returns the runs that are not kept.
fn surplus<P: Ord>(mut runs: Vec<(RunKind, SystemTime, P)>, now: SystemTime) -> Vec<P> {
    // Sort the latest first.
    runs.sort_by(|one, other| other.cmp(one));
    let mut kept: BTreeMap<RunKind, usize> = BTreeMap::new();
    let is_surplus = |(kind, time, _): &(RunKind, SystemTime, P)| {
        let share = kind.limits();
        let kept = kept.entry(*kind).or_default();
        // A time in the future comes from a clock that was set back.
        let age = now.duration_since(*time).unwrap_or_default();
        let is_young = age < Duration::from_secs(share.for_days * 24 * 60 * 60);
        if *kept < share.always || (*kept < share.at_most && is_young) {
            *kept += 1;
            return false;
        }
        true
    };
    let runs = runs.into_iter();
    let mut is_surplus = is_surplus;
    runs.filter(|run| is_surplus(run)).map(|(_, _, path)| path).collect()
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
