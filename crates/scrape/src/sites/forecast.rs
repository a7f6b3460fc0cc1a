//! Forecast of a run's end: a copy of the run's schedule continues in virtual time.
//!
//! Pure. A running site is assumed to go on as before, and the further it has come, the more its own progress counts. A
//! site that has not begun is assumed to take as long as in the last runs, or as long as the other sites if there are
//! no such runs. Failures are not foreseen.

use std::time::Duration;

use crate::schedule::{Schedule, SiteId, TurnState, expected_end};
use orch_base::median::median;

/// Remaining time that an overdue site is assumed to need, as a share of the time so far.
const OVERDUE: f64 = 0.1;
/// Smallest share of progress that counts if nothing else is known: before that, the time so far is that of the
/// dispatch and of the first chunks, many of which run at once.
const LEAST_SHARE: f64 = 0.1;
/// Longest remaining time that a site is assumed to need.
const MAX_REMAINING_DELAY: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Shift of the end that is reported: more than this share of the remaining time, and more than this time.
const MIN_SHIFT_SHARE: f64 = 0.05;
const MIN_SHIFT_DELAY: Duration = Duration::from_secs(2);

/// Known durations of sites.
#[derive(Clone, Debug, Default)]
pub struct SiteDurations {
    /// Durations in the last runs, by site position.
    known: Vec<Option<Duration>>,
    /// Median of the known durations.
    usual: Option<Duration>,
    /// Durations of whole attempts that this run has completed, sorted.
    completed: Vec<Duration>,
    reported: Option<Duration>,
}

impl SiteDurations {
    /// Creates the durations. For a site without a value in `known`, only this run can give one.
    pub fn new(known: Vec<Option<Duration>>) -> Self {
        Self {
            usual: median(known.iter().copied().flatten().collect()),
            known,
            ..Self::default()
        }
    }

    /// Adds the duration of a site that has completed in a whole attempt with results.
    pub fn add_completed(&mut self, lasted: Duration) {
        let place = self.completed.partition_point(|known| *known <= lasted);
        self.completed.insert(place, lasted);
    }

    /// Returns when the last site should end, in the schedule's time. `share` returns the finished share of a running
    /// site, 0.0 to 1.0, if known. `None`: the duration of a remaining site is unknown.
    pub fn expected_end(
        &self,
        schedule: &Schedule,
        now: Duration,
        share: impl Fn(SiteId) -> Option<f64>,
    ) -> Option<Duration> {
        // Duration of a site about which nothing is known.
        let typical = self.completed.get(self.completed.len() / 2).copied().or(self.usual);
        let mut left = Vec::with_capacity(self.known.len());
        for site in schedule.agenda().sites() {
            let known = self.known.get(site.place()).copied().flatten().or(typical);
            left.push(match schedule.state(site) {
                TurnState::Ended(_) => Duration::ZERO,
                TurnState::Running { since } => remaining(known, now.saturating_sub(since), share(site))?,
                TurnState::Waiting(_) | TurnState::Queued { .. } | TurnState::Pausing { .. } => known?,
            });
        }
        Some(expected_end(schedule, now, |site| left[site.place()]))
    }

    /// Returns the remaining time if the end has shifted enough to be reported, and remembers the end as reported.
    pub fn shift_to_report(&mut self, now: Duration, end: Duration) -> Option<Duration> {
        let left = end.saturating_sub(now);
        let is_news = self
            .reported
            .is_none_or(|reported| reported.abs_diff(end) > MIN_SHIFT_DELAY.max(left.mul_f64(MIN_SHIFT_SHARE)));
        is_news.then(|| {
            self.reported = Some(end);
            left
        })
    }
}

