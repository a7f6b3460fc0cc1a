//! Comparison of the latest result of a site with earlier results.

use super::past_site::PastSite;
use orch_base::median::median;

/// Number of complete results that the latest one is compared with.
const MAX_COMPARED: usize = 5;

/// Change of the latest complete result, degraded or not, against the median of those before it: 0.1 is a tenth more.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Change of the duration; `None`: there is nothing to compare, or the usual duration is zero.
    pub time: Option<f64>,
    /// Change of the number of saved records.
    pub results: Option<f64>,
}

impl Trend {
    /// Computes the trend of results, the latest first.
    pub fn of(results: &[PastSite]) -> Self {
        let Some(latest) = results.iter().position(|result| result.status.is_success()) else {
            return Self::default();
        };
        let (latest, before) = (&results[latest], &results[latest + 1..]);
        // Degraded and empty results are not used for comparisons.
        let measures = before.iter().filter(|result| result.is_comparable());
        let before: Vec<&PastSite> = measures.take(MAX_COMPARED).collect();
        let times = before.iter().filter_map(|result| result.whole_attempt()).collect();
        let saved = before.iter().filter_map(|result| result.counts.results).collect();
        Self {
            // Durations of whole attempts, not of those that an earlier run had begun.
            time: change(latest.attempt, times, |time| time.as_secs_f64()),
            results: change(latest.counts.results, saved, |results| results as f64),
        }
    }
}

fn change<T: Ord>(latest: Option<T>, before: Vec<T>, number: impl Fn(T) -> f64) -> Option<f64> {
    let usual = number(median(before)?);
    (usual > 0.0).then_some(number(latest?) / usual - 1.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::site_counts::SiteCounts;
    use crate::site_status::SiteStatus;

    #[test]
    fn the_latest_complete_result_is_compared_with_the_median_before_it() {
        let result = |status, seconds, results| PastSite {
            run_id: "r".into(),
            at: 0.0,
            status,
            elapsed: Duration::from_secs(seconds),
            attempt: Some(Duration::from_secs(seconds)),
            counts: SiteCounts {
                results,
                ..SiteCounts::default()
            },
            reason: None,
            cause: None,
        };
        use SiteStatus::{Complete, Failed};
        let history = [
            result(Failed, 1, Some(0)),
            result(Complete, 15, Some(50)),
            result(Complete, 10, None),
            result(Complete, 90, Some(100)),
            result(Failed, 1, None),
            result(Complete, 5, Some(120)),
        ];
        let trend = Trend::of(&history);
        assert_eq!(trend.time, Some(0.5));
        assert!(
            trend.results.is_some_and(|change| (change + 0.583).abs() < 0.001),
            "{trend:?}"
        );
        assert_eq!(Trend::of(&history[..1]), Trend::default());
        assert_eq!(Trend::of(&history[..2]), Trend::default());
        let none = [result(Complete, 3, Some(0)), result(Complete, 0, Some(0))];
        assert_eq!(Trend::of(&none), Trend::default());
    }
}
