//! The control group of a run: the guard is born in it, so that whatever it starts is, and the kernel itself ends all of
//! it at once, however it forks, daemonises or wipes its environment.
//!
//! A help, never a need. It is made below the group of orch where cgroup v2 is mounted, can end groups (Linux 5.14) and
//! lets us make one: as root, or in a part of the tree that was delegated to the user. Without it the trees are ended one
//! process after the other (`sweep`). No controller is switched on: limits and accounts stay those of orch's own group.
//!
//! orch holds a lock on the group that it made and removes it at its end; who is killed before that leaves an empty group,
//! which the next start beside it removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Before the run's id in the group's name.
const PREFIX: &str = "orch-";
/// How long a group is given to be empty once what was in it has been killed.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

/// A group that this process has made, and holds for as long as this lives.
#[derive(Debug)]
pub struct HeldGroup {
    group: RunGroup,
    directory: File,
}

impl HeldGroup {
    /// Makes the group of this run; none where that is not possible.
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

    /// Removes it, once nobody is in it; whether it is gone.
    pub fn remove(self) -> bool {
        self.group.remove()
    }
}

/// For a process to be born in it.
impl AsFd for HeldGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Removes the groups of runs whose orch was killed before it could; what still has somebody in it stays.
fn remove_abandoned(below: &Path) {
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .is_some_and(is_plain);
        if ours
            && let Ok(directory) = File::open(entry.path())
            // One that was made this instant may not be held yet: its run does without.
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
    /// The group that a run of this id was in; none if there is none any more, or the path cannot be that of one.
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

    /// Kills all that is in it or in a group below it; returns before they are gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        write(&self.0.join("cgroup.kill"), "1")
    }

    /// Moves this process out of it, into the group above.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(&self) -> io::Result<()> {
        let above = self.0.parent().unwrap_or(&self.0);
        write(&above.join("cgroup.procs"), "0")
    }

    /// Who is in it or in a group below it, as far as this process can see them.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for group in self.with_those_below() {
            let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            // 0 is one of another pid namespace.
            let pids = listed.lines().filter_map(|pid| pid.parse::<i32>().ok());
            found.extend(pids.filter(|pid| *pid != 0));
        }
        found
    }

    /// Removes it and the groups below it, as soon as nothing is in them; whether it is gone.
    pub fn remove(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // From the bottom up.
            let removed = self
                .with_those_below()
                .iter()
                .rev()
                .all(|group| match fs::remove_dir(group) {
                    Ok(()) => true,
                    Err(error) => error.kind() == io::ErrorKind::NotFound,
                });
            if removed || Instant::now() >= deadline {
                return removed;
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// It and all groups below it, from the top down.
    fn with_those_below(&self) -> Vec<PathBuf> {
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

/// A run's id is; what is not must not become a path.
fn is_plain(run_id: &str) -> bool {
    !run_id.is_empty() && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Such files take one write.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// The directory of the group that this process is in; `None` without cgroup v2.
pub fn own_group() -> Option<PathBuf> {
    own_directory(
        &fs::read_to_string("/proc/self/cgroup").ok()?,
        &fs::read_to_string("/proc/self/mountinfo").ok()?,
    )
}

/// Where the group of a process is, from its `/proc/<pid>/cgroup` and `mountinfo`; `None` without cgroup v2.
fn own_directory(cgroup: &str, mounts: &str) -> Option<PathBuf> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        // Fields 4 and 5: the part of the tree that is mounted, and where. Neither is expected to hold what is escaped.
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let inside = Path::new(group).strip_prefix(root).ok()?;
        let strange = [root, place, group]
            .iter()
            .any(|text| text.contains('\\') || text.contains(".."));
        (!strange).then(|| Path::new(place).join(inside))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_group_is_found_below_the_mount() {
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "33 23 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let part = "29 23 0:26 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let above = "29 23 0:26 /.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        for (cgroup, mounts, expected) in [
            (
                "0::/user.slice/a.scope\n",
                v2,
                Some("/sys/fs/cgroup/user.slice/a.scope"),
            ),
            ("0::/\n", v2, Some("/sys/fs/cgroup")),
            ("8:pids:/x\n0::/y\n", hybrid, Some("/sys/fs/cgroup/unified/y")),
            ("0::/user.slice/a.scope\n", part, Some("/sys/fs/cgroup/a.scope")),
            ("0::/system.slice\n", part, None),
            ("0::/\n", above, None),
            ("0::/../other\n", v2, None),
            ("8:pids:/x\n", hybrid, None),
            ("0::/\n", "", None),
        ] {
            let found = own_directory(cgroup, mounts);
            assert_eq!(found.as_deref(), expected.map(Path::new), "{cgroup} {mounts}");
        }
    }

    #[test]
    fn what_is_held_is_not_taken_for_abandoned() {
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
    fn only_the_group_of_that_very_run_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orch-a1");
        assert_eq!(RunGroup::of_run("a1", &path), None, "there is none");
        fs::create_dir(&path).unwrap();
        assert_eq!(RunGroup::of_run("a1", &path), None, "it is no control group");
        fs::write(path.join("cgroup.kill"), "").unwrap();
        assert_eq!(RunGroup::of_run("a1", &path), Some(RunGroup(path.clone())));
        assert_eq!(RunGroup::of_run("b2", &path), None);
        assert_eq!(RunGroup::of_run("", &directory.path().join("orch-")), None);
        assert!(HeldGroup::create("../a1").is_none());
    }
}
