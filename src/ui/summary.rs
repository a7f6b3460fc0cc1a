//! The table at the end: what became of each site, what was restarted, how it ended and where the logs are.

use super::overall;
use super::paint::{Line, Tone, columns, padded};
use super::text::{count, span};
use crate::counted::plural;
use crate::printable::one_line;
use crate::run::{Command, Outcome, ProxiesView, Resumed, RunState, ServicePhase, SiteHealth, SitePhase, SiteView};

/// Of more sites than this those that are complete have no row.
const MANY_SITES: usize = 50;
/// Rows of the table at most.
const MOST_ROWS: usize = 200;

/// The summary's lines; `quiet` leaves out what went well.
pub fn lines(state: &RunState, quiet: bool) -> Vec<Line> {
    // What cron mails is what somebody has to read.
    let is_all_well =
        state.outcome == Some(Outcome::Succeeded) && state.sites.iter().all(|site| site.phase == SitePhase::Complete);
    if quiet && is_all_well {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let plain = |text: String| Line::of(Tone::Plain, text);
    let is_many = state.sites.len() > MANY_SITES;
    let mut shown: Vec<&SiteView> = state
        .sites
        .iter()
        .filter(|site| !(quiet || is_many) || site.phase != SitePhase::Complete)
        .collect();
    let more = shown.len().saturating_sub(MOST_ROWS);
    shown.truncate(MOST_ROWS);
    if !shown.is_empty() {
        lines.extend(table(&shown, state));
    }
    if more > 0 {
        let text = format!("+{}: summary.json has them all", plural(more as u64, "more site"));
        lines.push(plain(text));
    }
    if !quiet {
        if is_many {
            let complete = state.totals.in_phase(SitePhase::Complete);
            lines.push(plain(format!("{complete} of {} sites complete", state.sites.len())));
        }
        lines.extend(overall::sums(state).map(|sums| plain(format!("in all: {sums}"))));
    }
    if let (Some(from), false) = (resumed_run(state), quiet) {
        let sites_that = |were| state.sites.iter().filter(|site| site.resumed == Some(were)).count() as u64;
        lines.push(plain(format!(
            "resumed run {from}: {} kept, {} picked up, {} dispatched",
            plural(sites_that(Resumed::Kept), "site"),
            sites_that(Resumed::PickedUp),
            sites_that(Resumed::Dispatched)
        )));
    }
    for service in state
        .services
        .iter()
        .filter(|service| service.restarts > 0 || service.phase == ServicePhase::Failed)
    {
        let restarts = plural(u64::from(service.restarts), "restart");
        let told = match (service.phase, service.restarts) {
            (ServicePhase::Failed, 0) => "failed".to_owned(),
            (ServicePhase::Failed, _) => format!("{restarts}, then given up"),
            _ => restarts,
        };
        lines.push(plain(format!("service {}: {told}", service.name)));
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
            let mut line = Line::default();
            if number == 0 {
                line.push(Tone::Bad, "error:").push(Tone::Plain, " ");
            }
            line.push(Tone::Plain, text);
            lines.push(line);
        }
    }
    let elapsed = span(state.elapsed);
    let command = state.header.as_ref().map(|header| header.command);
    let outcome = match state.outcome {
        Some(Outcome::Succeeded) if command == Some(Command::Run) => match state.totals.in_phase(SitePhase::Degraded) {
            0 => format!("all sites complete after {elapsed}"),
            degraded => format!("all sites complete, {degraded} degraded, after {elapsed}"),
        },
        Some(Outcome::Succeeded) => format!("done after {elapsed}"),
        Some(Outcome::SitesFailed) => {
            let sites_in = |phase| state.totals.in_phase(phase);
            let (skipped, complete) = (sites_in(SitePhase::Skipped), sites_in(SitePhase::Complete));
            let degraded = sites_in(SitePhase::Degraded);
            let unknown = sites_in(SitePhase::Unknown);
            let cancelled = sites_in(SitePhase::Cancelled);
            let failed = state.sites.len() - skipped - complete - degraded - unknown - cancelled;
            let empty = state.sites.iter().filter(|site| yielded_nothing(site)).count();
            let sites = plural(state.sites.len() as u64, "site");
            let parts = [
                (failed, "failed"),
                (unknown, "of unknown outcome"),
                (empty, "yielded nothing"),
                (degraded - empty, "degraded"),
                (cancelled, "cancelled"),
                (skipped, "skipped"),
            ];
            let mut parts = parts.into_iter().filter(|(count, _)| *count > 0);
            // None at all: of a journal that says so.
            let (count, word) = parts.next().unwrap_or((0, "failed"));
            let mut text = format!("{count} of {sites} {word}");
            for (count, word) in parts {
                text.push_str(&format!(", {count} {word}"));
            }
            format!("{text} after {elapsed}")
        }
        Some(Outcome::ConfigurationError) => format!("ended by a configuration error after {elapsed}"),
        Some(Outcome::InfrastructureFailed) => format!("ended by a failure of infrastructure after {elapsed}"),
        Some(Outcome::NotEnoughProxies) => format!("ended after {elapsed}: not enough proxies"),
        Some(Outcome::Busy) => "other runs hold the instance or its sites".to_owned(),
        Some(Outcome::Interrupted) => format!("interrupted after {elapsed}"),
        Some(Outcome::Terminated) => format!("terminated after {elapsed}"),
        Some(Outcome::HungUp) => format!("hung up after {elapsed}"),
        None => return lines,
    };
    let code = state
        .exit_code
        .map_or_else(String::new, |code| format!(" (exit code {code})"));
    let tone = if state.outcome == Some(Outcome::Succeeded) {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut last = Line::of(tone, outcome);
    last.push(Tone::Plain, code);
    lines.push(last);
    if let Some(header) = &state.header {
        lines.push(plain(format!("logs: {}", header.directory.display())));
    }
    lines.extend(how_to_go_on(state).map(plain));
    lines
}

/// What to do about a run that was cut short. One that began no site is simply started again.
fn how_to_go_on(state: &RunState) -> Option<String> {
    let header = state.header.as_ref().filter(|header| header.command == Command::Run)?;
    if let Some(Outcome::Succeeded | Outcome::SitesFailed) | None = state.outcome {
        return None;
    }
    let has_begun = header.resumes.is_some() || state.sites.iter().any(|site| site.attempt > 0);
    let is_complete = |site: &&SiteView| matches!(site.phase, SitePhase::Complete | SitePhase::Degraded);
    let (complete, sites) = (state.sites.iter().filter(is_complete).count(), state.sites.len());
    (has_begun && complete < sites)
        .then(|| format!("continue with `orch run --resume`: {complete} of {sites} sites are complete"))
}

/// The run that this one continues.
fn resumed_run(state: &RunState) -> Option<String> {
    let header = state.header.as_ref()?;
    header.resumes.as_ref().map(|run_id| one_line(run_id.as_str()))
}

fn table(sites: &[&SiteView], state: &RunState) -> Vec<Line> {
    let now = state.elapsed;
    let from = resumed_run(state).unwrap_or_default();
    let header = ["SITE", "STATUS", "CHUNKS", "RESULTS", "ERRORS", "TIME", "REASON"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    for site in sites {
        let chunks = match (site.counts.completed_chunks, site.counts.total_chunks) {
            (None, None) => "-".to_owned(),
            (done, total) => format!("{}/{}", count(done), count(total)),
        };
        // As the line of its end has it.
        let time = site
            .lasted
            .or(site.started.map(|started| site.finished.unwrap_or(now) - started));
        let time = time.map_or_else(|| "-".to_owned(), span);
        let reason = match (&site.reason, site.resumed) {
            (None, None) if site.worst > SiteHealth::Healthy => format!("was {}", site.worst.word()),
            (Some(reason), _) => reason.lines().next().unwrap_or_default().to_owned(),
            (None, Some(Resumed::Kept)) => format!("kept from run {from}"),
            (None, Some(Resumed::PickedUp)) => format!("picked up from run {from}"),
            (None, Some(Resumed::Dispatched) | None) => String::new(),
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
    let tones = std::iter::once(Tone::Plain).chain(sites.iter().map(|site| tone(site.phase)));
    rows.iter()
        .zip(tones)
        .map(|(row, tone)| {
            let mut line = Line::default();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                line.push(Tone::Plain, gap);
                match column {
                    1 => line
                        .push(tone, cell)
                        .push(Tone::Plain, padded("", width.saturating_sub(columns(cell)))),
                    2..=5 => line.push(Tone::Plain, format!("{cell:>width$}")),
                    _ => line.push(Tone::Plain, padded(cell, *width)),
                };
            }
            line
        })
        .collect()
}

/// Whether it is known that a site has no results, which it should have.
fn yielded_nothing(site: &SiteView) -> bool {
    site.phase == SitePhase::Degraded && site.counts.has_no_results()
}

/// How a site's state looks.
pub fn tone(phase: SitePhase) -> Tone {
    match phase {
        SitePhase::Waiting | SitePhase::Queued => Tone::Dim,
        SitePhase::Dispatching | SitePhase::Running => Tone::Busy,
        SitePhase::Retrying | SitePhase::Degraded | SitePhase::Cancelled | SitePhase::Skipped => Tone::Warning,
        SitePhase::Complete => Tone::Good,
        SitePhase::Failed | SitePhase::Unknown => Tone::Bad,
    }
}

/// A site's state in one word.
pub fn status(phase: SitePhase) -> &'static str {
    match phase {
        SitePhase::Waiting => "WAITING",
        SitePhase::Queued => "QUEUED",
        SitePhase::Dispatching => "DISPATCHING",
        SitePhase::Running => "RUNNING",
        SitePhase::Retrying => "RETRYING",
        SitePhase::Complete => "COMPLETE",
        SitePhase::Degraded => "DEGRADED",
        SitePhase::Failed => "FAILED",
        SitePhase::Unknown => "UNKNOWN",
        SitePhase::Cancelled => "CANCELLED",
        SitePhase::Skipped => "SKIPPED",
    }
}

/// The same at the end of a run: nothing waits or runs any more.
fn final_status(phase: SitePhase, state: &RunState) -> &'static str {
    match phase {
        SitePhase::Waiting | SitePhase::Queued if state.outcome.is_some() => "NOT BEGUN",
        SitePhase::Dispatching | SitePhase::Running | SitePhase::Retrying if state.outcome.is_some() => "CUT SHORT",
        phase => status(phase),
    }
}

/// How often the pool was refreshed, and how often in vain.
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
    use crate::run::{Event, EventKind, SiteCounts, SiteName, SiteStatus};

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

    /// The summary of a run whose sites have come to this, `None` where they have not ended.
    fn ended(outcome: Outcome, ends: &[(&str, Option<SiteStatus>)]) -> Vec<String> {
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
    fn who_was_cancelled_has_not_failed_and_nobody_waits_at_the_end() {
        use SiteStatus::{Cancelled, Complete, Failed};
        let sites = [("a", Some(Complete)), ("b", Some(Failed)), ("c", Some(Cancelled))];
        let shown = ended(Outcome::SitesFailed, &sites);
        assert_eq!(
            shown.last().unwrap(),
            "1 of 3 sites failed, 1 cancelled after 0s (exit code 1)"
        );
        assert!(shown[1].contains(" 7s"), "as the line of its end has it: {shown:?}");
        let shown = ended(Outcome::SitesFailed, &[("a", Some(Complete)), ("b", Some(Cancelled))]);
        assert_eq!(shown.last().unwrap(), "1 of 2 sites cancelled after 0s (exit code 1)");
        let shown = ended(Outcome::InfrastructureFailed, &[("queued", None), ("runs", None)]).join("\n");
        assert!(
            shown.contains("queued  NOT BEGUN") && shown.contains("runs    CUT SHORT"),
            "{shown}"
        );
    }
}
