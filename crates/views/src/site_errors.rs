//! Lines of the summary about the errors of sites that need a person: the most frequent error, the log, and the command
//! that shows more.

use orch_base::text::counted::plural;
use orch_base::text::printable::{one_line, shortened};
use orch_journal::{ErrorView, RunState, SiteHealth, SitePhase, SiteStatus, SiteView};

/// Number of sites with lines of their own.
const MAX_SITES: usize = 10;
/// Number of characters of an exception.
const MAX_EXCEPTION: usize = 160;

/// Makes the lines; none if no such site has a failed task.
pub(crate) fn lines(state: &RunState) -> Vec<String> {
    let sites: Vec<&SiteView> = state.sites.iter().filter(|site| needs_a_person(site)).collect();
    let mut lines = Vec::new();
    for site in sites.iter().take(MAX_SITES) {
        if let Some(first) = site.errors.first() {
            lines.extend(lines_of(site, first));
        }
    }
    let more = sites.len().saturating_sub(MAX_SITES);
    if more > 0 {
        lines.push(format!(
            "+{} with errors: `orch errors`",
            plural(more as u64, "more site")
        ));
    }
    lines
}

fn needs_a_person(site: &SiteView) -> bool {
    let has_ended_badly = match site.phase {
        SitePhase::Ended(SiteStatus::Complete) => site.worst > SiteHealth::Slow,
        SitePhase::Ended(SiteStatus::Skipped) => false,
        _ => true,
    };
    has_ended_badly && !site.errors.is_empty()
}

fn lines_of(site: &SiteView, first: &ErrorView) -> Vec<String> {
    let name = one_line(site.name.as_str());
    let count = first
        .count
        .map_or_else(String::new, |count| format!(" ({})", plural(count, "failed task")));
    let more = match site.errors.len() {
        1 => String::new(),
        several => format!(", and {}", plural(several as u64 - 1, "other error")),
    };
    let exception = shortened(&one_line(&first.exception), MAX_EXCEPTION);
    let log = first
        .log
        .as_ref()
        .map_or_else(String::new, |log| format!("log: {}; ", log.display()));
    vec![
        format!("{name}: {exception}{count}{more}"),
        format!("  {}more: `orch errors {name}`", one_line(&log)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::{
        ErrorCount, Event, EventKind, FailedTask, LogExcerpt, SiteCounts, SiteErrors, SiteName, TaskEndKind,
    };

    fn state(kinds: Vec<EventKind>) -> RunState {
        let mut state = RunState::default();
        for (kind, seq) in kinds.into_iter().zip(1..) {
            let (at, elapsed) = (0.0, 0.0);
            state.apply(&Event { seq, at, elapsed, kind });
        }
        state
    }

    fn failed(site: &str, exception: &str, signature: &str) -> EventKind {
        EventKind::TaskFailed(Box::new(FailedTask {
            site: Some(SiteName::from(site)),
            attempt: 1,
            signature: signature.to_owned(),
            kind: TaskEndKind::Raised,
            exception: exception.to_owned(),
            traceback: None,
            task_id: "t-1".to_owned(),
            task: None,
            worker: None,
            chunk: Some(7),
            log: Some(LogExcerpt {
                file: "/runs/1/celery.log".into(),
                lines: Vec::new(),
            }),
        }))
    }

    fn counted(site: &str, counts: &[(&str, u64)]) -> EventKind {
        let errors = counts.iter().map(|(signature, count)| ErrorCount {
            signature: (*signature).to_owned(),
            count: *count,
            first_at: 1.0,
            last_at: 2.0,
        });
        EventKind::SiteErrorsCounted(SiteErrors {
            site: SiteName::from(site),
            errors: errors.collect(),
            others: 0,
        })
    }

    fn finished(site: &str, status: SiteStatus) -> EventKind {
        EventKind::SiteFinished {
            site: SiteName::from(site),
            status,
            counts: SiteCounts::default(),
            elapsed_ms: 1,
            reason: None,
            dependency: None,
            cause: None,
        }
    }

    #[test]
    fn a_failed_site_names_its_most_frequent_error_its_log_and_the_command() {
        let state = state(vec![
            failed("a", "KeyError: 'price'", "KeyError: <text>"),
            failed("a", "ChunkError: 404 for\nhttp://h/p/7", "ChunkError: <n> for <url>"),
            counted("a", &[("ChunkError: <n> for <url>", 12), ("KeyError: <text>", 1)]),
            finished("a", SiteStatus::Failed),
            failed("fine", "KeyError: 'x'", "KeyError: <text>"),
            finished("fine", SiteStatus::Complete),
        ]);
        assert_eq!(
            lines(&state),
            [
                "a: ChunkError: 404 for http://h/p/7 (12 failed tasks), and 1 other error",
                "  log: /runs/1/celery.log; more: `orch errors a`",
            ]
        );
    }

    #[test]
    fn a_run_that_died_shows_what_it_had_seen() {
        let state = state(vec![failed("a", "KeyError: 'price'", "KeyError: <text>")]);
        assert_eq!(lines(&state)[0], "a: KeyError: 'price'");
    }

    #[test]
    fn many_sites_have_few_lines() {
        let mut kinds = Vec::new();
        for number in 0..25 {
            kinds.push(failed(&format!("s{number}"), "E", "E"));
            kinds.push(finished(&format!("s{number}"), SiteStatus::Failed));
        }
        let lines = lines(&state(kinds));
        assert_eq!(lines.len(), 2 * MAX_SITES + 1);
        assert_eq!(lines.last().unwrap(), "+15 more sites with errors: `orch errors`");
    }
}
