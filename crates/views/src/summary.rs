//! Table at the end of a run: the result of each site, restarts, the outcome and the directory of the logs.

use crate::overall;
use crate::paint::{StyledLine, TextTone, columns, padded};
use crate::site_errors;
use crate::text::{count, span};
use orch_base::text::counted::plural;
use orch_base::text::printable::one_line;
use orch_journal::{
    ProxiesView, ResumedSite, RunCommand, RunOutcome, RunState, ServicePhase, SiteHealth, SitePhase, SiteStatus,
    SiteView,
};

/// Number of sites above which complete sites have no row.
const MANY_SITES: usize = 50;
/// Number of rows of the table at most.
const MAX_ROWS: usize = 200;

/// Makes the lines of the summary; `quiet` leaves out successes.
pub fn lines(state: &RunState, quiet: bool) -> Vec<StyledLine> {
    // cron mails every output, so a quiet success prints nothing.
    let is_all_well = state.outcome == Some(RunOutcome::Succeeded)
        && state
            .sites
            .iter()
            .all(|site| site.phase == SitePhase::Ended(SiteStatus::Complete));
    if quiet && is_all_well {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let plain = |text: String| StyledLine::of(TextTone::Plain, text);
    let is_many = state.sites.len() > MANY_SITES;
    let mut shown: Vec<&SiteView> = state
        .sites
        .iter()
        .filter(|site| !(quiet || is_many) || site.phase != SitePhase::Ended(SiteStatus::Complete))
        .collect();
    let more = shown.len().saturating_sub(MAX_ROWS);
    shown.truncate(MAX_ROWS);
    if !shown.is_empty() {
        lines.extend(table(&shown, state));
    }
    if more > 0 {
        let text = format!("+{}: see summary.json", plural(more as u64, "more site"));
        lines.push(plain(text));
    }
    lines.extend(site_errors::lines(state).into_iter().map(plain));
    if !quiet {
        if is_many {
            let complete = state.totals.in_phase(SitePhase::Ended(SiteStatus::Complete));
            lines.push(plain(format!("{complete} of {} sites complete", state.sites.len())));
        }
        lines.extend(overall::sums(state).map(|sums| plain(format!("total: {sums}"))));
    }
    if let (Some(from), false) = (resumed_run(state), quiet) {
        let sites_that = |were| state.sites.iter().filter(|site| site.resumed == Some(were)).count() as u64;
        lines.push(plain(format!(
            "resumed run {from}: {} kept, {} picked up, {} dispatched",
            plural(sites_that(ResumedSite::Kept), "site"),
            sites_that(ResumedSite::PickedUp),
            sites_that(ResumedSite::Dispatched)
        )));
    }
    for service in state
        .services
        .iter()
        .filter(|service| service.restarts > 0 || service.phase == ServicePhase::Failed)
    {
        let restarts = plural(u64::from(service.restarts), "restart");
        let text = match (service.phase, service.restarts) {
            (ServicePhase::Failed, 0) => "failed".to_owned(),
            (ServicePhase::Failed, _) => format!("{restarts}, then given up"),
            _ => restarts,
        };
        lines.push(plain(format!("service {}: {text}", service.name)));
    }
    for service in &state.services {
        if let Some(reason) = &service.unhealthy {
            lines.push(plain(format!(
                "service {}: was unhealthy: {}",
                service.name,
                one_line(reason)
            )));
        }
    }
    if let (Some(proxies), false) = (&state.proxies.count, quiet) {
        lines.push(plain(format!(
            "proxies: {} usable of {}{}, {}",
            proxies.usable,
            proxies.total,
            proxies.left_out.in_brackets(),
            refreshed(&state.proxies)
        )));
    }
    if let Some(error) = &state.error {
        for (number, text) in error.lines().enumerate() {
            let mut line = StyledLine::default();
            if number == 0 {
                line.push(TextTone::Bad, "error:").plain(" ");
            }
            line.plain(text);
            lines.push(line);
        }
    }
    let Some(last) = outcome_line(state) else {
        return lines;
    };
    lines.push(last);
    if let Some(header) = &state.header {
        lines.push(plain(format!("logs: {}", header.directory.display())));
    }
    lines.extend(continuation(state).map(plain));
    lines
}

/// Makes the line of the outcome, such as `2 of 9 sites failed after 3m (exit code 1)`; `None` before the end.
fn outcome_line(state: &RunState) -> Option<StyledLine> {
    let elapsed = span(state.elapsed);
    let command = state.header.as_ref().map(|header| header.command);
    let outcome = match state.outcome {
        Some(RunOutcome::Succeeded) if command == Some(RunCommand::Run) => {
            match state.totals.in_phase(SitePhase::Ended(SiteStatus::Degraded)) {
                0 => format!("all sites complete after {elapsed}"),
                degraded => format!("all sites complete, {degraded} degraded, after {elapsed}"),
            }
        }
        Some(RunOutcome::Succeeded) => format!("done after {elapsed}"),
        Some(RunOutcome::SitesFailed) => {
            let sites_in = |status| state.totals.in_phase(SitePhase::Ended(status));
            let (skipped, complete) = (sites_in(SiteStatus::Skipped), sites_in(SiteStatus::Complete));
            let degraded = sites_in(SiteStatus::Degraded);
            let unknown = sites_in(SiteStatus::Unknown);
            let cancelled = sites_in(SiteStatus::Cancelled);
            let failed = state.sites.len() - skipped - complete - degraded - unknown - cancelled;
            let empty = state.sites.iter().filter(|site| lacks_results(site)).count();
            let sites = plural(state.sites.len() as u64, "site");
            let parts = [
                (failed, "failed"),
                (unknown, "of unknown outcome"),
                (empty, "without results"),
                (degraded - empty, "degraded"),
                (cancelled, "cancelled"),
                (skipped, "skipped"),
            ];
            let mut parts = parts.into_iter().filter(|(count, _)| *count > 0);
            // No site at all: only in a journal of this kind.
            let (count, word) = parts.next().unwrap_or((0, "failed"));
            let mut text = format!("{count} of {sites} {word}");
            for (count, word) in parts {
                text.push_str(&format!(", {count} {word}"));
            }
            format!("{text} after {elapsed}")
        }
        Some(RunOutcome::ConfigurationError) => format!("failed after {elapsed}: configuration error"),
        Some(RunOutcome::InfrastructureFailed) => format!("failed after {elapsed}: infrastructure error"),
        Some(RunOutcome::NotEnoughProxies) => format!("failed after {elapsed}: not enough proxies"),
        Some(RunOutcome::Busy) => "other runs hold the instance or its sites".to_owned(),
        Some(RunOutcome::Interrupted) => format!("interrupted after {elapsed}"),
        Some(RunOutcome::Terminated) => format!("terminated after {elapsed}"),
        Some(RunOutcome::HungUp) => format!("hung up after {elapsed}"),
        None => return None,
    };
    let code = state
        .exit_code
        .map_or_else(String::new, |code| format!(" (exit code {code})"));
    let tone = if state.outcome == Some(RunOutcome::Succeeded) {
        TextTone::Good
    } else {
        TextTone::Bad
    };
    let mut last = StyledLine::of(tone, outcome);
    last.plain(code);
    Some(last)
}

/// Makes the lines about the end of a run that is over: the outcome, and the hint for continuing an interrupted or dead run.
pub(crate) fn end_lines(state: &RunState) -> Vec<StyledLine> {
    let hint = match state.outcome {
        None => unfinished_sites(state),
        Some(_) => continuation(state),
    };
    let hint = hint.map(|hint| StyledLine::of(TextTone::Plain, hint));
    outcome_line(state).into_iter().chain(hint).collect()
}

/// Returns the hint for continuing an interrupted run.
fn continuation(state: &RunState) -> Option<String> {
    match state.outcome {
        Some(RunOutcome::Succeeded | RunOutcome::SitesFailed) | None => None,
        Some(_) => unfinished_sites(state),
    }
}

/// Returns the hint for continuing a run with unfinished sites. A run that began no site is simply started again.
fn unfinished_sites(state: &RunState) -> Option<String> {
    let header = state
        .header
        .as_ref()
        .filter(|header| header.command == RunCommand::Run)?;
    let has_begun = header.resumes.is_some() || state.sites.iter().any(|site| site.attempt > 0);
    let is_complete = |site: &&SiteView| {
        matches!(
            site.phase,
            SitePhase::Ended(SiteStatus::Complete) | SitePhase::Ended(SiteStatus::Degraded)
        )
    };
    let (complete, sites) = (state.sites.iter().filter(is_complete).count(), state.sites.len());
    (has_begun && complete < sites)
        .then(|| format!("continue with `orch run --resume`: {complete} of {sites} sites are complete"))
}

/// Returns the id of the run that this one continues.
fn resumed_run(state: &RunState) -> Option<String> {
    let header = state.header.as_ref()?;
    header.resumes.as_ref().map(|run_id| one_line(run_id.as_str()))
}

fn table(sites: &[&SiteView], state: &RunState) -> Vec<StyledLine> {
    let now = state.elapsed;
    let from = resumed_run(state).unwrap_or_default();
    let header = ["SITE", "STATUS", "CHUNKS", "RESULTS", "ERRORS", "TIME", "REASON"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    for site in sites {
        let chunks = match (site.counts.completed_chunks, site.counts.total_chunks) {
            (None, None) => "-".to_owned(),
            (done, total) => format!("{}/{}", count(done), count(total)),
        };
        // Duration as in the line of the site's end.
        let time = site
            .lasted
            .or(site.started.map(|started| site.finished.unwrap_or(now) - started));
        let time = time.map_or_else(|| "-".to_owned(), span);
        let reason = match (&site.reason, site.resumed) {
            (None, None) if site.worst > SiteHealth::Healthy => format!("was {}", site.worst.word()),
            (Some(reason), _) => reason.lines().next().unwrap_or_default().to_owned(),
            (None, Some(ResumedSite::Kept)) => format!("kept from run {from}"),
            (None, Some(ResumedSite::PickedUp)) => format!("picked up from run {from}"),
            (None, Some(ResumedSite::Dispatched) | None) => String::new(),
        };
        rows.push(vec![
            one_line(site.name.as_str()),
            final_status(site.phase, state).to_owned(),
            chunks,
            count(site.counts.known_results()),
            count(site.counts.errors),
            time,
            one_line(&reason),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| columns(cell))
            .max()
    };
    let widths: Vec<usize> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
    let tones = std::iter::once(TextTone::Plain).chain(sites.iter().map(|site| tone(site.phase)));
    rows.iter()
        .zip(tones)
        .map(|(row, tone)| {
            let mut line = StyledLine::default();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                line.plain(gap);
                match column {
                    1 => line
                        .push(tone, cell)
                        .plain(padded("", width.saturating_sub(columns(cell)))),
                    2..=5 => line.plain(format!("{cell:>width$}")),
                    _ => line.plain(padded(cell, *width)),
                };
            }
            line
        })
        .collect()
}

/// Decides whether a site certainly lacks required results.
fn lacks_results(site: &SiteView) -> bool {
    site.phase == SitePhase::Ended(SiteStatus::Degraded) && site.counts.has_no_results()
}

/// Returns the tone of a site's phase.
pub fn tone(phase: SitePhase) -> TextTone {
    match phase {
        SitePhase::Waiting | SitePhase::Queued => TextTone::Dim,
        SitePhase::Dispatching | SitePhase::Running => TextTone::Busy,
        SitePhase::Retrying
        | SitePhase::Ended(SiteStatus::Degraded)
        | SitePhase::Ended(SiteStatus::Cancelled)
        | SitePhase::Ended(SiteStatus::Skipped) => TextTone::Warning,
        SitePhase::Ended(SiteStatus::Complete) => TextTone::Good,
        SitePhase::Ended(SiteStatus::Failed) | SitePhase::Ended(SiteStatus::Unknown) => TextTone::Bad,
    }
}

/// Returns the word for a site's phase.
pub fn status(phase: SitePhase) -> &'static str {
    match phase {
        SitePhase::Waiting => "WAITING",
        SitePhase::Queued => "QUEUED",
        SitePhase::Dispatching => "DISPATCHING",
        SitePhase::Running => "RUNNING",
        SitePhase::Retrying => "RETRYING",
        SitePhase::Ended(SiteStatus::Complete) => "COMPLETE",
        SitePhase::Ended(SiteStatus::Degraded) => "DEGRADED",
        SitePhase::Ended(SiteStatus::Failed) => "FAILED",
        SitePhase::Ended(SiteStatus::Unknown) => "UNKNOWN",
        SitePhase::Ended(SiteStatus::Cancelled) => "CANCELLED",
        SitePhase::Ended(SiteStatus::Skipped) => "SKIPPED",
    }
}

/// Returns the word at the end of a run, when nothing waits or runs any more.
fn final_status(phase: SitePhase, state: &RunState) -> &'static str {
    match phase {
        SitePhase::Waiting | SitePhase::Queued if state.outcome.is_some() => "NOT BEGUN",
        SitePhase::Dispatching | SitePhase::Running | SitePhase::Retrying if state.outcome.is_some() => "CUT SHORT",
        phase => status(phase),
    }
}

