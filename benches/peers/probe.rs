//! The supervised program: records the time of its first instruction, then waits for its end.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub const ARGUMENT: &str = "be-supervised";

/// Returns nanoseconds of the monotonic clock, which all processes share.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Additional argument of a probe that notifies its readiness on file descriptor 3, the protocol of s6.
pub const NOTIFIES: &str = "and-notify";

/// Appends a line with pid and time to `stamps`, then sleeps; the default action of SIGTERM ends the process.
pub fn serve(stamps: &Path, notifies: bool) -> ! {
    let line = format!("{} {}\n", std::process::id(), now());
    let file = fs::OpenOptions::new().create(true).append(true).open(stamps);
    file.unwrap().write_all(line.as_bytes()).unwrap();
    if notifies {
        fs::write("/proc/self/fd/3", "\n").unwrap();
    }
    loop {
        std::thread::park_timeout(Duration::from_secs(3600));
    }
}

/// Reads pid and time of every start so far, in order.
pub fn read(stamps: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(stamps).unwrap_or_default();
    // Ignores a line without a line break, which is still being written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| {
        let (pid, time) = line.split_once(' ')?;
        Some((pid.parse().ok()?, time.parse().ok()?))
    };
    whole.lines().filter_map(parse).collect()
}
