//! When a run should end: its own schedule, gone on with in virtual time from where it is.
//!
//! Pure. A running site is taken to go on as it has, the more so the further it has come; one that has not begun takes as
//! long as the last runs tell, and where none does as long as the others. That a site fails is not foreseen.

use std::time::Duration;

use super::schedule::{Schedule, SiteId, State, expected_end};
use crate::median::median;

/// What a site that has taken longer than expected is taken to need still, of the time that it has taken.
const OVERDUE: f64 = 0.1;
/// Where nothing else is known, less than this share of a site says nothing of the rest: its time so far is that of its dispatch
/// and of the first chunks, many of which run at once.
const LEAST_SHARE: f64 = 0.1;
/// No site is taken to need longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A forecast that moves the end by less than this share of what is left, or than this, is no news.
const NEWS_SHARE: f64 = 0.05;
const NEWS: Duration = Duration::from_secs(2);

/// What is known of how long sites take.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// By the sites' places: what the last runs tell.
    known: Vec<Option<Duration>>,
    /// The middle of these.
    usual: Option<Duration>,
    /// Of whole attempts that have completed in this run, sorted.
    completed: Vec<Duration>,
    told: Option<Duration>,
}

impl Lengths {
    /// Where `known` has nothing, only this run will tell.
    pub fn new(known: Vec<Option<Duration>>) -> Self {
        Self {
            usual: median(known.iter().copied().flatten().collect()),
            known,
            ..Self::default()
        }
    }

    /// A site has completed, by a whole attempt of this length that had something to show.
    pub fn completed(&mut self, lasted: Duration) {
        let place = self.completed.partition_point(|known| *known <= lasted);
        self.completed.insert(place, lasted);
    }

    /// When the last site should end, in the schedule's moments. `share` is how much of a running site is done, where that
    /// is known: 0.0 to 1.0. `None`: of a site that is left nothing tells how long it takes.
    pub fn end(&self, schedule: &Schedule, now: Duration, share: impl Fn(SiteId) -> Option<f64>) -> Option<Duration> {
        // Of a site of which nothing is known.
        let typical = self.completed.get(self.completed.len() / 2).copied().or(self.usual);
        let mut left = Vec::with_capacity(self.known.len());
        for site in schedule.agenda().sites() {
            let known = self.known.get(site.place()).copied().flatten().or(typical);
            left.push(match schedule.state(site) {
                State::Ended(_) => Duration::ZERO,
                State::Running { since } => still(known, now.saturating_sub(since), share(site))?,
                State::Waiting(_) | State::Queued { .. } | State::Pausing { .. } => known?,
            });
        }
        Some(expected_end(schedule, now, |site| left[site.place()]))
    }

    /// The forecast if it is news, which it then is no more.
    pub fn news(&mut self, now: Duration, end: Duration) -> Option<Duration> {
        let left = end.saturating_sub(now);
        let is_news = self
            .told
            .is_none_or(|told| told.abs_diff(end) > NEWS.max(left.mul_f64(NEWS_SHARE)));
        is_news.then(|| {
            self.told = Some(end);
            left
        })
    }
}

/// How much longer a site takes that has run for so long.
fn still(expected: Option<Duration>, lasted: Duration, share: Option<f64>) -> Option<Duration> {
    let by_expectation = expected.map(|expected| match expected.checked_sub(lasted) {
        Some(still) if !still.is_zero() => still,
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
    // Counts come from outside: one of billions of chunks says nothing that a person plans by.
    Some(Duration::try_from_secs_f64(seconds).map_or(LONGEST, |still| still.min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::sites::schedule::{Agenda, Decision, Entry, Limits, Outcome};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Equal sites, two at a time.
    fn begun(sites: usize) -> (Schedule, Vec<Decision>) {
        let limits = Limits {
            places: NonZeroUsize::new(2).unwrap(),
            resources: Vec::new(),
        };
        let agenda = Agenda::new(vec![Entry::default(); sites], limits).unwrap();
        Schedule::begin(agenda, Duration::ZERO)
    }

    #[test]
    fn what_is_left_of_a_site() {
        let still = |expected: Option<u64>, lasted, share| {
            still(expected.map(seconds), seconds(lasted), share).map(|still| still.as_secs_f64().round())
        };
        for (expected, lasted, share, left) in [
            (None, 10, None, None),
            (None, 10, Some(0.0), None),
            (Some(100), 10, None, Some(90.0)),
            // Longer than expected: it goes on for a while.
            (Some(100), 200, None, Some(20.0)),
            (None, 10, Some(0.25), Some(30.0)),
            (None, 10, Some(1.0), Some(0.0)),
            // Early what is expected counts, late what is seen.
            (Some(100), 10, Some(0.01), Some(99.0)),
            (Some(100), 90, Some(0.5), Some(50.0)),
            // Nonsense from outside.
            (None, 10, Some(7.5), Some(0.0)),
            (None, 10, Some(f64::NAN), None),
            (None, 10, Some(1e-300), None),
            (Some(100), 10, Some(1e-300), Some(100.0)),
            (None, u64::MAX, Some(0.5), Some(LONGEST.as_secs_f64())),
            // One chunk of forty, on a first run: two seconds do not make it eighty.
            (None, 2, Some(0.025), None),
            (None, 2, Some(0.1), Some(18.0)),
        ] {
            assert_eq!(still(expected, lasted, share), left, "{expected:?} {lasted} {share:?}");
        }
    }

    #[test]
    fn an_end_is_told_once_something_tells_how_long_sites_take() {
        let (mut schedule, decisions) = begun(5);
        let mut lengths = Lengths::new(vec![None; 5]);
        let nothing = |_: SiteId| None;
        assert_eq!(lengths.end(&schedule, seconds(5), nothing), None);
        // Progress of those that run says nothing of those that wait.
        assert_eq!(lengths.end(&schedule, seconds(5), |_| Some(0.5)), None);
        lengths.completed(seconds(10));
        for decision in decisions {
            let Decision::Admit(turn) = decision else { continue };
            // Two run until 10, two until 20, one until 30.
            if turn.site() == SiteId::at(0) {
                assert!(!schedule.end(turn, Outcome::Complete, seconds(10)).is_empty());
            }
        }
        // One has run since 0 and is overdue, one since 10; two wait.
        assert_eq!(lengths.end(&schedule, seconds(10), nothing), Some(seconds(30)));
    }

    #[test]
    fn only_what_moves_the_end_is_news() {
        let mut lengths = Lengths::default();
        assert_eq!(lengths.news(seconds(0), seconds(1000)), Some(seconds(1000)));
        assert_eq!(lengths.news(seconds(100), seconds(1040)), None);
        assert_eq!(lengths.news(seconds(100), seconds(1060)), Some(seconds(960)));
        assert_eq!(lengths.news(seconds(1055), seconds(1059)), None, "a second is none");
        assert_eq!(lengths.news(seconds(1055), seconds(1064)), Some(seconds(9)));
    }
}
