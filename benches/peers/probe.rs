//! The supervised program: says when its first instruction ran, then waits for its end.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub const ARGUMENT: &str = "be-supervised";

/// Nanoseconds of the clock that all processes share and nobody sets.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Appends a line of pid and time to `stamps`; SIGTERM ends it by default.
pub fn serve(stamps: &Path) -> ! {
    let line = format!("{} {}\n", std::process::id(), now());
    let file = fs::OpenOptions::new().create(true).append(true).open(stamps);
    file.unwrap().write_all(line.as_bytes()).unwrap();
    loop {
        std::thread::park_timeout(Duration::from_secs(3600));
    }
}

/// Pid and time of every start so far, in order.
pub fn read(stamps: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(stamps).unwrap_or_default();
    // A line without its end is still being written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| {
        let (pid, time) = line.split_once(' ')?;
        Some((pid.parse().ok()?, time.parse().ok()?))
    };
    whole.lines().filter_map(parse).collect()
}
