//! Time limit that `timeout = "auto"` sets for a job: a multiple of the usual time of the job, or an estimate from the
//! number of chunks and of pool slots.

use std::time::{Duration, Instant};

use super::timeout::dynamic_timeout;
use orch_base::text::duration_text::shown;
use orch_config::DynamicTimeout;
use orch_journal::SiteBaseline;

/// Inputs of the automatic time limit of one job.
#[derive(Clone, Copy, Debug)]
pub struct AutoTimeout {
    pub begun: Instant,
    /// Usual time of the job in past runs; `None` without history.
    pub usual: Option<SiteBaseline>,
}

impl AutoTimeout {
    /// Returns when the time of the job is over; `None` if the clock cannot represent that time. `slots` are the pool
    /// slots now and at the start of the job. The job and the number of chunks have been known since `known_since`.
    pub(crate) fn deadline(
        &self,
        pace: &DynamicTimeout,
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

    /// Returns a text for the reason of a timeout, such as ` after 30m (timeout "auto", it usually takes 10m)`.
    pub(crate) fn described(&self, deadline: Instant) -> String {
        let usually = self.usual.map_or_else(String::new, |usual| {
            format!(", it usually takes {}", shown(usual.elapsed))
        });
        let allowed = shown(deadline.saturating_duration_since(self.begun));
        format!(" after {allowed} (timeout \"auto\"{usually})")
    }
}

/// Factor between the usual time of a job and the time limit.
const USUAL_TIME_FACTOR: u32 = 3;

/// Returns the time limit of a job that has a usual time. The limit grows in proportion to the chunks if there are more
/// than usual, and to the lost pool slots (`slots` are those now and at the start of the job).
pub fn usual_timeout(pace: &DynamicTimeout, usual: SiteBaseline, chunks: Option<u64>, slots: (u64, u64)) -> Duration {
    let times = |more: Option<u64>, than: Option<u64>| match (more, than) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate; 2^53 chunks would be off by one")]
        (Some(more), Some(than)) if more > than && than > 0 => more as f64 / than as f64,
        _ => 1.0,
    };
    let (now, at_begin) = slots;
    let times = times(chunks, usual.chunks) * times(Some(at_begin), Some(now)) * f64::from(USUAL_TIME_FACTOR);
    let estimate = Duration::try_from_secs_f64(usual.elapsed.as_secs_f64() * times).unwrap_or(Duration::MAX);
    estimate.max(pace.timeout_min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::timeout::tests::PACE;

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
            let usual = SiteBaseline {
                elapsed: Duration::from_secs(elapsed),
                chunks: usually,
            };
            let timeout = usual_timeout(&PACE, usual, chunks, slots);
            assert_eq!(timeout, Duration::from_secs(seconds), "{usual:?} {chunks:?} {slots:?}");
        }
    }

    #[test]
    fn without_history_chunks_and_slots_set_the_limit_once_they_are_known() {
        let begun = Instant::now();
        let allowance = AutoTimeout { begun, usual: None };
        let later = |seconds| Some(begun + Duration::from_secs(seconds));
        let ends = |chunks, known_since| allowance.deadline(&PACE, chunks, known_since, (8, 8));
        assert_eq!(ends(None, None), later(1800));
        assert_eq!(ends(Some(80), later(100)), later(100 + 900));
    }
}
