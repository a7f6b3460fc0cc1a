//! `<state>/runs/<run id>/`: the journal, the logs and the summary of one run, private. Not here: which
//! of them are kept (`retention`).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::ids::RunId;
use super::retention;
use super::state::RunState;
use crate::{atomic_file, printable};

pub(super) const JOURNAL: &str = "journal.jsonl";

/// The directory of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes the directory, and removes old ones (`retention`).
    ///
    /// # Errors
    /// It cannot be made; that an old one cannot be removed is no error.
    pub fn create(state_dir: &Path, run_id: &RunId) -> io::Result<Self> {
        let runs = state_dir.join("runs");
        DirBuilder::new().recursive(true).mode(0o700).create(&runs)?;
        let path = runs.join(run_id.as_str());
        DirBuilder::new().mode(0o700).create(&path)?;
        retention::prune(&runs, &path);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private() {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(state_dir.path(), &RunId::random()).unwrap();
        assert_eq!(
            fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}