/// Returns the remaining time of a site that has run for `lasted`.
fn remaining(expected: Option<Duration>, lasted: Duration, share: Option<f64>) -> Option<Duration> {
    let by_expectation = expected.map(|expected| match expected.checked_sub(lasted) {
        Some(remaining) if !remaining.is_zero() => remaining,
        _ => lasted.mul_f64(OVERDUE),
    });
    let least = match by_expectation {
        Some(_) => 0.0,
        None => LEAST_SHARE,
    };
    let share = share.filter(|share| *share > 0.0 && *share >= least);
    let share = share.map(|share| share.min(1.0));
    let Some(share) = share else {
        return by_expectation;
    };
    let by_progress = lasted.as_secs_f64() * (1.0 - share) / share;
    let seconds = match by_expectation {
        None => by_progress,
        Some(by_expectation) => by_progress * share + by_expectation.as_secs_f64() * (1.0 - share),
    };
    // Counts come from outside: one chunk of billions gives no forecast that a person could use.
    Some(
        Duration::try_from_secs_f64(seconds)
            .map_or(MAX_REMAINING_DELAY, |remaining| remaining.min(MAX_REMAINING_DELAY)),
    )
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use orch_journal::SiteStatus;

    use super::*;
    use crate::schedule::{AgendaEntry, AgendaLimits, ScheduleDecision, SiteAgenda};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Begins a schedule of equal sites, two at a time.
    fn begun(sites: usize) -> (Schedule, Vec<ScheduleDecision>) {
        let limits = AgendaLimits {
            max_parallel: NonZeroUsize::new(2).unwrap(),
            resources: Vec::new(),
        };
        let agenda = SiteAgenda::new(vec![AgendaEntry::default(); sites], limits).unwrap();
        Schedule::begin(agenda, Duration::ZERO)
    }

    #[test]
    fn what_is_left_of_a_site() {
        let remaining = |expected: Option<u64>, lasted, share| {
            remaining(expected.map(seconds), seconds(lasted), share).map(|remaining| remaining.as_secs_f64().round())
        };
        for (expected, lasted, share, left) in [
            (None, 10, None, None),
            (None, 10, Some(0.0), None),
            (Some(100), 10, None, Some(90.0)),
            // Longer than expected: the site goes on for a while.
            (Some(100), 200, None, Some(20.0)),
            (None, 10, Some(0.25), Some(30.0)),
            (None, 10, Some(1.0), Some(0.0)),
            // Early the expected duration counts, late the progress.
            (Some(100), 10, Some(0.01), Some(99.0)),
            (Some(100), 90, Some(0.5), Some(50.0)),
            // Invalid shares from outside.
            (None, 10, Some(7.5), Some(0.0)),
            (None, 10, Some(f64::NAN), None),
            (None, 10, Some(1e-300), None),
            (Some(100), 10, Some(1e-300), Some(100.0)),
            (None, u64::MAX, Some(0.5), Some(MAX_REMAINING_DELAY.as_secs_f64())),
            // One chunk of forty on a first run: two seconds do not become eighty.
            (None, 2, Some(0.025), None),
            (None, 2, Some(0.1), Some(18.0)),
        ] {
            assert_eq!(
                remaining(expected, lasted, share),
                left,
                "{expected:?} {lasted} {share:?}"
            );
        }
    }

    #[test]
    fn an_end_is_forecast_once_the_duration_of_sites_is_known() {
        let (mut schedule, decisions) = begun(5);
        let mut lengths = SiteDurations::new(vec![None; 5]);
        let nothing = |_: SiteId| None;
        assert_eq!(lengths.expected_end(&schedule, seconds(5), nothing), None);
        // The progress of running sites says nothing about waiting sites.
        assert_eq!(lengths.expected_end(&schedule, seconds(5), |_| Some(0.5)), None);
        lengths.add_completed(seconds(10));
        for decision in decisions {
            let ScheduleDecision::Admit(turn) = decision else {
                continue;
            };
            // Two run until 10, two until 20, one until 30.
            if turn.site() == SiteId::at(0) {
                assert!(!schedule.end(turn, SiteStatus::Complete, seconds(10)).is_empty());
            }
        }
        // One has run since 0 and is overdue, one since 10; two wait.
        assert_eq!(lengths.expected_end(&schedule, seconds(10), nothing), Some(seconds(30)));
    }

    #[test]
    fn only_what_moves_the_end_is_news() {
        let mut lengths = SiteDurations::default();
        assert_eq!(lengths.shift_to_report(seconds(0), seconds(1000)), Some(seconds(1000)));
        assert_eq!(lengths.shift_to_report(seconds(100), seconds(1040)), None);
        assert_eq!(lengths.shift_to_report(seconds(100), seconds(1060)), Some(seconds(960)));
        assert_eq!(
            lengths.shift_to_report(seconds(1055), seconds(1059)),
            None,
            "a shift of one second is not reported"
        );
        assert_eq!(lengths.shift_to_report(seconds(1055), seconds(1064)), Some(seconds(9)));
    }
}
