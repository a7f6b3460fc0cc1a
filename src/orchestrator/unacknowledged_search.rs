//! Duration and age limit of the search for messages that a worker has taken and does not acknowledge.

use std::time::{Duration, Instant};

use orch_base::wall_clock::unix_now;
use orch_celery::RestoreReport;

/// Delay before the second search: short, because a worker needs up to three seconds to reconnect to a restarted
/// Redis.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Maximum delay between two searches: longer, because a worker may list tasks that are no longer executed until its
/// pool processes have taken other tasks.
const MAX_DELAY: Duration = Duration::from_secs(8);
/// Seconds for which a worker still reads and takes messages that had arrived before the connection broke.
const TAKEN_AFTER_CUT: f64 = 5.0;
/// Time for which a worker may list tasks that were taken over a broken connection, until orch knows that no pool
/// process executes them.
const CUT_TIMEOUT: Duration = Duration::from_secs(20);

/// Search for messages that a worker has taken and does not acknowledge.
#[derive(Clone, Debug)]
pub struct UnacknowledgedSearch {
    /// Time until which the messages were taken, Unix seconds; the search ignores messages that were taken later.
    pub taken_until: f64,
    /// Minimum end of the search after broken connections. Messages that living workers report to hold then do not
    /// count.
    cut: Option<Instant>,
    delay: Duration,
}

impl UnacknowledgedSearch {
    /// Creates the search after the death of a worker at `seen_at` (Unix seconds); the worker may have restarted.
    pub fn after_death(seen_at: f64) -> Self {
        Self {
            taken_until: seen_at,
            cut: None,
            delay: FIRST_DELAY,
        }
    }

    /// Creates the search after connections have just broken while the workers are alive.
    pub fn after_cut(now: Instant) -> Self {
        Self {
            taken_until: unix_now().as_secs_f64() + TAKEN_AFTER_CUT,
            cut: Some(now + CUT_TIMEOUT),
            delay: FIRST_DELAY,
        }
    }

    /// Returns whether a search with this result was the last necessary one.
    pub fn is_over(&self, restored: &RestoreReport, now: Instant) -> bool {
        match self.cut {
            Some(until) => {
                let of_others = RestoreReport {
                    held: restored.held,
                    ..RestoreReport::default()
                };
                now >= until && *restored == of_others
            }
            None => *restored == RestoreReport::default(),
        }
    }

    /// Returns the delay before the next search and doubles the delay after that, up to a limit.
    pub fn next_delay(&mut self) -> Duration {
        let pause = self.delay;
        self.delay = (pause * 2).min(MAX_DELAY);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_ends_when_no_further_message_is_expected() {
        let nothing = RestoreReport::default;
        let held = RestoreReport { held: 3, ..nothing() };
        let moved = RestoreReport {
            requeued: 1,
            ..nothing()
        };
        let postponed = RestoreReport {
            postponed: 1,
            ..nothing()
        };
        let uncertain = RestoreReport {
            uncertain: Some("1 of 2 workers have answered".to_owned()),
            ..nothing()
        };
        let begun = Instant::now();
        let (early, late) = (begun + CUT_TIMEOUT / 2, begun + CUT_TIMEOUT);
        let (death, cut) = (
            UnacknowledgedSearch::after_death(0.0),
            UnacknowledgedSearch::after_cut(begun),
        );
        for (restored, after_death, early_after_cut, late_after_cut) in [
            (nothing(), true, false, true),
            (held, false, false, true),
            (moved, false, false, false),
            (postponed, false, false, false),
            (uncertain, false, false, false),
        ] {
            assert_eq!(death.is_over(&restored, early), after_death, "{restored:?}");
            assert_eq!(cut.is_over(&restored, early), early_after_cut, "{restored:?}");
            assert_eq!(cut.is_over(&restored, late), late_after_cut, "{restored:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let mut search = UnacknowledgedSearch::after_death(0.0);
        let pauses: Vec<u64> = (0..6).map(|_| search.next_delay().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn messages_taken_shortly_after_a_cut_are_included() {
        let search = UnacknowledgedSearch::after_cut(Instant::now());
        let ahead = search.taken_until - unix_now().as_secs_f64();
        assert!((TAKEN_AFTER_CUT - 1.0..=TAKEN_AFTER_CUT).contains(&ahead), "{ahead}");
    }
}
