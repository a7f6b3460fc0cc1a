//! Use of the machine by a process tree at one moment: processor time, resident memory and listening ports, as files of
//! the kernel show them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::time::Duration;

use super::processes::{Process, tree};
use crate::boot_clock::BootInstant;

/// Clock ticks per second of `/proc/<pid>/stat`: the kernel converts to this unit on every architecture that orch
/// supports.
const TICKS_PER_SECOND: u64 = 100;
/// Number of descriptors of a process that are looked at: sockets that listen are opened before those of clients.
const MAX_DESCRIPTORS: usize = 256;

/// Use of one process tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeUse {
    /// Number of processes that have not ended.
    pub processes: usize,
    /// Processor time of the processes and of the children that they have waited for.
    pub cpu: Duration,
    /// Sum of the resident memory in bytes; memory that processes share counts for each of them.
    pub resident_bytes: u64,
    /// Time since the start of the first process.
    pub age: Duration,
    /// TCP ports on which a process listens.
    pub ports: BTreeSet<u16>,
}

impl TreeUse {
    /// Measures the tree below a process. `listening` has the ports of the machine by the inodes of their sockets.
    /// Returns `None` if the process does not exist.
    ///
    /// # Errors
    /// A process cannot be looked up.
    pub fn measure(root: i32, listening: &HashMap<u64, u16>) -> io::Result<Option<Self>> {
        let tree = tree(root)?;
        let Some(first) = tree.first().filter(|process| !process.zombie) else {
            return Ok(None);
        };
        let started = BootInstant::at(ticks(first.start_time));
        let mut sum = Self {
            age: BootInstant::now() - started,
            ..Self::default()
        };
        for process in tree.iter().filter(|process| !process.zombie) {
            sum.add(process, listening);
        }
        Ok(Some(sum))
    }

    fn add(&mut self, process: &Process, listening: &HashMap<u64, u16>) {
        self.processes += 1;
        self.cpu += ticks(process.cpu_ticks);
        self.resident_bytes = self.resident_bytes.saturating_add(resident(process.pid).unwrap_or(0));
        if !listening.is_empty() {
            self.ports.extend(ports(process.pid, listening));
        }
    }

    /// Returns the share of one processor that the tree has used in percent: since the earlier measurement, or else
    /// since the start of the tree.
    pub fn cpu_percent(&self, earlier: Option<&Self>) -> f64 {
        let (cpu, age) = match earlier {
            // An older tree is another one: the service was started again.
            Some(earlier) if earlier.age < self.age => (
                // Children that have ended without a parent that waits for them are lost to the sum.
                self.cpu.saturating_sub(earlier.cpu),
                self.age.saturating_sub(earlier.age),
            ),
            _ => (self.cpu, self.age),
        };
        match age.is_zero() {
            true => 0.0,
            false => 100.0 * cpu.as_secs_f64() / age.as_secs_f64(),
        }
    }
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND))
}

/// Reads the resident bytes of a process.
fn resident(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Returns the ports of a process's listening sockets; none if the descriptors are not visible.
fn ports(pid: i32, listening: &HashMap<u64, u16>) -> BTreeSet<u16> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeSet::new();
    };
    let links = descriptors
        .take(MAX_DESCRIPTORS)
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inodes = links.filter_map(|link| {
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse::<u64>().ok()
    });
    inodes.filter_map(|inode| listening.get(&inode).copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::net::socket_owner::listening_ports;

    #[test]
    fn this_process_has_memory_time_and_its_port() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let me = std::process::id().cast_signed();
        let measured = TreeUse::measure(me, &listening_ports()).unwrap().unwrap();
        assert!(
            measured.processes >= 1 && measured.resident_bytes > 1 << 20,
            "{measured:?}"
        );
        assert!(measured.ports.contains(&port), "{measured:?}");
        assert!(measured.age < Duration::from_secs(24 * 3600), "{measured:?}");
        assert_eq!(TreeUse::measure(i32::MAX, &HashMap::new()).unwrap(), None);
    }

    #[test]
    fn the_share_is_that_since_the_last_look_of_the_same_tree() {
        let at = |age, cpu| TreeUse {
            cpu: Duration::from_secs(cpu),
            age: Duration::from_secs(age),
            ..TreeUse::default()
        };
        for (now, earlier, percent) in [
            (at(100, 50), None, 50.0),
            (at(100, 50), Some(at(90, 50)), 0.0),
            (at(100, 60), Some(at(90, 40)), 200.0),
            (at(10, 1), Some(at(90, 50)), 10.0),
            (at(100, 50), Some(at(90, 60)), 0.0),
            (at(0, 0), None, 0.0),
        ] {
            assert_eq!(now.cpu_percent(earlier.as_ref()), percent, "{now:?} {earlier:?}");
        }
    }
}
