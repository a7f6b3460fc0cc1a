//! The control group of a run. The guard is started in the group, so all processes that the guard starts are in it too.
//! The kernel ends all of them at once, however they fork, daemonise or wipe their environment.
//!
//! The group is an aid that orch can do without. orch creates the group below the group of orch if cgroup v2 is
//! mounted, the kernel can kill groups (Linux 5.14) and this user may create a group: root may, and a user in a
//! delegated part of the tree. Without a group the guard ends the process trees one process after the other
//! (`kill_tree` of the guard). No controller is enabled: limits and accounting stay with the group of orch.
//!
//! orch holds a lock on the group that it created, and removes the group at the end. An orch that is killed earlier
//! leaves an empty group; the next orch that starts in the same parent group removes the empty group.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orch_base::system::own_group::own_group;
use rustix::fs::{FlockOperation, flock};

/// Prefix of the run id in the name of the group.
const PREFIX: &str = "orch-";
/// Longest wait for a group to become empty after the processes in the group were killed.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A group that this process created and keeps locked while this value lives.
#[derive(Debug)]
pub struct HeldGroup {
    group: RunGroup,
    directory: File,
}

impl HeldGroup {
    /// Creates the group of this run; returns `None` if that is not possible.
    pub fn create(run_id: &str) -> Option<Self> {
        if !is_plain(run_id) {
            return None;
        }
        let own = own_group()?;
        remove_abandoned(&own);
        let group = RunGroup(own.join(format!("{PREFIX}{run_id}")));
        fs::create_dir(&group.0).ok()?;
        let held = File::open(&group.0).ok().filter(|_| group.can_kill());
        match held.filter(|directory| flock(directory, FlockOperation::NonBlockingLockShared).is_ok()) {
            Some(directory) => Some(Self { group, directory }),
            None => {
                fs::remove_dir(&group.0).ok();
                None
            }
        }
    }

    pub fn group(&self) -> &RunGroup {
        &self.group
    }

    /// Removes the group when it is empty; returns true if the group is gone.
    pub fn remove(self) -> bool {
        self.group.remove()
    }
}

/// Lends the directory's descriptor, with which `clone3` starts a process in the group.
impl AsFd for HeldGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Removes the groups of dead runs; a group that still holds a process stays.
fn remove_abandoned(below: &Path) {
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let is_of_orch = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .is_some_and(is_plain);
        if is_of_orch
            && let Ok(directory) = File::open(entry.path())
            // A group that was created just now may not be locked yet; if the group is removed here, the run works
            // without a group.
            && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            fs::remove_dir(entry.path()).ok();
        }
    }
}

/// The group of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunGroup(PathBuf);

impl RunGroup {
    /// Returns the group at this path if the group exists and the name fits the run id.
    pub fn of_run(run_id: &str, path: &Path) -> Option<Self> {
        let named = path.file_name()?.to_str()?.strip_prefix(PREFIX) == Some(run_id);
        let group = Self(path.to_owned());
        (is_plain(run_id) && named && path.is_absolute() && group.can_kill()).then_some(group)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn can_kill(&self) -> bool {
        self.0.join("cgroup.kill").exists()
    }

    /// Kills all processes in the group and in the groups below; returns before they are gone.
    ///
    /// # Errors
    /// The kernel refuses the write to `cgroup.kill`.
    pub fn kill(&self) -> io::Result<()> {
        write(&self.0.join("cgroup.kill"), "1")
    }

    /// Moves this process from the group to the parent group.
    ///
    /// # Errors
    /// The kernel refuses the move.
    pub fn leave(&self) -> io::Result<()> {
        let above = self.0.parent().unwrap_or(&self.0);
        write(&above.join("cgroup.procs"), "0")
    }

    /// Lists the processes in the group and in the groups below, as far as this process can see them.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for group in self.with_descendants() {
            let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            // 0 stands for a process of another pid namespace.
            let pids = listed.lines().filter_map(|pid| pid.parse::<i32>().ok());
            found.extend(pids.filter(|pid| *pid != 0));
        }
        found
    }

    /// Removes the group and the groups below as soon as they are empty; returns true if all are gone.
    pub fn remove(&self) -> bool {
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        loop {
            // From the bottom to the top.
            let removed = self
                .with_descendants()
                .iter()
                .rev()
                .all(|group| match fs::remove_dir(group) {
                    Ok(()) => true,
                    Err(error) => error.kind() == io::ErrorKind::NotFound,
                });
            if removed || Instant::now() >= deadline {
                return removed;
            }
            std::thread::park_timeout(POLL_INTERVAL);
        }
    }

    /// Lists the group and all groups below, from the top to the bottom.
    fn with_descendants(&self) -> Vec<PathBuf> {
        let mut found = vec![self.0.clone()];
        let mut next = 0;
        while let Some(group) = found.get(next) {
            let below = fs::read_dir(group).into_iter().flatten().flatten();
            let below: Vec<PathBuf> = below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect();
            found.extend(below);
            next += 1;
        }
        found
    }
}

/// Returns true for text that is safe as a part of a path; every run id is.
fn is_plain(run_id: &str) -> bool {
    !run_id.is_empty() && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Writes the text with one `write` call, as control files need.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_group_is_not_removed_as_abandoned() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["orch-a1", "orch-b2", "orch-c3", "other"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::create_dir(directory.path().join("orch-c3/below")).unwrap();
        let held = File::open(directory.path().join("orch-a1")).unwrap();
        flock(&held, FlockOperation::NonBlockingLockShared).unwrap();
        remove_abandoned(directory.path());
        let left = fs::read_dir(directory.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["orch-a1", "orch-c3", "other"]);
    }

    #[test]
    fn only_a_group_with_the_name_of_the_run_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orch-a1");
        assert_eq!(RunGroup::of_run("a1", &path), None, "the path does not exist");
        fs::create_dir(&path).unwrap();
        assert_eq!(
            RunGroup::of_run("a1", &path),
            None,
            "the directory is not a control group"
        );
        fs::write(path.join("cgroup.kill"), "").unwrap();
        assert_eq!(RunGroup::of_run("a1", &path), Some(RunGroup(path.clone())));
        assert_eq!(RunGroup::of_run("b2", &path), None);
        assert_eq!(RunGroup::of_run("", &directory.path().join("orch-")), None);
        assert!(HeldGroup::create("../a1").is_none());
    }
}
