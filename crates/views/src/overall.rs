//! Progress of the whole run in a few words: sites, chunks, errors, remaining time.

use crate::text::coarse_span;
use orch_base::text::counted::plural;
use orch_journal::{RunState, RunTotals};

/// Formats `3 of 10 sites ended, 4 running`; `None` before the first site begins.
pub fn sites(state: &RunState) -> Option<String> {
    let (ended, running) = (state.totals.ended_sites(), state.totals.running_sites());
    let all = plural(state.sites.len() as u64, "site");
    (ended + running > 0).then(|| format!("{ended} of {all} ended, {running} running"))
}

/// Formats `120/400 chunks, 3.1 a second`, without the total while the number of some site is not known.
pub fn chunks(state: &RunState, now: f64) -> Option<String> {
    let totals = &state.totals;
    if totals.completed_chunks == 0 {
        return None;
    }
    let done = done_chunks(totals, state.sites.len());
    let rate = match totals.chunk_rate(now) {
        Some(rate) if rate > 0.0 => format!(", {}", rate_of(rate)),
        _ => String::new(),
    };
    Some(format!("{done}{rate}"))
}

/// Formats `about 2m05s left`; `None` if the end is not known or is overdue.
pub fn time_left(state: &RunState, now: f64) -> Option<String> {
    let left = state.expected_end? - now;
    let is_over = state.totals.ended_sites() == state.sites.len();
    (left >= 1.0 && !is_over).then(|| format!("about {} left", coarse_span(left)))
}

/// Formats the totals of all sites: `30/30 chunks, 120 results, 2 errors`, each if a site has reported it; `None` for a
/// single site, which has its own line.
pub fn sums(state: &RunState) -> Option<String> {
    let totals = &state.totals;
    if state.sites.len() < 2 {
        return None;
    }
    let counted = |count: u128, noun: &str| {
        let one = if count == 1 { "" } else { "s" };
        format!("{count} {noun}{one}")
    };
    let mut parts = Vec::new();
    if totals.completed_chunks > 0 {
        parts.push(done_chunks(totals, state.sites.len()));
    }
    if totals.sites_with_results > 0 {
        parts.push(counted(totals.results, "result"));
    }
    if totals.sites_with_errors > 0 {
        parts.push(counted(totals.errors, "error"));
    }
    Some(parts.join(", ")).filter(|sums| !sums.is_empty())
}

fn done_chunks(totals: &RunTotals, sites: usize) -> String {
    let done = totals.completed_chunks;
    if totals.sites_with_chunks == sites {
        let one = if totals.total_chunks == 1 { "" } else { "s" };
        format!("{done}/{} chunk{one}", totals.total_chunks)
    } else {
        let one = if done == 1 { "" } else { "s" };
        format!("{done} chunk{one}")
    }
}

/// Formats a rate per second, or per minute if less than one per second.
fn rate_of(per_second: f64) -> String {
    if per_second >= 10.0 {
        format!("{per_second:.0} a second")
    } else if per_second >= 1.0 {
        format!("{per_second:.1} a second")
    } else {
        format!("{:.1} a minute", per_second * 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::{Event, EventKind, ProgressSource, SiteCounts, SiteName};

    #[test]
    fn a_run_in_a_few_words() {
        let mut state = RunState::default();
        let mut seq = 0;
        let mut shown = |elapsed: f64, kind| {
            seq += 1;
            state.apply(&Event {
                seq,
                at: elapsed,
                elapsed,
                kind,
            });
            [
                sites(&state),
                chunks(&state, elapsed),
                time_left(&state, elapsed),
                sums(&state),
            ]
            .map(|part| part.unwrap_or_default())
        };
        let queued = |site: &str| EventKind::SiteQueued {
            site: SiteName::from(site),
        };
        shown(0.0, queued("a"));
        assert_eq!(shown(0.0, queued("b")), ["", "", "", ""]);
        let progressed = |site: &str, done, total| EventKind::SiteProgressed {
            site: SiteName::from(site),
            counts: SiteCounts {
                completed_chunks: Some(done),
                total_chunks: total,
                errors: Some(1),
                results: Some(0),
                ..SiteCounts::default()
            },
            source: ProgressSource::Keys,
        };
        for site in ["a", "b"] {
            let dispatched = EventKind::SiteDispatched {
                site: site.into(),
                attempt: 1,
                task_id: String::new(),
                job_id: None,
                fencing_token: None,
            };
            shown(0.0, dispatched);
        }
        shown(1.0, progressed("a", 2, Some(9)));
        shown(2.0, EventKind::EndExpected { in_ms: 100_000 });
        assert_eq!(
            shown(5.0, progressed("a", 8, Some(9))),
            [
                "0 of 2 sites ended, 2 running",
                "8 chunks, 2.0 a second",
                "about 1m37s left",
                "8 chunks, 0 results, 1 error"
            ]
        );
        assert_eq!(
            shown(200.0, progressed("b", 1, Some(1)))[1..],
            ["9/10 chunks, 1.0 a minute", "", "9/10 chunks, 0 results, 2 errors"].map(str::to_owned)
        );
    }

    #[test]
    fn zero_is_shown_and_unknown_numbers_are_not() {
        let sums_of = |counts: [SiteCounts; 2]| {
            let mut state = RunState::default();
            for (seq, (site, counts)) in (1..).zip(["a", "b"].into_iter().zip(counts)) {
                let kind = EventKind::SiteProgressed {
                    site: site.into(),
                    counts,
                    source: ProgressSource::Keys,
                };
                state.apply(&Event {
                    seq,
                    at: 0.0,
                    elapsed: 0.0,
                    kind,
                });
            }
            sums(&state).unwrap_or_default()
        };
        let unknown = SiteCounts::default();
        let nothing = SiteCounts {
            results: Some(0),
            ..unknown
        };
        let chunk = SiteCounts {
            completed_chunks: Some(1),
            ..unknown
        };
        let faulty = SiteCounts {
            errors: Some(0),
            ..nothing
        };
        for (counts, expected) in [
            ([unknown, unknown], ""),
            ([nothing, unknown], "0 results"),
            ([nothing, faulty], "0 results, 0 errors"),
            ([chunk, unknown], "1 chunk"),
            ([chunk, nothing], "1 chunk, 0 results"),
        ] {
            assert_eq!(sums_of(counts), expected, "{counts:?}");
        }
    }
}