/// Describes how often the pool was refreshed, and how many refreshes failed.
fn refreshed(proxies: &ProxiesView) -> String {
    let failed = proxies.failed_refreshes;
    let unfinished = u32::from(proxies.refreshing);
    let succeeded = proxies.refreshes.saturating_sub(failed).saturating_sub(unfinished);
    let mut text = match succeeded {
        0 => "not refreshed".to_owned(),
        1 => "refreshed once".to_owned(),
        times => format!("refreshed {times} times"),
    };
    match failed {
        0 => {}
        1 => text.push_str(", 1 refresh failed"),
        times => text.push_str(&format!(", {times} refreshes failed")),
    }
    if proxies.refreshing {
        text.push_str(", 1 refresh not finished");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::{Event, EventKind, SiteCounts, SiteName, SiteStatus};

    #[test]
    fn a_refresh_that_failed_is_no_refresh() {
        for (begun, failed, refreshing, text) in [
            (0, 0, false, "not refreshed"),
            (1, 0, false, "refreshed once"),
            (1, 1, false, "not refreshed, 1 refresh failed"),
            (2, 1, false, "refreshed once, 1 refresh failed"),
            (2, 2, false, "not refreshed, 2 refreshes failed"),
            (3, 1, false, "refreshed 2 times, 1 refresh failed"),
            (2, 1, true, "not refreshed, 1 refresh failed, 1 refresh not finished"),
        ] {
            let proxies = ProxiesView {
                refreshes: begun,
                failed_refreshes: failed,
                refreshing,
                ..ProxiesView::default()
            };
            assert_eq!(refreshed(&proxies), text);
        }
    }

    /// Makes the summary of a run whose sites have these ends, `None` for a site that has not ended.
    fn ended(outcome: RunOutcome, ends: &[(&str, Option<SiteStatus>)]) -> Vec<String> {
        let mut kinds = Vec::new();
        for (site, status) in ends {
            let site = SiteName::from(*site);
            kinds.push(EventKind::SiteQueued { site: site.clone() });
            if site.as_str() != "queued" {
                kinds.push(EventKind::SiteDispatched {
                    site: site.clone(),
                    attempt: 1,
                    task_id: String::new(),
                    job_id: None,
                    fencing_token: None,
                });
            }
            kinds.extend(status.map(|status| EventKind::SiteFinished {
                site,
                status,
                counts: SiteCounts::default(),
                elapsed_ms: 7000,
                reason: None,
                dependency: None,
                cause: None,
            }));
        }
        kinds.push(EventKind::RunFinished {
            outcome,
            exit_code: 1,
            error: None,
        });
        let mut state = RunState::default();
        for (kind, seq) in kinds.into_iter().zip(1..) {
            let (at, elapsed) = (0.0, 0.0);
            state.apply(&Event { seq, at, elapsed, kind });
        }
        let lines = lines(&state, false);
        lines.iter().map(|line| line.whole(false).to_string()).collect()
    }

    #[test]
    fn cancelled_sites_have_not_failed_and_no_site_waits_at_the_end() {
        use SiteStatus::{Cancelled, Complete, Failed};
        let sites = [("a", Some(Complete)), ("b", Some(Failed)), ("c", Some(Cancelled))];
        let shown = ended(RunOutcome::SitesFailed, &sites);
        assert_eq!(
            shown.last().unwrap(),
            "1 of 3 sites failed, 1 cancelled after 0s (exit code 1)"
        );
        assert!(shown[1].contains(" 7s"), "as in the line of its end: {shown:?}");
        let shown = ended(
            RunOutcome::SitesFailed,
            &[("a", Some(Complete)), ("b", Some(Cancelled))],
        );
        assert_eq!(shown.last().unwrap(), "1 of 2 sites cancelled after 0s (exit code 1)");
        let shown = ended(RunOutcome::InfrastructureFailed, &[("queued", None), ("runs", None)]).join("\n");
        assert!(
            shown.contains("queued  NOT BEGUN") && shown.contains("runs    CUT SHORT"),
            "{shown}"
        );
    }
}
