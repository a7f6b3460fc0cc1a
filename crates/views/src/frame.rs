//! Content of the live terminal view as lines: services, proxies, sites, and the awaited events. Pure;
//! [`crate::screen`] draws the lines.

use std::cmp::Reverse;

use crate::footer::footer;
use crate::paint::{PaintedLine, StyledLine, TextTone, columns, cut, padded};
use crate::summary;
use crate::text::{chunks_of, coarse_span, count, source_name, stage_name};
use crate::waiting::pending_dependencies;
use orch_base::text::counted::plural;
use orch_journal::{RunState, ServiceName, ServicePhase, ServiceView, SiteHealth, SitePhase, SiteStatus, SiteView};

/// Number of services up to which each has its own line even if settled.
const MAX_SERVICE_LINES: usize = 4;
/// Width of a name at most; a longer one is cut.
const NAME_WIDTH: usize = 24;
/// Width of the word for a state; `DISPATCHING` is the longest.
const WORD_WIDTH: usize = 11;
/// Name at the start of the proxies' line.
const PROXIES: &str = "proxies";
/// Largest and smallest useful width inside a progress bar.
const BAR_WIDTHS: (usize, usize) = (24, 6);

/// Renders the frame `now` seconds into the run, with at most this many columns and lines; empty before the run begins.
/// With `verbose` the frame shows the source of the progress.
pub fn render(
    state: &RunState,
    now: f64,
    (width, height): (usize, usize),
    verbose: bool,
    color: bool,
) -> Vec<PaintedLine> {
    if state.header.is_none() {
        return Vec::new();
    }
    let mut footer = footer(state, now, width);
    footer.truncate(height);
    let mut room = height - footer.len();
    let has_proxies = room > 1 && shows_proxies(state);
    room -= usize::from(has_proxies);
    let mut services = services(state, MAX_SERVICE_LINES);
    if services.len() + state.sites.len() > room {
        services = self::services(state, 0);
    }
    // Sites have priority; only services in progress keep their lines next to them.
    let claim = services.iter().filter(|(rank, _)| *rank == 0).count().min(room / 2);
    let for_services = room.saturating_sub(state.sites.len()).max(claim).min(services.len());
    let sites = state.sites.iter().map(|site| (display_rank(site), site)).collect();
    let (services, more_services) = fit_rows(services, for_services, false);
    // Problems come first, so that a person does not have to search for them.
    let (sites, more_sites) = fit_rows(sites, room - for_services, true);
    let layout = FrameLayout {
        now,
        width,
        verbose,
        names: name_width(&services, &sites),
    };
    let mut lines: Vec<StyledLine> = services.iter().map(|service| service.line(&layout)).collect();
    lines.extend(more(more_services, "service"));
    let rows = lines.len() + sites.len() + usize::from(more_sites > 0);
    // Headings are needed because a service may have the name of a site.
    let has_headings = !sites.is_empty() && !lines.is_empty() && rows + 2 <= room;
    if has_headings {
        lines.insert(0, StyledLine::of(TextTone::Dim, "SERVICES"));
    }
    if has_proxies {
        lines.push(proxies(state, &layout));
    }
    if has_headings {
        lines.push(StyledLine::of(TextTone::Dim, "SITES"));
    }
    lines.extend(site_lines(&sites, state, &layout));
    lines.extend(more(more_sites, "site"));
    lines.extend(footer);
    lines.iter().map(|line| line.paint(width, color)).collect()
}

/// Settings that all lines of a frame share.
struct FrameLayout {
    now: f64,
    width: usize,
    verbose: bool,
    /// Width of the names, so that the text after them starts in one column.
    names: usize,
}

impl FrameLayout {
    /// Starts a line with a name and a word.
    fn line(&self, name: &str, tone: TextTone, word: &str) -> StyledLine {
        let mut line = StyledLine::default();
        line.plain(padded(&cut(name, self.names), self.names))
            .plain("  ")
            .push(tone, padded(word, WORD_WIDTH))
            .plain("  ");
        line
    }

    /// Returns the number of columns that remain after name and word.
    fn rest(&self) -> usize {
        self.width.saturating_sub(self.names + 2 + WORD_WIDTH + 2)
    }
}

fn name_width(services: &[ServiceRow], sites: &[&SiteView]) -> usize {
    // Services that share a line need no column for names.
    let services = services.iter().filter_map(|row| match row {
        ServiceRow::Settled(_) => None,
        ServiceRow::One(service) => Some(service.name.as_str()),
    });
    let sites = sites.iter().map(|site| site.name.as_str());
    services
        .chain(sites)
        .chain([PROXIES])
        .map(columns)
        .max()
        .unwrap_or(0)
        .min(NAME_WIDTH)
}

