//! Moments that all jobs of a run share.
//!
//! Reading progress, writing the registry and the search for a quiet job may wait a little. If each job chose its own moments,
//! each of these requests would wake the process once; at shared moments the requests of all jobs travel together.

use std::time::{Duration, Instant};

/// Time between two shared moments.
pub const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Moments at whole intervals after the first one.
#[derive(Clone, Copy, Debug)]
pub struct SharedTick {
    first: Instant,
}

impl SharedTick {
    pub fn starting_at(first: Instant) -> Self {
        Self { first }
    }

    /// Returns the first shared moment that is not before `moment`.
    pub fn at_or_after(self, moment: Instant) -> Instant {
        let since = moment.saturating_duration_since(self.first).as_nanos();
        let ticks = since.div_ceil(TICK_INTERVAL.as_nanos());
        // An overflow needs a run of 136 years.
        self.first + TICK_INTERVAL * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// Returns the shared moment at which a request that was last made at `last` is due again: about `interval` after it. A
    /// request that was a little late does not delay the next one.
    pub fn about(self, interval: Duration, last: Instant) -> Instant {
        self.at_or_after(last + interval.saturating_sub(TICK_INTERVAL / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_whole_intervals_after_the_first() {
        let first = Instant::now();
        let tick = SharedTick::starting_at(first);
        let at = |millis: u64| first + Duration::from_millis(millis);
        for (moment, expected) in [
            (0, 0),
            (1, 1_000),
            (1_000, 1_000),
            (1_003, 2_000),
            (86_400_700, 86_401_000),
        ] {
            assert_eq!(tick.at_or_after(at(moment)), at(expected), "{moment}");
        }
        assert_eq!(
            tick.at_or_after(first.checked_sub(Duration::from_secs(1)).unwrap_or(first)),
            first
        );
    }

    #[test]
    fn a_late_request_keeps_the_interval() {
        let first = Instant::now();
        let tick = SharedTick::starting_at(first);
        let at = |millis: u64| first + Duration::from_millis(millis);
        let mut last = at(730);
        for expected in [2_000, 3_000, 4_000] {
            let due = tick.about(TICK_INTERVAL, last);
            assert_eq!(due, at(expected));
            last = due + Duration::from_millis(40);
        }
        assert_eq!(tick.about(Duration::from_secs(5), at(1_020)), at(6_000));
    }
}
