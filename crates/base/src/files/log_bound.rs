//! The bound of a log, and the steps that keep the log below the bound. Pure functions; [`log_cut`](super::log_cut)
//! performs the steps.
//!
//! A log is a live file, to which the service appends, and pieces: former heads of the live file in files of their own.
//! A step moves the head of the live file to a new piece, which costs a copy. A service that writes very fast would
//! replace each piece within seconds, so its head is not copied: the live file grows to the size of the whole bound, and
//! the head beyond that size is removed. Pieces are removed before the head of the live file is, so that pieces and live
//! file together are always one stream without a gap.

use std::time::Duration;

/// Bound of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBound {
    /// Size at which the head of the live file is cut, in bytes. 0: never.
    pub max: u64,
    /// Number of pieces that are kept.
    pub keep: u32,
}

impl Default for LogBound {
    fn default() -> Self {
        Self { max: 50 << 20, keep: 3 }
    }
}

impl LogBound {
    /// Returns the size of the live file and all pieces together.
    pub fn total(self) -> u64 {
        self.max.saturating_mul(u64::from(self.keep).saturating_add(1))
    }
}

/// One step that brings a log closer to its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// Remove the oldest piece.
    RemoveOldestPiece,
    /// Copy this number of bytes at the head of the live file to a new piece, then cut them off.
    MoveHead(u64),
    /// Cut off this number of bytes at the head of the live file.
    DropHead(u64),
}

/// Returns the next step for a log of which the live file has `live` bytes and the pieces have these sizes; `None` if the
/// log is within its bound. `is_copied` decides whether a head may become a piece.
pub fn next_step(live: u64, pieces: &[u64], bound: LogBound, is_copied: bool) -> Option<LogStep> {
    let LogBound { max, keep } = bound;
    if max == 0 || live < max {
        return None;
    }
    if keep == 0 {
        // Half of the log stays for the reader.
        return Some(LogStep::DropHead(live - max / 2));
    }
    let total = bound.total();
    let used = pieces.iter().fold(live, |sum, piece| sum.saturating_add(*piece));
    let room = match is_copied {
        // The head exists twice until the cut. A twentieth of the bound is for the lines since the last look; more may
        // come during the copy.
        true => used.saturating_add(max) <= total.saturating_add(total / 20),
        false => used < total,
    };
    match (is_copied, room) {
        (true, true) if pieces.len() < keep as usize => Some(LogStep::MoveHead(max)),
        (false, true) => None,
        _ if !pieces.is_empty() => Some(LogStep::RemoveOldestPiece),
        _ => Some(LogStep::DropHead(live.saturating_sub(total - max).max(1))),
    }
}

/// Fastest growth that is expected of a log, in bytes per second: decides when to look again.
const EXPECTED_GROWTH: u64 = 256 << 20;
const MIN_LOOK_DELAY: Duration = Duration::from_millis(20);
const MAX_LOOK_DELAY: Duration = Duration::from_secs(1);

/// Returns the time after which a log is looked at again: the log cannot pass the bound by much within that time.
pub fn look_delay(live: u64, pieces: &[u64], bound: LogBound, is_copied: bool) -> Duration {
    let room = match is_copied || bound.keep == 0 {
        true => bound.max.saturating_sub(live),
        false => bound.total().saturating_sub(live).saturating_sub(pieces.iter().sum()),
    };
    let delay = Duration::from_micros(room.saturating_mul(1_000_000) / EXPECTED_GROWTH);
    delay.clamp(MIN_LOOK_DELAY, MAX_LOOK_DELAY)
}

/// Growth of a log in bytes per second, from which on a head is not copied.
const FAST_GROWTH: f64 = (8 << 20) as f64;

/// Growth of a log over the last seconds: a pause of a moment does not end a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogGrowth(f64);

impl LogGrowth {
    /// Adds the growth within one interval. The weight of earlier growth halves each second.
    pub fn add(&mut self, bytes: u64, within: Duration) {
        let seconds = within.as_secs_f64().max(0.001);
        let weight = 0.5_f64.powf(seconds);
        self.0 = self.0 * weight + (bytes as f64 / seconds) * (1.0 - weight);
    }

