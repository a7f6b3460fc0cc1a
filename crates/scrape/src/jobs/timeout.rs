//! Dynamic timeout of a job: `ceil(chunks / slots) x time_per_chunk x buffer`.
//!
//! Not here: where the number of slots comes from (the live workers, see [`super::monitor`]).

use std::time::Duration;

use orch_config::DynamicTimeout;

/// Returns the timeout of a job with `chunks` header tasks on `slots` pool slots, at most `left`.
///
/// Without a chunk count the default applies. A pool of unknown size counts as one slot: slower, never too short.
pub fn dynamic_timeout(pace: &DynamicTimeout, chunks: Option<u64>, slots: u64, left: Duration) -> Duration {
    let Some(chunks) = chunks else {
        return pace.timeout_default.min(left);
    };
    let rounds = chunks.div_ceil(slots.max(1));
    #[expect(clippy::cast_precision_loss, reason = "an estimate; 2^53 chunks would be off by one")]
    let seconds = rounds as f64 * pace.time_per_chunk.as_secs_f64() * pace.buffer.max(0.0);
    // A time that no Duration can hold is longer than the time that is left.
    let estimate = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    estimate.max(pace.timeout_min).min(left)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub const PACE: DynamicTimeout = DynamicTimeout {
        time_per_chunk: Duration::from_secs(60),
        buffer: 1.5,
        timeout_min: Duration::from_secs(300),
        timeout_default: Duration::from_secs(1800),
    };

    #[test]
    fn rounds_times_time_times_buffer_within_bounds() {
        let long = Duration::from_secs(100_000);
        for (chunks, slots, left, seconds) in [
            (Some(100), 8, long, 13 * 90),
            (Some(104), 8, long, 13 * 90),
            (Some(105), 8, long, 14 * 90),
            (Some(1), 8, long, 300),
            (Some(0), 8, long, 300),
            (Some(10), 0, long, 900),
            (None, 8, long, 1800),
            (None, 8, Duration::from_secs(60), 60),
            (Some(100), 8, Duration::from_secs(700), 700),
            (Some(u64::MAX), 1, long, 100_000),
        ] {
            let timeout = dynamic_timeout(&PACE, chunks, slots, left);
            assert_eq!(timeout, Duration::from_secs(seconds), "{chunks:?} on {slots}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_what_is_left(chunks in proptest::option::of(any::<u64>()), slots: u64, left in 0u64..1_000_000, buffer: f64) {
            let left = Duration::from_secs(left);
            let pace = DynamicTimeout { buffer, ..PACE };
            prop_assert!(dynamic_timeout(&pace, chunks, slots, left) <= left);
        }

        #[test]
        fn more_slots_never_take_longer(chunks in 0u64..10_000, slots in 1u64..100) {
            let left = Duration::from_secs(1 << 40);
            prop_assert!(dynamic_timeout(&PACE, Some(chunks), slots + 1, left) <= dynamic_timeout(&PACE, Some(chunks), slots, left));
        }
    }
}