/// Keeps as many rows as there is room for and counts the others; one line is reserved for that count. Rows of the
/// smallest rank are kept, in their original order or, with `by_rank`, in the order of their ranks.
pub fn fit_rows<R: Ord, T>(rows: Vec<(R, T)>, room: usize, by_rank: bool) -> (Vec<T>, usize) {
    if rows.len() <= room {
        return (rows.into_iter().map(|(_, row)| row).collect(), 0);
    }
    let kept = room.saturating_sub(1);
    // Without room for a line the count is not shown either.
    let hidden = if room == 0 { 0 } else { rows.len() - kept };
    let mut rows: Vec<(usize, (R, T))> = rows.into_iter().enumerate().collect();
    rows.sort_by(|(_, (one, _)), (_, (other, _))| one.cmp(other));
    rows.truncate(kept);
    if !by_rank {
        rows.sort_by_key(|(place, _)| *place);
    }
    (rows.into_iter().map(|(_, (_, row))| row).collect(), hidden)
}

/// Makes the line `+3 more sites`.
pub fn more(hidden: usize, noun: &str) -> Option<StyledLine> {
    let ending = if hidden == 1 { "" } else { "s" };
    (hidden > 0).then(|| StyledLine::of(TextTone::Dim, format!("+{hidden} more {noun}{ending}")))
}

pub fn service_word(phase: ServicePhase) -> (TextTone, &'static str) {
    match phase {
        ServicePhase::Pending => (TextTone::Dim, "waiting"),
        ServicePhase::Starting => (TextTone::Busy, "starting"),
        ServicePhase::Ready => (TextTone::Good, "ready"),
        ServicePhase::Reused => (TextTone::Good, "reused"),
        ServicePhase::Unhealthy => (TextTone::Warning, "unhealthy"),
        ServicePhase::Restarting => (TextTone::Warning, "restarting"),
        ServicePhase::Completed => (TextTone::Good, "completed"),
        ServicePhase::Stopping => (TextTone::Busy, "stopping"),
        ServicePhase::Stopped => (TextTone::Dim, "stopped"),
        ServicePhase::Failed => (TextTone::Bad, "failed"),
    }
}

fn has_own_row(service: &ServiceView, state: &RunState, max_lines: usize) -> bool {
    state.services.len() <= max_lines || service.phase.is_in_progress() || service.phase == ServicePhase::Failed
}

/// Services of one row.
enum ServiceRow<'s> {
    /// Settled services, together on one row.
    Settled(Vec<&'s ServiceView>),
    One(&'s ServiceView),
}

impl ServiceRow<'_> {
    fn line(&self, layout: &FrameLayout) -> StyledLine {
        match self {
            ServiceRow::Settled(services) => settled_services(services),
            ServiceRow::One(service) => service_line(service, layout),
        }
    }
}

