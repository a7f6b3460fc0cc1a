//! What the last runs mean for a site of this one: whether it is tried at all, and how much it should yield.
//!
//! Pure, and a function of the configuration and the history alone: nothing else is remembered between nights.

use crate::config::{MinResults, SiteConfig};
use crate::run::{PastSite, SiteCounts, SiteStatus};

/// Complete results that a yield is compared with.
const COMPARED_WITH: usize = 5;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub tries: Tries,
    floor: Option<Floor>,
}

/// How a site that has failed night after night is tried: a circuit breaker whose state is the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tries {
    /// As configured.
    #[default]
    Closed,
    /// One attempt, since it failed in its last runs.
    Once,
    /// None, for this reason.
    Skipped(String),
}

/// The least that a site should yield.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Floor {
    results: u64,
    /// Where it comes from.
    why: String,
}

/// How a complete site's results compare with what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Yield {
    Enough,
    /// It should be compared, and the app tells no number: why.
    Unknown(String),
    /// Why it is too little.
    Short(String),
}

impl Standing {
    /// Of a site, by its results, the latest first. `forced`: it is tried, whatever they were.
    pub fn of(site: &SiteConfig, results: &[PastSite], forced: bool) -> Self {
        let tries = match site.skip_after_failures {
            Some(limit) if !forced => tries(results, limit),
            _ => Tries::Closed,
        };
        let floor = site.min_results.and_then(|least| floor(least, results));
        Self { tries, floor }
    }

    /// Of a complete site that came to this.
    pub fn judge(&self, counts: SiteCounts) -> Yield {
        let Some(Floor { results: least, why }) = &self.floor else {
            return Yield::Enough;
        };
        // A site that had no page to begin with has no result either.
        let nothing = counts.total_urls.filter(|urls| *urls == 0);
        match counts.results.or(nothing) {
            Some(results) if results >= *least => Yield::Enough,
            Some(results) => {
                let one = if results == 1 { "" } else { "s" };
                Yield::Short(format!("{results} result{one}, {why}"))
            }
            None => Yield::Unknown(format!("how many results it has is not told, {why}")),
        }
    }
}

fn floor(least: MinResults, results: &[PastSite]) -> Option<Floor> {
    match least {
        MinResults::Count(least) => Some(Floor {
            results: least,
            why: format!("`min_results` is {least}"),
        }),
        MinResults::OfMedian(percent) => {
            // What was degraded is no measure: a slow decay would hide itself.
            let complete = results.iter().filter(|result| result.status == SiteStatus::Complete);
            let known = complete.filter_map(|result| result.counts.results);
            let mut known: Vec<u64> = known.take(COMPARED_WITH).collect();
            known.sort_unstable();
            let median = *known.get(known.len() / 2)?;
            // Rounded up: a share of something is not nothing.
            let least = (u128::from(median) * u128::from(percent)).div_ceil(100);
            let least = u64::try_from(least).unwrap_or(u64::MAX);
            let nights = match known.len() {
                1 => "its last complete run".to_owned(),
                nights => format!("the median of its last {nights} complete runs"),
            };
            Some(Floor {
                results: least,
                why: format!("`min_results` is {percent} % of {nights} with {median}: {least}"),
            })
        }
    }
}

