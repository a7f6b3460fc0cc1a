//! Records of started processes: one line per process, `<pid> <start time> <service>`. The process itself writes the
//! line before the exec. Each run has one file, `<state>/pids/<run id>`, which exists as long as a process of the run
//! may be alive. Empty lines have no meaning: each record begins with a line break.
//!
//! The first line of the file, `boot <id>`, names the boot of the machine to which the start times belong: after
//! another boot the pids belong to unrelated processes. A second line, `cgroup <path>`, names the control group of the
//! run, if there is one. The run's guard holds a lock on the file during its whole life.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::control_group::RunGroup;
use crate::log::log;
use orch_base::files::regular;
use orch_base::files::tail::{bytes_from, last_bytes};
use orch_base::system::processes::boot_id;

/// Limit in bytes; of a larger file only the end is read, which names the processes that were started last and so may
/// live.
const LARGEST: u64 = 16 << 20;
/// Size in bytes of the part with the first lines, about boot and group.
const HEAD: u64 = 8 << 10;

/// The records of one run, open for child processes to append to.
pub struct RunRecords {
    path: PathBuf,
    file: File,
}

/// One recorded process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_time: u64,
    pub service: String,
}

/// The records that a dead run has left.
#[derive(Debug)]
pub struct DeadRun {
    pub run_id: String,
    pub path: PathBuf,
    /// The control group of the run, if the group still exists.
    pub group: Option<RunGroup>,
    /// Empty if the machine has been started again since: no process of the run can be alive.
    pub records: Vec<ProcessRecord>,
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("pids")
}

/// Adds the path to an error.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl RunRecords {
    /// Creates the records of a run.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn create(state_dir: &Path, run_id: &str, group: Option<&Path>) -> io::Result<Self> {
        let directory = directory(state_dir);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| named(&directory, error))?;
        let path = directory.join(run_id);
        let failed = |error| named(&path, error);
        let mut file = regular::open_own(OpenOptions::new().append(true), &path).map_err(failed)?;
        // Only this process writes there; the lock is shared, so that a concurrent reader cannot make the call fail.
        flock(&file, FlockOperation::NonBlockingLockShared).map_err(|error| failed(error.into()))?;
        let boot = boot_id().map(|boot| format!("boot {boot}\n"));
        let group = group.map(|group| format!("cgroup {}\n", group.display()));
        let head = [boot, group].into_iter().flatten().collect::<String>();
        file.write_all(head.as_bytes()).map_err(failed)?;
        Ok(Self { path, file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor for a child to inherit; the child's copy is closed by the exec.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Records a process that this guard cannot end, and that a later orch could not recognise otherwise.
    pub fn record_unkillable(&self, pid: i32, start_time: u64, service: &str) -> io::Result<()> {
        let service = service.replace(char::is_control, "?");
        (&self.file).write_all(format!("\n{pid} {start_time} {service}\n").as_bytes())
    }

    /// Removes the records of a run of which nothing is left.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log(&format!("could not remove {}: {error}", self.path.display()));
        }
    }
}

/// Unlocks the records at once: without this, a child that is not yet at its exec keeps the lock with its copy of the
/// descriptor.
impl Drop for RunRecords {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            log(&format!("could not unlock {}: {error}", self.path.display()));
        }
    }
}

/// Returns true if the records of a run exist: a process of the run may be alive.
pub fn has_records(state_dir: &Path, run_id: &str) -> bool {
    directory(state_dir).join(run_id).exists()
}

