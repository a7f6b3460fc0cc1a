//! Memory of the machine: how much is available to this process, and how often processes wait for memory.
//!
//! If a control group (v2) of this process, or one above it, has a limit, the rest of that limit counts as well; page
//! cache that can be dropped counts as free. Values that cannot be read are ignored: a kernel without pressure
//! information reports no pressure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::own_group::own_group;

/// One measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryReading {
    /// Bytes that can be used before the kernel pages out or kills something.
    pub available: u64,
    /// Percent of the last ten seconds in which at least one process has waited for memory.
    pub pressure: Option<f64>,
}

/// The files that the measurements come from.
#[derive(Clone, Debug)]
pub struct MemoryReader {
    proc: PathBuf,
    /// Control groups that contain this process, the innermost first.
    groups: Vec<PathBuf>,
}

impl MemoryReader {
    /// Returns a reader for this process.
    pub fn of_this_process() -> Self {
        let own = own_group();
        Self::new(Path::new("/proc"), own.as_deref())
    }

    fn new(proc: &Path, group: Option<&Path>) -> Self {
        let groups = group.into_iter().flat_map(Path::ancestors);
        Self {
            proc: proc.to_owned(),
            // The group of the mount point, the root, has no limit; directories above the mount point are not groups.
            groups: groups
                .take_while(|group| group.join("cgroup.procs").exists())
                .map(Path::to_owned)
                .collect(),
        }
    }

    /// Measures the available memory and the pressure.
    ///
    /// # Errors
    /// The available memory is unknown: `/proc/meminfo` cannot be read or has no `MemAvailable`.
    pub fn read(&self) -> io::Result<MemoryReading> {
        let path = self.proc.join("meminfo");
        let failed = |why: String| io::Error::other(format!("could not read {}: {why}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        let machine = available(&text).ok_or_else(|| failed("it has no `MemAvailable`".to_owned()))?;
        let left = self.groups.iter().filter_map(|group| left(group));
        // A group with a limit has a separate pressure; the pressure of the machine may come from other groups.
        let confined = self.groups.iter().find(|group| limit(group).is_some());
        let pressures = match confined {
            Some(group) => group.join("memory.pressure"),
            None => self.proc.join("pressure/memory"),
        };
        Ok(MemoryReading {
            available: left.fold(machine, u64::min),
            pressure: fs::read_to_string(pressures).ok().as_deref().and_then(pressure),
        })
    }
}

/// Reads `MemAvailable:   123 kB` from `meminfo`; returns bytes.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Reads the percentage of `some avg10=1.23 ...`.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some.split(' ').find_map(|word| word.strip_prefix("avg10="))?;
    average.parse().ok()
}

fn limit(group: &Path) -> Option<u64> {
    // `max` means "no limit".
    fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
}

/// Returns the rest of a group's limit.
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

    /// Creates the files of a machine with 1000 MiB available, and a group below another one.
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
    fn without_a_limit_the_memory_of_the_machine_counts() {
        let (directory, group) = machine();
        write(group.join("memory.max"), "max\n");
        write(group.join("memory.current"), "1\n");
        let expected = MemoryReading {
            available: 1000 * MIB,
            pressure: Some(12.5),
        };
        let reader = MemoryReader::new(&directory.path().join("proc"), Some(&group));
        assert_eq!(reader.groups.len(), 3);
        assert_eq!(reader.read().unwrap(), expected);
        let reader = MemoryReader::new(&directory.path().join("proc"), None);
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
        let reader = MemoryReader::new(&directory.path().join("proc"), Some(&group));
        let expected = MemoryReading {
            available: 160 * MIB,
            pressure: Some(99.0),
        };
        assert_eq!(reader.read().unwrap(), expected);
    }

    #[test]
    fn values_that_the_kernel_does_not_report_are_unknown() {
        let (directory, _) = machine();
        let proc = directory.path().join("proc");
        fs::remove_dir_all(proc.join("pressure")).unwrap();
        assert_eq!(MemoryReader::new(&proc, None).read().unwrap().pressure, None);
        fs::write(proc.join("meminfo"), "MemTotal: 1 kB\n").unwrap();
        assert!(MemoryReader::new(&proc, None).read().is_err());
    }

    #[test]
    fn this_machine_reports_available_memory() {
        assert!(MemoryReader::of_this_process().read().unwrap().available > 0);
    }
}
