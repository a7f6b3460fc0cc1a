//! `<state>/runs/<run id>/`: the journal, the logs and the summary of one run, private; old runs are pruned.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ids::RunId;
use super::journal::is_being_written;
use super::state::RunState;
use crate::{atomic_file, printable};

/// Runs that are kept; an older one goes when a new one begins, unless it lives.
const KEPT: usize = 20;
const JOURNAL: &str = "journal.jsonl";

/// The directory of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes the directory and prunes what is older than the last twenty.
    ///
    /// # Errors
    /// It cannot be made; that an old one cannot be removed is no error.
    pub fn create(state_dir: &Path, run_id: &RunId) -> io::Result<Self> {
        let runs = state_dir.join("runs");
        DirBuilder::new().recursive(true).mode(0o700).create(&runs)?;
        let path = runs.join(run_id.as_str());
        DirBuilder::new().mode(0o700).create(&path)?;
        prune(&runs, &path);
        Ok(Self { path })
    }

    /// That of a run which has one.
    pub fn of(state_dir: &Path, run_id: &RunId) -> Self {
        Self {
            path: state_dir.join("runs").join(run_id.as_str()),
        }
    }

    /// All that the state directory keeps, in no order.
    ///
    /// # Errors
    /// They cannot be listed; that there are none is no error.
    pub fn kept(state_dir: &Path) -> io::Result<Vec<Self>> {
        let runs = match fs::read_dir(state_dir.join("runs")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        runs.map(|entry| entry.map(|entry| Self { path: entry.path() }))
            .collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every fact of the run, one a line.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The output of a service (or `guard`).
    pub fn log(&self, service: &str) -> PathBuf {
        self.path.join(format!("{service}.log"))
    }

    /// orch's own log.
    pub fn orch_log(&self) -> PathBuf {
        self.path.join("orch.log")
    }

    /// How the run ended, for programs.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// Where others ask this run to stop sites.
    pub fn stop_requests(&self) -> PathBuf {
        self.path.join("stop-requests.jsonl")
    }

    /// Writes the summary whole.
    ///
    /// # Errors
    /// The disk is full or failing.
    pub fn write_summary(&self, state: &RunState) -> io::Result<()> {
        let mut text = printable::escaped(serde_json::to_string_pretty(state)?);
        text.push('\n');
        atomic_file::replace(&self.summary(), text.as_bytes())
    }
}

/// Removes the oldest runs. Their age does not tell whether they live: an `orch up` that runs well writes nothing for
/// weeks, while a run beside it comes and goes each night.
fn prune(runs: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path() != newest)
        .filter_map(|entry| {
            // The journal's time is the run's last sign of life.
            let journal = fs::metadata(entry.path().join(JOURNAL)).and_then(|journal| journal.modified());
            let time = journal.or_else(|_| entry.metadata().and_then(|directory| directory.modified()));
            Some((time.ok()?, entry.path()))
        })
        .collect();
    found.sort();
    let surplus = (found.len() + 1).saturating_sub(KEPT);
    for (_, path) in found.into_iter().take(surplus) {
        if is_being_written(&path.join(JOURNAL)) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(%error, path = %path.display(), "remove an old run");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_and_pruned() {
        let state_dir = tempfile::tempdir().unwrap();
        let mut last = None;
        for _ in 0..KEPT + 3 {
            last = Some(RunDirectory::create(state_dir.path(), &RunId::random()).unwrap());
        }
        let last = last.unwrap();
        assert_eq!(fs::metadata(last.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(state_dir.path().join("runs")).unwrap().count(), KEPT);
        assert!(last.path().exists());
    }

    #[test]
    fn a_living_run_is_kept_however_old_it_is() {
        let state_dir = tempfile::tempdir().unwrap();
        let create = || RunDirectory::create(state_dir.path(), &RunId::random()).unwrap();
        let (living, dead) = (create(), create());
        let recorder = crate::run::Recorder::create(&living.journal()).unwrap();
        fs::write(dead.journal(), "").unwrap();
        for old in [&living, &dead] {
            let journal = fs::File::options().write(true).open(old.journal()).unwrap();
            journal.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        for _ in 0..KEPT {
            create();
        }
        assert!(living.path().exists() && !dead.path().exists());
        drop(recorder);
        create();
        assert!(!living.path().exists());
    }
}
