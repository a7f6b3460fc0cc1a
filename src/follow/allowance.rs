//! What `timeout = "auto"` allows a job: by what it usually takes, else by its chunks and the pool's slots.

use std::time::{Duration, Instant};

use super::pace::dynamic_timeout;
use crate::config::Pace;
use crate::duration_text::shown;
use crate::run::Usual;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub begun: Instant,
    /// `None`: no run has told.
    pub usual: Option<Usual>,
}

impl Allowance {
    /// When the job's time is over; `None`: beyond the clock. `slots` are those now and at its begin; it has been known, with
    /// the number of its chunks, since `known_since`.
    pub(super) fn ends(
        &self,
        pace: &Pace,
        chunks: Option<u64>,
        known_since: Option<Instant>,
        slots: (u64, u64),
    ) -> Option<Instant> {
        match self.usual {
            Some(usual) => self.begun.checked_add(usual_timeout(pace, usual, chunks, slots)),
            None => {
                let since = known_since.unwrap_or(self.begun);
                since.checked_add(dynamic_timeout(pace, chunks, slots.0, Duration::MAX))
            }
        }
    }

    /// ` after 30m (timeout "auto", it usually takes 10m)`
    pub(super) fn told(&self, deadline: Instant) -> String {
        let usually = self.usual.map_or_else(String::new, |usual| {
            format!(", it usually takes {}", shown(usual.elapsed))
        });
        let allowed = shown(deadline.saturating_duration_since(self.begun));
        format!(" after {allowed} (timeout \"auto\"{usually})")
    }
}

/// So many times what it usually takes a job may take.
const TIMES_AS_USUAL: u32 = 3;

/// What a job may take by what it usually takes: in proportion to its chunks where it has more than usual, and to the
/// slots (now and at its begin) where some were lost.
pub fn usual_timeout(pace: &Pace, usual: Usual, chunks: Option<u64>, slots: (u64, u64)) -> Duration {
    let times = |more: Option<u64>, than: Option<u64>| match (more, than) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate; 2^53 chunks would be off by one")]
        (Some(more), Some(than)) if more > than && than > 0 => more as f64 / than as f64,
        _ => 1.0,
    };
    let (now, at_begin) = slots;
    let times = times(chunks, usual.chunks) * times(Some(at_begin), Some(now)) * f64::from(TIMES_AS_USUAL);
    let estimate = Duration::try_from_secs_f64(usual.elapsed.as_secs_f64() * times).unwrap_or(Duration::MAX);
    estimate.max(pace.timeout_min)
}

#[cfg(test)]
mod tests {
    use super::super::pace::tests::PACE;
    use super::*;

    #[test]
    fn three_times_as_usual_and_more_for_more_chunks_or_fewer_slots() {
        for (elapsed, usually, chunks, slots, seconds) in [
            (600, None, None, (8, 8), 1800),
            (600, Some(100), Some(100), (8, 8), 1800),
            (600, Some(100), Some(150), (8, 8), 2700),
            (600, Some(100), Some(10), (8, 8), 1800),
            (600, Some(0), Some(10), (8, 8), 1800),
            (600, Some(100), None, (4, 8), 3600),
            (600, Some(100), None, (16, 8), 1800),
            (600, Some(100), None, (0, 8), 1800),
            (600, None, None, (8, 0), 1800),
            (5, None, None, (8, 8), 300),
        ] {
            let usual = Usual {
                elapsed: Duration::from_secs(elapsed),
                chunks: usually,
            };
            let timeout = usual_timeout(&PACE, usual, chunks, slots);
            assert_eq!(timeout, Duration::from_secs(seconds), "{usual:?} {chunks:?} {slots:?}");
        }
    }

    #[test]
    fn without_history_the_chunks_and_the_slots_tell_from_when_they_are_known() {
        let begun = Instant::now();
        let allowance = Allowance { begun, usual: None };
        let later = |seconds| Some(begun + Duration::from_secs(seconds));
        let ends = |chunks, known_since| allowance.ends(&PACE, chunks, known_since, (8, 8));
        assert_eq!(ends(None, None), later(1800));
        assert_eq!(ends(Some(80), later(100)), later(100 + 900));
    }
}
