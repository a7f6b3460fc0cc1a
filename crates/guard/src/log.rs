//! The guard's own log: one line per message, on standard error.

use std::io::{self, Write};
use std::path::Path;

use orch_base::files::regular;
use orch_base::files::tail::last_bytes;
use orch_base::text::printable::one_line;
use orch_base::wall_clock::unix_now;

/// Message about the end of orch without a goodbye.
pub const ORCH_GONE: &str = "orch is gone: ordered stop";
/// Number of bytes at the end of a log in which that message is searched for: the guard writes little after it.
const SEARCHED_BYTES: u64 = 64 << 10;

/// Writes a line with the time in seconds since 1970.
pub fn log(text: &str) {
    let since = unix_now();
    let text = one_line(text);
    writeln!(io::stderr(), "{}.{:03} {text}", since.as_secs(), since.subsec_millis()).ok();
}

/// Finds the time at which orch died in a guard's log, in seconds since 1970; `None` if the guard has not noticed a
/// death.
pub fn death_of_orch(log: &Path) -> Option<f64> {
    let mut file = regular::open(log).ok()?;
    let (_, end) = last_bytes(&mut file, 0, SEARCHED_BYTES).ok()?;
    death_in(&String::from_utf8_lossy(&end))
}

fn death_in(text: &str) -> Option<f64> {
    text.lines().rev().find_map(|line| {
        let (time, message) = line.split_once(' ')?;
        let time: f64 = time.parse().ok()?;
        (message == ORCH_GONE && time.is_finite()).then_some(time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_death_in_a_log_counts() {
        let gone = |time: &str| format!("{time} {ORCH_GONE}\n");
        for (text, found) in [
            (String::new(), None),
            (gone("7.250"), Some(7.25)),
            (format!("{}9.000 poll: bad\n", gone("7.250")), Some(7.25)),
            (format!("{}{}", gone("7.250"), gone("8.5")), Some(8.5)),
            (gone("nan"), None),
            (format!("7.0 x {ORCH_GONE}\n"), None),
        ] {
            assert_eq!(death_in(&text), found, "{text:?}");
        }
    }
}
