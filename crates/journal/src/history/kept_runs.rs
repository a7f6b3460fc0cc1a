//! Runs of a state directory by their directories, without a look into their journals.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::ids::RunId;
use crate::journal_file::is_being_written;
use crate::run_directory::RunDirectory;

/// Directory of a run that the state directory keeps: an `orch run` or an `orch up`, active or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRun {
    pub run_id: RunId,
    pub directory: RunDirectory,
    /// Time of the last event.
    pub changed: SystemTime,
}

impl KeptRun {
    /// Lists the kept runs that have a journal, the one with the latest event first.
    ///
    /// # Errors
    /// The runs cannot be listed. A missing directory is no error.
    pub fn all(state_dir: &Path) -> io::Result<Vec<Self>> {
        let found = RunDirectory::kept(state_dir)?.into_iter();
        let mut found: Vec<Self> = found.filter_map(Self::in_directory).collect();
        found.sort_by(|one, other| {
            let order = other.changed.cmp(&one.changed);
            order.then_with(|| one.run_id.as_str().cmp(other.run_id.as_str()))
        });
        Ok(found)
    }

    fn in_directory(directory: RunDirectory) -> Option<Self> {
        let run_id = RunId::from(directory.path().file_name()?.to_str()?);
        let journal = std::fs::symlink_metadata(directory.journal()).ok()?;
        Some(Self {
            run_id,
            changed: journal.modified().ok()?,
            directory,
        })
    }

    /// Decides whether the orch of the run is alive.
    pub fn is_alive(&self) -> bool {
        is_being_written(&self.directory.journal())
    }

    /// Finds the run with this id, or the only run with an id that begins with this text.
    ///
    /// # Errors
    /// The text fits no run or several; the error says which.
    pub fn choose<'a>(runs: &'a [Self], id: &str) -> Result<&'a Self, String> {
        if let Some(run) = runs.iter().find(|run| run.run_id.as_str() == id) {
            return Ok(run);
        }
        let mut fitting = runs.iter().filter(|run| run.run_id.as_str().starts_with(id));
        match (fitting.next(), fitting.next()) {
            (Some(run), None) => Ok(run),
            (None, _) => Err(format!("there is no run {id}")),
            (Some(_), Some(_)) => Err(format!("several runs begin with {id}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_run_is_found_by_the_start_of_its_id_and_the_latest_comes_first() {
        let state_dir = tempfile::tempdir().unwrap();
        assert_eq!(KeptRun::all(state_dir.path()).unwrap(), []);
        for (seconds, id) in [(3, "ab1"), (9, "ab2"), (5, "ab"), (7, "cd")] {
            let directory = RunDirectory::create(state_dir.path(), &id.into()).unwrap();
            let journal = fs::File::create(directory.journal()).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            journal.set_modified(time).unwrap();
        }
        RunDirectory::create(state_dir.path(), &"without journal".into()).unwrap();
        let runs = KeptRun::all(state_dir.path()).unwrap();
        let ids: Vec<&str> = runs.iter().map(|run| run.run_id.as_str()).collect();
        assert_eq!(ids, ["ab2", "cd", "ab", "ab1"]);
        let choose = |id: &str| KeptRun::choose(&runs, id).map(|run| run.run_id.to_string());
        assert_eq!(choose("c"), Ok("cd".to_owned()));
        assert_eq!(choose("ab"), Ok("ab".to_owned()));
        assert_eq!(choose("a"), Err("several runs begin with a".to_owned()));
        assert_eq!(choose("x"), Err("there is no run x".to_owned()));
        assert!(!runs[0].is_alive());
    }
}
