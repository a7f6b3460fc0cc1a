//! `<state>/runs/<run id>/`: the journal, the logs and the summary of one run, private. [Retention](crate::retention)
//! decides which runs are kept.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::ids::RunId;
use crate::journal_file::JOURNAL_NAME;
use crate::retention;
use crate::retention::RunRetention;
use crate::state::model::RunState;
use orch_base::files::atomic;
use orch_base::text::printable;

/// Directory of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Creates the directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn create(state_dir: &Path, run_id: &RunId) -> io::Result<Self> {
        let runs = state_dir.join("runs");
        DirBuilder::new().recursive(true).mode(0o700).create(&runs)?;
        let path = runs.join(run_id.as_str());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// Removes the old runs next to this one that are not kept. A failed removal is only logged.
    pub fn remove_old_runs(&self, keep: RunRetention) {
        if let Some(runs) = self.path.parent() {
            retention::prune(runs, &self.path, keep);
        }
    }

    /// Returns the directory of an existing run.
    pub fn of(state_dir: &Path, run_id: &RunId) -> Self {
        Self {
            path: state_dir.join("runs").join(run_id.as_str()),
        }
    }

    /// Lists all runs in the state directory, in no particular order.
    ///
    /// # Errors
    /// The runs cannot be listed. A missing directory is not an error.
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

    /// Returns the path of the journal, with every fact of the run, one per line.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL_NAME)
    }

    /// Returns the path of the output of a service (or `guard`).
    pub fn log(&self, service: &str) -> PathBuf {
        self.path.join(format!("{service}.log"))
    }

    /// Returns the path of orch's own log.
    pub fn orch_log(&self) -> PathBuf {
        self.path.join("orch.log")
    }

    /// Returns the path of the machine-readable summary.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// Returns the path of the file into which other commands write requests to the run.
    pub fn requests(&self) -> PathBuf {
        self.path.join("requests.jsonl")
    }

    /// Writes the summary atomically.
    ///
    /// # Errors
    /// The disk is full or failing.
    pub fn write_summary(&self, state: &RunState) -> io::Result<()> {
        let mut text = printable::escaped(serde_json::to_string_pretty(state)?);
        text.push('\n');
        atomic::replace(&self.summary(), text.as_bytes())
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