    /// Returns whether the log grows so fast that each piece would be replaced within seconds.
    pub fn is_fast(self) -> bool {
        self.0 >= FAST_GROWTH
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn steps_are_as_in_the_table() {
        let bound = LogBound { max: 50 * MIB, keep: 3 };
        let piece = 50 * MIB;
        let step = |live, pieces: &[u64], is_copied| next_step(live * MIB, pieces, bound, is_copied);
        use LogStep::{DropHead, MoveHead, RemoveOldestPiece};
        for (live, pieces, is_copied, expected) in [
            (49, &[] as &[u64], true, None),
            (50, &[], true, Some(MoveHead(piece))),
            (60, &[piece, piece], true, Some(MoveHead(piece))),
            (50, &[piece, piece, piece], true, Some(RemoveOldestPiece)),
            // The bound was made smaller by a flood before: there is no room for a second copy.
            (100, &[piece, piece], true, Some(RemoveOldestPiece)),
            (180, &[], true, Some(DropHead(30 * MIB))),
            (150, &[], true, Some(MoveHead(piece))),
            // A flood.
            (60, &[piece, piece], false, None),
            (60, &[piece, piece, piece], false, Some(RemoveOldestPiece)),
            (199, &[], false, None),
            (201, &[], false, Some(DropHead(51 * MIB))),
        ] {
            assert_eq!(step(live, pieces, is_copied), expected, "{live} {pieces:?} {is_copied}");
        }
        let alone = LogBound { max: 50 * MIB, keep: 0 };
        assert_eq!(next_step(50 * MIB, &[], alone, true), Some(DropHead(25 * MIB)));
        let unbounded = LogBound { max: 0, keep: 3 };
        assert_eq!(next_step(u64::MAX, &[], unbounded, true), None);
    }

    #[test]
    fn a_flood_is_recognised_after_a_moment_and_ends_after_some_seconds() {
        let mut growth = LogGrowth::default();
        growth.add(5 * MIB, Duration::from_millis(100));
        assert!(!growth.is_fast(), "a single burst");
        (0..10).for_each(|_| growth.add(5 * MIB, Duration::from_millis(100)));
        assert!(growth.is_fast());
        growth.add(0, Duration::from_millis(500));
        assert!(growth.is_fast(), "a pause");
        growth.add(0, Duration::from_secs(5));
        assert!(!growth.is_fast());
    }

    proptest! {
        #[test]
        fn steps_end_below_the_bound_and_never_use_more_than_a_fifth_above_it(
            (max, keep) in (1_u64..1 << 30, 0_u32..6),
            growth in proptest::collection::vec((0.0..0.1_f64, any::<bool>()), 1..60),
        ) {
            let bound = LogBound { max, keep };
            // At least one byte stays of what is cut, as with a cut at a block.
            let (mut live, mut pieces, slack) = (0_u64, Vec::<u64>::new(), bound.total() / 5 + 2);
            for (share, is_copied) in growth {
                live += (max as f64 * share) as u64;
                let mut steps = 0;
                while let Some(step) = next_step(live, &pieces, bound, is_copied) {
                    steps += 1;
                    prop_assert!(steps < 100, "no end: {:?} {:?}", live, pieces);
                    match step {
                        LogStep::RemoveOldestPiece => drop(pieces.pop()),
                        LogStep::MoveHead(bytes) => {
                            prop_assert!(bytes <= live && pieces.len() < keep as usize);
                            let used = live + bytes + pieces.iter().sum::<u64>();
                            prop_assert!(used <= bound.total() + slack, "{} of {:?}", used, bound);
                            live -= bytes;
                            pieces.insert(0, bytes);
                        }
                        LogStep::DropHead(bytes) => {
                            prop_assert!(bytes > 0 && bytes <= live);
                            prop_assert!(pieces.is_empty(), "a gap");
                            live -= bytes;
                        }
                    }
                }
                let used = live + pieces.iter().sum::<u64>();
                prop_assert!(used <= bound.total() + slack, "{} of {:?}", used, bound);
            }
        }

        #[test]
        fn a_log_cannot_pass_a_tenth_above_a_usual_bound_before_the_next_look(live in 0_u64..50 << 20) {
            let bound = LogBound::default();
            let delay = look_delay(live, &[], bound, true);
            let grown = live + (EXPECTED_GROWTH as f64 * delay.as_secs_f64()) as u64;
            prop_assert!(grown <= bound.max + bound.max / 5);
        }
    }
}
