//! For how long, and of what age, messages are searched for that a worker has taken and does not acknowledge.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::celery::Restored;

/// Between two looks: short at first, since a worker that reconnects to a restarted Redis takes up to three seconds; then
/// longer, since one may list what it no longer runs until its pool has moved on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A worker still reads, and takes, what had reached it before its connection broke. Seconds.
const TAKEN_AFTER_CUT: f64 = 5.0;
/// A worker may list for so long what it took over a broken connection, before it is known that its process has left it.
const CUT_TIMEOUT: Duration = Duration::from_secs(20);

/// A search for messages that a worker has taken and does not acknowledge.
#[derive(Clone, Debug)]
pub struct UnacknowledgedSearch {
    /// Unix seconds; a message that was taken later is none of them.
    pub taken_until: f64,
    /// Set where connections broke: it goes on at least until then. What living workers hold by their own account is theirs.
    cut: Option<Instant>,
    pause: Duration,
}

impl UnacknowledgedSearch {
    /// A worker has died at `seen_at` (unix seconds), and perhaps is back.
    pub fn after_death(seen_at: f64) -> Self {
        Self {
            taken_until: seen_at,
            cut: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Connections broke just now, and the workers live.
    pub fn after_cut(now: Instant) -> Self {
        Self {
            taken_until: now_unix() + TAKEN_AFTER_CUT,
            cut: Some(now + CUT_TIMEOUT),
            pause: FIRST_PAUSE,
        }
    }

    /// Whether nothing more is to be expected after a look that had this result.
    pub fn is_over(&self, restored: &Restored, now: Instant) -> bool {
        match self.cut {
            Some(until) => {
                let of_others = Restored {
                    held: restored.held,
                    ..Restored::default()
                };
                now >= until && *restored == of_others
            }
            None => *restored == Restored::default(),
        }
    }

    /// The pause before the next look; the one after it is twice as long, up to a limit.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Unix seconds.
pub fn now_unix() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_ends_when_nothing_more_is_to_be_expected() {
        let nothing = Restored::default;
        let held = Restored { held: 3, ..nothing() };
        let moved = Restored {
            requeued: 1,
            ..nothing()
        };
        let postponed = Restored {
            postponed: 1,
            ..nothing()
        };
        let uncertain = Restored {
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
        let pauses: Vec<u64> = (0..6).map(|_| search.next_pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn a_worker_takes_for_a_moment_what_had_reached_it() {
        let search = UnacknowledgedSearch::after_cut(Instant::now());
        let ahead = search.taken_until - now_unix();
        assert!((TAKEN_AFTER_CUT - 1.0..=TAKEN_AFTER_CUT).contains(&ahead), "{ahead}");
    }
}