/// Makes one row for each service or, if there are more than `max_lines`, one row for all settled services. The rows
/// with the greatest rank are dropped first when there is no room.
fn services(state: &RunState, max_lines: usize) -> Vec<(u8, ServiceRow<'_>)> {
    let (shown, settled): (Vec<&ServiceView>, Vec<&ServiceView>) = state
        .services
        .iter()
        .partition(|service| has_own_row(service, state, max_lines));
    let mut rows: Vec<(u8, ServiceRow<'_>)> = Vec::new();
    if !settled.is_empty() {
        rows.push((1, ServiceRow::Settled(settled)));
    }
    rows.extend(shown.into_iter().map(|service| {
        let rank = if service.phase.is_in_progress() { 0 } else { 2 };
        (rank, ServiceRow::One(service))
    }));
    rows
}

/// Makes the line `services: redis ready, celery ready, 8 more ready, 2 completed`.
fn settled_services(settled: &[&ServiceView]) -> StyledLine {
    let mut line = StyledLine::default();
    line.plain("services: ");
    let mut groups: Vec<(ServicePhase, Vec<&ServiceName>)> = Vec::new();
    for service in settled {
        match groups.iter_mut().find(|(phase, _)| *phase == service.phase) {
            Some((_, names)) => names.push(&service.name),
            None => groups.push((service.phase, vec![&service.name])),
        }
    }
    // The two standard services are named; the others may be many.
    let is_known = |name: &ServiceName| matches!(name.as_str(), "redis" | "celery");
    let mut first = true;
    let mut separate = |line: &mut StyledLine| {
        if !std::mem::take(&mut first) {
            line.plain(", ");
        }
    };
    for (phase, names) in groups {
        let (tone, word) = service_word(phase);
        let (known, others): (Vec<&ServiceName>, Vec<&ServiceName>) =
            names.into_iter().partition(|name| is_known(name));
        for name in &known {
            separate(&mut line);
            line.plain(format!("{name} ")).push(tone, word);
        }
        if !others.is_empty() {
            separate(&mut line);
            let more = if known.is_empty() { "" } else { "more " };
            line.plain(format!("{} {more}", others.len())).push(tone, word);
        }
    }
    line
}

fn service_line(service: &ServiceView, layout: &FrameLayout) -> StyledLine {
    let (tone, word) = service_word(service.phase);
    let mut line = layout.line(service.name.as_str(), tone, word);
    if service.phase.is_in_progress() {
        line.plain(format!("{}  ", coarse_span(layout.now - service.since)));
    }
    if service.phase == ServicePhase::Stopping
        && let Some(pid) = service.pid
    {
        line.push(TextTone::Dim, format!("pid {pid}"));
        return line;
    }
    let tone = if service.phase == ServicePhase::Failed {
        TextTone::Plain
    } else {
        TextTone::Dim
    };
    if service.phase != ServicePhase::Stopped {
        line.push(tone, &service.detail);
    }
    if service.restarts > 0 {
        let gap = if service.detail.is_empty() { "" } else { "; " };
        line.plain(format!("{gap}{}", plural(u64::from(service.restarts), "restart")));
    }
    line
}

/// Decides whether the proxies are shown: from their first count until the sites begin, and during a refresh.
fn shows_proxies(state: &RunState) -> bool {
    let proxies = &state.proxies;
    let is_known = proxies.count.is_some() || proxies.refreshes > 0;
    let is_over = state.sites.iter().any(|site| site.started.is_some()) && !proxies.refreshing;
    is_known && !is_over
}

/// Makes the line of the proxies without a bar.
pub fn proxies_line(state: &RunState, now: f64) -> StyledLine {
    let layout = FrameLayout {
        now,
        width: 0,
        verbose: true,
        names: columns(PROXIES),
    };
    proxies(state, &layout)
}

fn proxies(state: &RunState, layout: &FrameLayout) -> StyledLine {
    let proxies = &state.proxies;
    if proxies.refreshing {
        let mut line = layout.line(PROXIES, TextTone::Busy, "refreshing");
        let mut figures = StyledLine::default();
        if proxies.total.is_some() {
            figures.plain(format!("{}/{}, ", proxies.done, chunks_of(proxies.total)));
        }
        if let Some(since) = proxies.since {
            figures.plain(coarse_span(layout.now - since));
        }
        if let Some(stage) = proxies.stage.filter(|_| layout.verbose) {
            figures.push(TextTone::Dim, format!(", following {}", stage_name(stage)));
        }
        if proxies.total.is_some() {
            let room = layout.rest().saturating_sub(figures.width());
            progress(&mut line, Some(proxies.done), proxies.total, room);
        }
        line.append(figures);
        return line;
    }
    let enough = proxies
        .count
        .as_ref()
        .is_some_and(|count| count.usable >= count.min_usable);
    let (tone, word) = if enough {
        (TextTone::Good, "enough")
    } else {
        (TextTone::Bad, "too few")
    };
    let mut line = layout.line(PROXIES, tone, word);
    if let Some(count) = &proxies.count {
        let text = format!(
            "{} usable of {}{}, {} needed",
            count.usable,
            count.total,
            count.left_out.in_brackets(),
            count.min_usable
        );
        line.plain(text);
    }
    if let Some(failure) = &proxies.failure {
        line.plain(format!("; refresh failed: {failure}"));
    }
    line
}

fn site_lines(sites: &[&SiteView], state: &RunState, layout: &FrameLayout) -> Vec<StyledLine> {
    let figures: Vec<StyledLine> = sites.iter().map(|site| figures(site, layout)).collect();
    // All bars have the same length, so that the figures stand in one column.
    let widest = figures.iter().map(StyledLine::width).max().unwrap_or(0);
    let bar = layout.rest().saturating_sub(widest);
    let line = |(site, figures): (&&SiteView, StyledLine)| site_line(site, state, figures, bar, layout);
    sites.iter().zip(figures).map(line).collect()
}

/// Makes the lines of at most `room` sites, the worst first if not all have room, and the number of the others. Bars need
/// a `width`; without one there are none.
pub fn worst_sites(state: &RunState, now: f64, room: usize, width: Option<usize>) -> Vec<StyledLine> {
    let sites = state.sites.iter().map(|site| (display_rank(site), site)).collect();
    let (sites, hidden) = fit_rows(sites, room, true);
    let layout = FrameLayout {
        now,
        width: width.unwrap_or(0),
        verbose: true,
        names: name_width(&[], &sites),
    };
    let mut lines = site_lines(&sites, state, &layout);
    lines.extend(more(hidden, "site"));
    lines
}

/// Returns the rank of a site when not all fit; the smallest ranks are shown. Running sites come first, the least
/// healthy and those with the most errors at the front, then sites that did not succeed.
fn display_rank(site: &SiteView) -> (u8, Reverse<SiteHealth>, Reverse<u64>) {
    let rank = match site.phase {
        SitePhase::Running | SitePhase::Dispatching | SitePhase::Retrying => 0,
        SitePhase::Ended(SiteStatus::Failed)
        | SitePhase::Ended(SiteStatus::Unknown)
        | SitePhase::Ended(SiteStatus::Degraded)
        | SitePhase::Ended(SiteStatus::Cancelled)
        | SitePhase::Ended(SiteStatus::Skipped) => 1,
        SitePhase::Queued | SitePhase::Waiting => 2,
        SitePhase::Ended(SiteStatus::Complete) => 3,
    };
    (rank, Reverse(site.health), Reverse(site.counts.errors.unwrap_or(0)))
}

fn site_line(site: &SiteView, state: &RunState, figures: StyledLine, bar: usize, layout: &FrameLayout) -> StyledLine {
    let mut line = layout.line(
        site.name.as_str(),
        summary::tone(site.phase),
        summary::status(site.phase),
    );
    // A reason needs the room more than a bar that does not grow.
    if site.started.is_some() && site.reason.is_none() {
        progress(&mut line, site.counts.completed_chunks, site.counts.total_chunks, bar);
    }
    line.append(figures);
    if let Some(waited_for) = pending_dependencies(site, state) {
        line.push(TextTone::Dim, waited_for);
    }
    if let (Some(ailment), None) = (&site.ailment, &site.reason) {
        line.push(TextTone::Warning, format!(", {}: ", site.health.word()))
            .plain(ailment);
    }
    if let Some(reason) = &site.reason {
        let gap = if site.started.is_some() { ": " } else { "" };
        line.plain(format!("{gap}{reason}"));
    }
    line
}

/// Formats `12/30 chunks, 1 error, 38s, attempt 2`; empty before the first dispatch.
fn figures(site: &SiteView, layout: &FrameLayout) -> StyledLine {
    let mut line = StyledLine::default();
    let Some(started) = site.started else {
        return line;
    };
    let counts = &site.counts;
    if counts.total_chunks.is_some() || counts.completed_chunks.is_some() {
        // An unknown number is zero while the site runs, but not at its end.
        let done = counts.completed_chunks.or((!site.phase.is_final()).then_some(0));
        let by = match (site.phase, site.source) {
            (SitePhase::Running, Some(source)) if layout.verbose => format!(" ({})", source_name(source)),
            _ => String::new(),
        };
        line.plain(format!("{}/{}{by}, ", count(done), chunks_of(counts.total_chunks)));
    }
    if let (SitePhase::Ended(SiteStatus::Complete) | SitePhase::Ended(SiteStatus::Degraded), Some(results)) =
        (site.phase, counts.known_results())
    {
        line.plain(format!("{}, ", plural(results, "result")));
    }
    if let Some(errors) = counts.errors {
        line.plain(format!("{}, ", plural(errors, "error")));
    }
    line.plain(coarse_span(site.finished.unwrap_or(layout.now) - started));
    if site.attempt > 1 {
        line.plain(format!(", attempt {}", site.attempt));
    }
    line
}

/// Adds the bar `[######......]  ` if there is enough room.
fn progress(line: &mut StyledLine, done: Option<u64>, total: Option<u64>, room: usize) {
    let (most, least) = BAR_WIDTHS;
    let width = room.saturating_sub("[]  ".len()).min(most);
    if width < least {
        return;
    }
    let inside = width as u64;
    let filled = match total {
        Some(0) => inside,
        // 128 bits, because counts come from outside and may be of any size.
        Some(total) => {
            let part = u128::from(done.unwrap_or(0).min(total)) * u128::from(inside) / u128::from(total);
            u64::try_from(part).unwrap_or(inside)
        }
        None => 0,
    };
    let filled = usize::try_from(filled).unwrap_or(width).min(width);
    line.plain("[")
        .plain("#".repeat(filled))
        .push(TextTone::Dim, ".".repeat(width - filled))
        .plain("]  ");
}
