//! Who was started: one line a process, `<pid> <start time> <service>`, written by the process itself before it
//! executes its program. One file a run, `<state>/pids/<run id>`, there as long as something of the run may live.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The records of one run, open for its children to append to.
pub struct Records {
    path: PathBuf,
    file: File,
}

/// One recorded process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_time: u64,
    pub service: String,
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("pids")
}

impl Records {
    /// Begins the records of a run.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn create(state_dir: &Path, run_id: &str) -> io::Result<Self> {
        let directory = directory(state_dir);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let path = directory.join(run_id);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        Ok(Self { path, file })
    }

    /// For a child to inherit; the child's copy is closed by its exec.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Nothing of the run is left: neither are its records.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            super::server::log(&format!("remove {}: {error}", self.path.display()));
        }
    }
}

/// The records of every run in this state directory, by run id: of dead ones, for whoever holds the instance's lock.
///
/// # Errors
/// The directory or a file in it cannot be read.
pub fn read_all(state_dir: &Path) -> io::Result<Vec<(String, PathBuf, Vec<Record>)>> {
    let mut runs = Vec::new();
    let entries = match fs::read_dir(directory(state_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(runs),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let Some(run_id) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            continue;
        };
        let text = fs::read_to_string(&path)?;
        runs.push((run_id, path, text.lines().filter_map(parse).collect()));
    }
    Ok(runs)
}

/// A torn line is no record.
fn parse(line: &str) -> Option<Record> {
    let mut words = line.splitn(3, ' ');
    let (pid, start_time, service) = (words.next()?, words.next()?, words.next()?);
    Some(Record {
        pid: pid.parse().ok()?,
        start_time: start_time.parse().ok()?,
        service: service.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_torn_ones_are_not() {
        let record = Record {
            pid: 7,
            start_time: 99,
            service: "web server".into(),
        };
        assert_eq!(parse("7 99 web server"), Some(record));
        assert_eq!(parse("7 9"), None);
        assert_eq!(parse(""), None);
    }
}
