//! Who was started: one line a process, `<pid> <start time> <service>`, written by the process itself before it
//! executes its program. One file a run, `<state>/pids/<run id>`, there as long as something of the run may live.
//! Empty lines mean nothing: each record begins with a line break.
//!
//! Its first line, `boot <id>`, says since which start of the machine the start times count: after another one they name
//! strangers. A second, `cgroup <path>`, says which control group all of the run is in, if it is in one. The run's guard
//! holds a lock on the file for as long as it lives.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::cgroup::RunGroup;
use crate::regular_file;

/// More than any run writes: what is larger is not read further.
const LARGEST: u64 = 16 << 20;

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

/// The records that a dead run has left.
#[derive(Debug)]
pub struct DeadRun {
    pub run_id: String,
    pub path: PathBuf,
    /// Where all of the run was, if that is still there.
    pub group: Option<RunGroup>,
    /// Empty if the machine has been started again since: nothing of the run can live.
    pub records: Vec<Record>,
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("pids")
}

/// An error that says which file it is about.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Records {
    /// Begins the records of a run.
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
        let mut file = regular_file::open_own(OpenOptions::new().append(true), &path).map_err(failed)?;
        // Nobody else writes there; shared, so that it cannot fail for a reader who is just looking.
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

    /// For a child to inherit; the child's copy is closed by its exec.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Records a process that this guard cannot end, and that bears no mark for whoever comes after it.
    pub fn note(&self, pid: i32, start_time: u64, service: &str) -> io::Result<()> {
        let service = service.replace(char::is_control, "?");
        (&self.file).write_all(format!("\n{pid} {start_time} {service}\n").as_bytes())
    }

    /// Nothing of the run is left: neither are its records.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            super::server::log(&format!("remove {}: {error}", self.path.display()));
        }
    }
}

/// The records of the dead runs in this state directory. A run whose guard lives (such as an `orch run` beside an
/// `orch up` that has just ended) is not among them; neither is what is no file.
///
/// # Errors
/// The directory or a file in it cannot be read; the text names it.
pub fn of_dead_runs(state_dir: &Path) -> io::Result<Vec<DeadRun>> {
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
        let file = regular_file::open(&path).map_err(|error| named(&path, error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let mut text = Vec::new();
        file.take(LARGEST)
            .read_to_end(&mut text)
            .map_err(|error| named(&path, error))?;
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

/// What the text records about processes since this start of the machine. Without a first line about it (the kernel did
/// not tell) the start times are believed.
fn read(text: &str, boot: Option<&str>) -> Vec<Record> {
    let recorded_boot = text.lines().find_map(|line| line.strip_prefix("boot "));
    match (recorded_boot, boot) {
        (Some(then), Some(now)) if then != now => Vec::new(),
        _ => text.lines().filter_map(parse).collect(),
    }
}

/// Which start of the machine this is.
fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
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

    #[test]
    fn records_of_another_start_of_the_machine_name_strangers() {
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
    fn a_living_guards_records_and_what_is_no_file_are_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let living = Records::create(state.path(), "living", None).unwrap();
        fs::create_dir(state.path().join("pids/directory")).unwrap();
        fs::write(state.path().join("pids/odd"), b"\xff\xfe\n7 99 web\n").unwrap();
        let found = || {
            let mut runs: Vec<String> = of_dead_runs(state.path())
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