/// Reads the records of the dead runs in this state directory. Skips a run with a living guard (such as an `orch run`
/// next to an `orch up` that has just ended) and entries that are not files.
///
/// # Errors
/// The directory or a file in it cannot be read; the text contains the path.
pub fn read_dead_runs(state_dir: &Path) -> io::Result<Vec<DeadRun>> {
    let directory = directory(state_dir);
    let mut runs = Vec::new();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(runs),
        Err(error) => return Err(named(&directory, error)),
    };
    let boot = boot_id();
    for entry in entries {
        let entry = entry.map_err(|error| named(&directory, error))?;
        let path = entry.path();
        let Some(run_id) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let file = regular::open(&path).map_err(|error| named(&path, error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let text = read_ends(file, HEAD, LARGEST).map_err(|error| named(&path, error))?;
        let text = String::from_utf8_lossy(&text);
        let group = text.lines().find_map(|line| line.strip_prefix("cgroup "));
        let group = group.and_then(|group| RunGroup::of_run(&run_id, Path::new(group)));
        let records = read(&text, boot.as_deref());
        runs.push(DeadRun {
            run_id,
            path,
            group,
            records,
        });
    }
    Ok(runs)
}

/// Reads a whole file; of a file larger than both limits together, the first and the last bytes, without cut lines.
fn read_ends(mut file: File, head: u64, tail: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length <= head + tail {
        return bytes_from(&mut file, 0, head + tail);
    }
    let mut text = bytes_from(&mut file, 0, head)?;
    // A cut line is not a record.
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    let (_, rest) = last_bytes(&mut file, 0, tail)?;
    let first = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    text.extend_from_slice(rest.get(first..).unwrap_or_default());
    Ok(text)
}

/// Parses the records of processes since this boot of the machine. Without a line about the boot (the kernel did not
/// provide the id) the start times are accepted.
fn read(text: &str, boot: Option<&str>) -> Vec<ProcessRecord> {
    let recorded_boot = text.lines().find_map(|line| line.strip_prefix("boot "));
    match (recorded_boot, boot) {
        (Some(then), Some(now)) if then != now => Vec::new(),
        _ => text.lines().filter_map(parse).collect(),
    }
}

/// Parses a record; returns `None` for an incomplete line.
fn parse(line: &str) -> Option<ProcessRecord> {
    let mut words = line.splitn(3, ' ');
    let (pid, start_time, service) = (words.next()?, words.next()?, words.next()?);
    Some(ProcessRecord {
        pid: pid.parse().ok()?,
        start_time: start_time.parse().ok()?,
        service: service.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_are_parsed_and_incomplete_ones_are_not() {
        let record = ProcessRecord {
            pid: 7,
            start_time: 99,
            service: "web server".into(),
        };
        assert_eq!(parse("7 99 web server"), Some(record));
        assert_eq!(parse("7 9"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn of_a_large_file_the_first_lines_and_the_last_records_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let lines: String = (1000..2000).map(|pid| format!("\n{pid} 99 web\n")).collect();
        fs::write(&path, format!("boot a\n{lines}")).unwrap();
        let text = read_ends(File::open(&path).unwrap(), 20, 50).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "boot a\n\n1000 99 web\n\n\n1997 99 web\n\n1998 99 web\n\n1999 99 web\n"
        );
        let whole = read_ends(File::open(&path).unwrap(), 20, 1 << 20).unwrap();
        assert_eq!(whole, fs::read(&path).unwrap());
    }

    #[test]
    fn records_of_another_boot_are_ignored() {
        for (text, boot, count) in [
            ("boot a\n7 99 web\n", Some("a"), 1),
            ("boot b\n7 99 web\n", Some("a"), 0),
            ("7 99 web\n", Some("a"), 1),
            ("boot b\n7 99 web\n", None, 1),
            ("\u{fffd}\u{fffd}\n7 99 web\n8 ", Some("a"), 1),
        ] {
            assert_eq!(read(text, boot).len(), count, "{text:?} {boot:?}");
        }
    }

    #[test]
    fn records_of_a_living_guard_and_entries_that_are_not_files_are_skipped() {
        let state = tempfile::tempdir().unwrap();
        let living = RunRecords::create(state.path(), "living", None).unwrap();
        fs::create_dir(state.path().join("pids/directory")).unwrap();
        fs::write(state.path().join("pids/odd"), b"\xff\xfe\n7 99 web\n").unwrap();
        let found = || {
            let mut runs: Vec<String> = read_dead_runs(state.path())
                .unwrap()
                .into_iter()
                .map(|run| run.run_id)
                .collect();
            runs.sort();
            runs
        };
        assert_eq!(found(), ["odd"]);
        drop(living);
        assert_eq!(found(), ["living", "odd"]);
    }
}
