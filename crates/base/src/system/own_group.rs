//! The control group (v2) of this process.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the directory of the control group of this process; `None` without cgroup v2.
pub fn own_group() -> Option<PathBuf> {
    own_directory(
        &fs::read_to_string("/proc/self/cgroup").ok()?,
        &fs::read_to_string("/proc/self/mountinfo").ok()?,
    )
}

/// Returns the directory of a process's group, from `/proc/<pid>/cgroup` and `mountinfo`; `None` without cgroup v2.
fn own_directory(cgroup: &str, mounts: &str) -> Option<PathBuf> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        // Fields 4 and 5: the mounted part of the tree, and the mount point. A path with escaped characters is
        // rejected.
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let inside = Path::new(group).strip_prefix(root).ok()?;
        let is_unusable = [root, place, group]
            .iter()
            .any(|text| text.contains('\\') || text.contains(".."));
        (!is_unusable).then(|| Path::new(place).join(inside))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_below_the_mount() {
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
}
