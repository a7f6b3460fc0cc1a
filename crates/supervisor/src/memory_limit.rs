//! The memory that services use, and the service that is furthest above the limit.
//!
//! Shared pages count once: each process is charged with a share of them (PSS). The processes of a pool are forked and
//! share the pages of the loaded app, so the sum of their resident sizes would be several times the real use.

use std::fs;
use std::io;

use orch_base::system::processes::tree as process_tree;
use orch_base::text::bytes::shown;
use orch_journal::ServiceName;

/// One measurement of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    pub service: ServiceName,
    /// The main process.
    pub pid: i32,
    /// Bytes that the main process and all descendants use.
    pub bytes: u64,
}

/// Measures the memory of the services; a service that has just ended is left out.
pub fn measure(services: Vec<(ServiceName, i32)>) -> Vec<MemoryUse> {
    let measure = |(service, pid): (ServiceName, i32)| match of_tree(pid) {
        Ok(bytes) => Some(MemoryUse { service, pid, bytes }),
        Err(error) => {
            tracing::debug!(%service, %error, "could not measure the memory of the service");
            None
        }
    };
    services
        .into_iter()
        .filter_map(measure)
        .filter(|held| held.bytes > 0)
        .collect()
}

fn of_tree(pid: i32) -> io::Result<u64> {
    let tree = process_tree(pid)?;
    Ok(tree.iter().map(|process| of_process(process.pid)).sum())
}

/// Returns the bytes of one process; 0 for an ended process.
fn of_process(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let proportional = rollup.ok().as_deref().and_then(proportional);
    proportional.or_else(|| resident(pid)).unwrap_or(0)
}

/// Reads the bytes of `Pss:   123 kB`.
fn proportional(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Returns the resident bytes of a process, for a kernel without PSS.
fn resident(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Returns the index of the pair (bytes, limit) that is furthest above the limit, in proportion to the limit.
pub fn worst(held: &[(u64, u64)]) -> Option<usize> {
    let over = held.iter().enumerate().filter(|(_, (bytes, limit))| bytes > limit);
    // Compares a / b with c / d without rounding.
    let share = |(bytes, limit): (u64, u64), other: (u64, u64)| {
        (u128::from(bytes) * u128::from(other.1)).cmp(&(u128::from(other.0) * u128::from(limit)))
    };
    let worst = over.max_by(|(_, one), (_, other)| share(**one, **other));
    worst.map(|(place, _)| place)
}

/// Explains why a service above its limit is started again.
pub fn reason(bytes: u64, limit: u64) -> String {
    format!(
        "its processes hold {} of memory, `max_memory` is {}",
        shown(bytes),
        shown(limit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_the_one_that_is_furthest_above_its_own_limit() {
        for (held, expected) in [
            (vec![], None),
            (vec![(100, 100)], None),
            (vec![(101, 100)], Some(0)),
            (vec![(150, 100), (1400, 1000), (90, 100)], Some(0)),
            (vec![(150, 100), (u64::MAX, 1000)], Some(1)),
            (vec![(5, 0), (99, 100)], Some(0)),
        ] {
            assert_eq!(worst(&held), expected, "{held:?}");
        }
    }

    #[test]
    fn this_process_and_its_children_are_counted() {
        // Written pages use memory.
        let mut buffer = vec![0_u8; 64 << 20];
        buffer.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        let pid = std::process::id().cast_signed();
        let held = measure(vec![("me".into(), pid), ("nobody".into(), i32::MAX)]);
        assert_eq!(held.len(), 1);
        assert!(held[0].bytes > 64 << 20, "{held:?}");
        std::hint::black_box(buffer);
    }

    #[test]
    fn shared_pages_count_by_their_part() {
        let text = "00400000-7ffe [rollup]\nRss:     9000 kB\nPss:     1234 kB\nPss_Anon:  99 kB\n";
        assert_eq!(proportional(text), Some(1234 << 10));
        assert_eq!(proportional("Rss: 1 kB\n"), None);
    }
}