/// `limit` failures in a row: one more try, with one attempt. It fails: as many runs pass without it, then it is tried once
/// again, and so on.
fn tries(results: &[PastSite], limit: u32) -> Tries {
    let limit = limit as usize;
    // A stop, and the failure of another site, say nothing of this one.
    let own = |result: &&PastSite| match result.status {
        SiteStatus::Complete | SiteStatus::Degraded | SiteStatus::Failed => true,
        SiteStatus::Skipped => result.dependency.is_none(),
        SiteStatus::Cancelled => false,
    };
    let mut own = results.iter().filter(own).peekable();
    let mut skipped = 0;
    while own.next_if(|result| result.status == SiteStatus::Skipped).is_some() {
        skipped += 1;
    }
    let last = own.peek().copied();
    let mut failures = 0;
    while own.next_if(|result| result.status == SiteStatus::Failed).is_some() {
        failures += 1;
    }
    // The last try was one after such a pause.
    let after_a_pause = own.peek().is_some_and(|result| result.status == SiteStatus::Skipped);
    let is_open = skipped > 0 || (failures > 0 && after_a_pause) || failures > limit;
    if is_open && skipped < limit {
        let reason = last.and_then(|result| result.reason.as_deref()).unwrap_or("not known");
        let reason = reason.lines().next().unwrap_or_default();
        let next = match limit - skipped {
            1 => "in the next run".to_owned(),
            runs => format!("in {runs} runs"),
        };
        let runs = if limit == 1 { "run" } else { "runs" };
        return Tries::Skipped(format!(
            "it failed in its last {limit} {runs} and once more (`skip_after_failures`), the last time: {reason}; it is tried \
             again {next}, or with --force"
        ));
    }
    if is_open || failures == limit {
        Tries::Once
    } else {
        Tries::Closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn result(status: SiteStatus, results: Option<u64>) -> PastSite {
        PastSite {
            run_id: "r".into(),
            at: 0.0,
            status,
            elapsed: Duration::from_secs(1),
            counts: SiteCounts {
                results,
                ..SiteCounts::default()
            },
            reason: Some("it is closed\nfor good".to_owned()),
            dependency: None,
        }
    }

    /// `.` complete, `d` degraded, `F` failed, `S` skipped by itself, `s` by another, `C` cancelled; the latest last.
    fn night(letter: char) -> PastSite {
        let status = match letter {
            '.' => SiteStatus::Complete,
            'd' => SiteStatus::Degraded,
            'F' => SiteStatus::Failed,
            'C' => SiteStatus::Cancelled,
            _ => SiteStatus::Skipped,
        };
        PastSite {
            dependency: (letter == 's').then(|| "other".into()),
            ..result(status, None)
        }
    }

    fn after(nights: &str, limit: u32) -> Tries {
        let results: Vec<PastSite> = nights.chars().rev().map(night).collect();
        tries(&results, limit)
    }

    #[test]
    fn a_site_that_fails_night_after_night_is_tried_ever_less() {
        for (nights, expected) in [
            ("", "closed"),
            ("FF", "closed"),
            (".FFF", "once"),
            // What others and people did to it does not count.
            ("FsFCF", "once"),
            ("FFdFF", "closed"),
            ("FFF.", "closed"),
            ("FFFF", "in 3 runs"),
            ("FFFFs", "in 3 runs"),
            ("FFFFS", "in 2 runs"),
            ("FFFFSS", "in the next run"),
            ("FFFFSSS", "once"),
            ("FFFFSSSF", "in 3 runs"),
            ("FFFFSSSFS", "in 2 runs"),
            ("FFFFSSSFSSS", "once"),
            ("FFFFSSS.", "closed"),
            ("FFFFSSS.F", "closed"),
            ("FFFFSSSd", "closed"),
            // Forced in between, and failed.
            ("FFFFSF", "in 3 runs"),
        ] {
            let seen = after(nights, 3);
            match (&seen, expected) {
                (Tries::Closed, "closed") | (Tries::Once, "once") => {}
                (Tries::Skipped(why), next) => {
                    assert!(why.contains(&format!("tried again {next},")), "{nights}: {why}");
                    assert!(why.contains("the last time: it is closed;"), "{why}");
                }
                _ => panic!("{nights}: {seen:?}, not {expected}"),
            }
        }
        assert_eq!(after("F", 1), Tries::Once);
        assert!(matches!(after("FF", 1), Tries::Skipped(_)));
        assert_eq!(after("FFS", 1), Tries::Once);
    }

    #[test]
    fn only_so_many_of_the_last_runs_have_to_be_known() {
        // As the breaker itself makes them, for the largest limit: what the history still tells must give the same.
        for limit in 1..=crate::config::MOST_FAILURES {
            let mut nights = String::new();
            for _ in 0..100 {
                let known: String = nights.chars().rev().take(10).collect::<Vec<_>>().iter().rev().collect();
                let (all, seen) = (after(&nights, limit), after(&known, limit));
                assert_eq!(all, seen, "{limit}: {nights}");
                nights.push(if matches!(all, Tries::Skipped(_)) { 'S' } else { 'F' });
            }
            let tried = nights.chars().filter(|night| *night == 'F').count();
            let skipped = nights.len() - tried;
            assert!(
                skipped + 10 >= tried * limit as usize - (limit * limit) as usize,
                "{nights}"
            );
        }
    }

    #[test]
    fn the_yield_is_compared_with_what_is_configured_or_with_the_median_of_complete_runs() {
        use SiteStatus::{Complete, Degraded, Failed};
        let counts = |results| SiteCounts {
            results,
            ..SiteCounts::default()
        };
        let judged = |least, history: &[PastSite], results| {
            let floor = floor(least, history);
            let tries = Tries::Closed;
            match (Standing { tries, floor }).judge(counts(results)) {
                Yield::Enough => "enough".to_owned(),
                Yield::Unknown(why) | Yield::Short(why) => why,
            }
        };
        let history = [
            result(Degraded, Some(1)),
            result(Complete, Some(90)),
            result(Failed, Some(0)),
            result(Complete, None),
            result(Complete, Some(200)),
            result(Complete, Some(101)),
        ];
        let count = MinResults::Count(50);
        assert_eq!(judged(count, &[], Some(50)), "enough");
        assert_eq!(judged(count, &[], Some(1)), "1 result, `min_results` is 50");
        assert_eq!(
            judged(count, &[], None),
            "how many results it has is not told, `min_results` is 50"
        );
        let share = MinResults::OfMedian(60);
        assert_eq!(judged(share, &[], Some(0)), "enough", "nothing to compare with");
        assert_eq!(judged(share, &history, Some(61)), "enough");
        assert_eq!(
            judged(share, &history, Some(60)),
            "60 results, `min_results` is 60 % of the median of its last 3 complete runs with 101: 61"
        );
        let least = Floor {
            results: 1,
            why: String::new(),
        };
        let empty = SiteCounts {
            total_urls: Some(0),
            ..SiteCounts::default()
        };
        let standing = Standing {
            tries: Tries::Closed,
            floor: Some(least),
        };
        assert!(matches!(standing.judge(empty), Yield::Short(_)), "no pages, no results");
    }
}
