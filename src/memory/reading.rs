//! What the kernel says of memory: how much is available to this process, and how much of the time something waits for it.
//!
//! Of a control group (v2) with a limit, and of each above it, what is left counts as well, page cache that can be dropped
//! included. What cannot be read says nothing: a kernel without pressure information has none to show.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Bytes that may be used before something has to be paged out or killed.
    pub available: u64,
    /// Percent of the last ten seconds in which at least one process has waited for memory.
    pub pressure: Option<f64>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Reader {
    proc: PathBuf,
    /// Groups that hold this process, its own first.
    groups: Vec<PathBuf>,
}

impl Reader {
    /// For this process.
    pub fn of_this_process() -> Self {
        let own = crate::guard::own_control_group();
        Self::new(Path::new("/proc"), own.as_deref())
    }

    fn new(proc: &Path, group: Option<&Path>) -> Self {
        let groups = group.into_iter().flat_map(Path::ancestors);
        Self {
            proc: proc.to_owned(),
            // The mount point's own group, the root, has no limit; above it nothing is a group.
            groups: groups
                .take_while(|group| group.join("cgroup.procs").exists())
                .map(Path::to_owned)
                .collect(),
        }
    }

    /// Looks.
    ///
    /// # Errors
    /// The kernel does not say how much is available.
    pub fn read(&self) -> io::Result<Reading> {
        let path = self.proc.join("meminfo");
        let failed = |why: String| io::Error::other(format!("read {}: {why}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        let machine = available(&text).ok_or_else(|| failed("it has no `MemAvailable`".to_owned()))?;
        let left = self.groups.iter().filter_map(|group| left(group));
        // A group that is confined has a pressure of its own; that of the machine may be its neighbours'.
        let confined = self.groups.iter().find(|group| limit(group).is_some());
        let pressures = match confined {
            Some(group) => group.join("memory.pressure"),
            None => self.proc.join("pressure/memory"),
        };
        Ok(Reading {
            available: left.fold(machine, u64::min),
            pressure: fs::read_to_string(pressures).ok().as_deref().and_then(pressure),
        })
    }
}

/// `MemAvailable:   123 kB` of `meminfo`.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// The share of `some avg10=1.23 ...`.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some.split(' ').find_map(|word| word.strip_prefix("avg10="))?;
    average.parse().ok()
}

fn limit(group: &Path) -> Option<u64> {
    // `max` is none.
    fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
}

/// What is left of a group's limit.
fn left(group: &Path) -> Option<u64> {
    let limit = limit(group)?;
    let current: u64 = fs::read_to_string(group.join("memory.current"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| -> u64 {
        let words = stat.lines().filter_map(|line| line.split_once(' '));
        let mut found = words
            .filter(|(word, _)| *word == name)
            .map(|(_, number)| number.parse());
        found.next().and_then(Result::ok).unwrap_or(0)
    };
    let droppable = of("inactive_file")
        .saturating_add(of("active_file"))
        .saturating_add(of("slab_reclaimable"));
    Some(limit.saturating_sub(current.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A machine with 1000 MiB available, and a group below another.
    fn machine() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let meminfo = "MemTotal:        8192000 kB\nMemFree:          1234 kB\nMemAvailable:    1024000 kB\n";
        write(root.join("proc/meminfo"), meminfo);
        write(
            root.join("proc/pressure/memory"),
            "some avg10=12.50 avg60=1.00 avg300=0.00 total=7\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n",
        );
        let group = root.join("cgroup/outer/inner");
        for group in group.ancestors().take(3) {
            write(group.join("cgroup.procs"), "");
        }
        (directory, group)
    }

    #[test]
    fn without_a_limit_it_is_the_machine_that_counts() {
        let (directory, group) = machine();
        write(group.join("memory.max"), "max\n");
        write(group.join("memory.current"), "1\n");
        let expected = Reading {
            available: 1000 * MIB,
            pressure: Some(12.5),
        };
        let reader = Reader::new(&directory.path().join("proc"), Some(&group));
        assert_eq!(reader.groups.len(), 3);
        assert_eq!(reader.read().unwrap(), expected);
        let reader = Reader::new(&directory.path().join("proc"), None);
        assert_eq!(reader.read().unwrap(), expected);
    }

    #[test]
    fn the_tightest_limit_of_the_groups_counts_and_its_cache_can_be_dropped() {
        let (directory, group) = machine();
        let outer = group.parent().unwrap();
        write(outer.join("memory.max"), &format!("{}\n", 500 * MIB));
        write(outer.join("memory.current"), &format!("{}\n", 400 * MIB));
        write(
            outer.join("memory.stat"),
            &format!(
                "anon 1\ninactive_file {}\nactive_file {}\nslab_reclaimable 0\n",
                50 * MIB,
                10 * MIB
            ),
        );
        write(
            outer.join("memory.pressure"),
            "some avg10=99.00 avg60=0 avg300=0 total=0\n",
        );
        let reader = Reader::new(&directory.path().join("proc"), Some(&group));
        let expected = Reading {
            available: 160 * MIB,
            pressure: Some(99.0),
        };
        assert_eq!(reader.read().unwrap(), expected);
    }

    #[test]
    fn what_a_kernel_does_not_say_is_not_known() {
        let (directory, _) = machine();
        let proc = directory.path().join("proc");
        fs::remove_dir_all(proc.join("pressure")).unwrap();
        assert_eq!(Reader::new(&proc, None).read().unwrap().pressure, None);
        fs::write(proc.join("meminfo"), "MemTotal: 1 kB\n").unwrap();
        assert!(Reader::new(&proc, None).read().is_err());
    }

    #[test]
    fn this_machine_tells() {
        assert!(Reader::of_this_process().read().unwrap().available > 0);
    }
}
