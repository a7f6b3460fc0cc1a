//! The live part of the terminal as lines: services, proxies, sites, and what is awaited. Pure; drawing is elsewhere.

use std::cmp::Reverse;

use super::overall;
use super::paint::{Line, Painted, Tone, columns, cut, padded};
use super::plain::stage_name;
use super::summary;
use super::text::{chunks_of, coarse_span, count, source_name};
use super::waiting::waited_for;
use crate::counted::plural;
use crate::run::{
    Command, RunState, ServiceName, ServicePhase, ServiceView, SiteHealth, SitePhase, SiteView, StopReason, StopView,
};

/// More services than this share one line once nothing happens to them.
const SERVICES_APART: usize = 4;
/// A name wider than this is cut.
const NAME_WIDTH: usize = 24;
/// Columns of the word for a state, `DISPATCHING` being the longest.
const WORD_WIDTH: usize = 11;
/// The name in front of the proxies' line.
const PROXIES: &str = "proxies";
/// Columns inside a progress bar at most, and the fewest that still say something.
const BAR_WIDTHS: (usize, usize) = (24, 6);

/// Whether something moves that the frame should follow without a further event.
pub fn is_busy(state: &RunState) -> bool {
    let stopping = state.stop.is_some_and(|stop| stop.elapsed_ms.is_none());
    stopping
        || state.proxies.refreshing
        || state.services.iter().any(|service| is_under_way(service.phase))
        || state.totals.running_sites() > 0
}

/// The frame `now` seconds into the run, at most so many columns and lines; empty before the run begins. `verbose`: also what
/// tells the progress.
pub fn render(state: &RunState, now: f64, (width, height): (usize, usize), verbose: bool, color: bool) -> Vec<Painted> {
    if state.header.is_none() {
        return Vec::new();
    }
    let mut footer = footer(state, now, width);
    footer.truncate(height);
    let mut room = height - footer.len();
    let has_proxies = room > 1 && shows_proxies(state);
    room -= usize::from(has_proxies);
    let mut services = services(state, SERVICES_APART);
    if services.len() + state.sites.len() > room {
        services = self::services(state, 0);
    }
    // Sites are what is waited for: beside them only services to which something happens have a claim.
    let claim = services.iter().filter(|(rank, _)| *rank == 0).count().min(room / 2);
    let for_services = room.saturating_sub(state.sites.len()).max(claim).min(services.len());
    let sites = state.sites.iter().map(|site| (badness(site), site)).collect();
    let (services, more_services) = squeeze(services, for_services, false);
    // What is wrong should not have to be looked for among what is not.
    let (sites, more_sites) = squeeze(sites, room - for_services, true);
    let layout = Layout {
        now,
        width,
        verbose,
        names: name_width(&services, &sites),
    };
    let mut lines: Vec<Line> = services.iter().map(|service| service.line(&layout)).collect();
    lines.extend(more(more_services, "service"));
    let rows = lines.len() + sites.len() + usize::from(more_sites > 0);
    // A service may have the name of a site.
    let has_headings = !sites.is_empty() && !lines.is_empty() && rows + 2 <= room;
    if has_headings {
        lines.insert(0, Line::of(Tone::Dim, "SERVICES"));
    }
    if has_proxies {
        lines.push(proxies(state, &layout));
    }
    if has_headings {
        lines.push(Line::of(Tone::Dim, "SITES"));
    }
    lines.extend(site_lines(&sites, state, &layout));
    lines.extend(more(more_sites, "site"));
    lines.extend(footer);
    lines.iter().map(|line| line.paint(width, color)).collect()
}

/// What all lines of a frame share.
struct Layout {
    now: f64,
    width: usize,
    verbose: bool,
    /// Columns of the names, so that what follows them stands in one column.
    names: usize,
}

impl Layout {
    /// A line that begins with a name and a word.
    fn line(&self, name: &str, tone: Tone, word: &str) -> Line {
        let mut line = Line::default();
        line.push(Tone::Plain, padded(&cut(name, self.names), self.names))
            .push(Tone::Plain, "  ")
            .push(tone, padded(word, WORD_WIDTH))
            .push(Tone::Plain, "  ");
        line
    }

    /// Columns that are left beside name and word.
    fn rest(&self) -> usize {
        self.width.saturating_sub(self.names + 2 + WORD_WIDTH + 2)
    }
}

fn name_width(services: &[ServiceRow], sites: &[&SiteView]) -> usize {
    // Services that share a line need no column.
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

/// As many as there is room for, a line being kept for how many more there are: of the others the number. Those of the least
/// rank stay, in their own order, or, where that is asked for, in that of their ranks.
fn squeeze<R: Ord, T>(rows: Vec<(R, T)>, room: usize, by_rank: bool) -> (Vec<T>, usize) {
    if rows.len() <= room {
        return (rows.into_iter().map(|(_, row)| row).collect(), 0);
    }
    let kept = room.saturating_sub(1);
    // What there is no line for is not told either.
    let hidden = if room == 0 { 0 } else { rows.len() - kept };
    let mut rows: Vec<(usize, (R, T))> = rows.into_iter().enumerate().collect();
    rows.sort_by(|(_, (one, _)), (_, (other, _))| one.cmp(other));
    rows.truncate(kept);
    if !by_rank {
        rows.sort_by_key(|(place, _)| *place);
    }
    (rows.into_iter().map(|(_, (_, row))| row).collect(), hidden)
}

/// `+3 more sites`
fn more(hidden: usize, noun: &str) -> Option<Line> {
    let ending = if hidden == 1 { "" } else { "s" };
    (hidden > 0).then(|| Line::of(Tone::Dim, format!("+{hidden} more {noun}{ending}")))
}

fn is_under_way(phase: ServicePhase) -> bool {
    match phase {
        ServicePhase::Starting | ServicePhase::Unhealthy | ServicePhase::Restarting | ServicePhase::Stopping => true,
        ServicePhase::Pending
        | ServicePhase::Ready
        | ServicePhase::Reused
        | ServicePhase::Completed
        | ServicePhase::Stopped
        | ServicePhase::Failed => false,
    }
}

fn service_word(phase: ServicePhase) -> (Tone, &'static str) {
    match phase {
        ServicePhase::Pending => (Tone::Dim, "waiting"),
        ServicePhase::Starting => (Tone::Busy, "starting"),
        ServicePhase::Ready => (Tone::Good, "ready"),
        ServicePhase::Reused => (Tone::Good, "reused"),
        ServicePhase::Unhealthy => (Tone::Warning, "unhealthy"),
        ServicePhase::Restarting => (Tone::Warning, "restarting"),
        ServicePhase::Completed => (Tone::Good, "completed"),
        ServicePhase::Stopping => (Tone::Busy, "stopping"),
        ServicePhase::Stopped => (Tone::Dim, "stopped"),
        ServicePhase::Failed => (Tone::Bad, "failed"),
    }
}

fn stands_apart(service: &ServiceView, state: &RunState, apart: usize) -> bool {
    state.services.len() <= apart || is_under_way(service.phase) || service.phase == ServicePhase::Failed
}

/// What a line tells of services.
enum ServiceRow<'s> {
    /// Those to which nothing happens, on one line.
    Settled(Vec<&'s ServiceView>),
    One(&'s ServiceView),
}

impl ServiceRow<'_> {
    fn line(&self, layout: &Layout) -> Line {
        match self {
            ServiceRow::Settled(services) => settled_services(services),
            ServiceRow::One(service) => service_line(service, layout),
        }
    }
}

/// A row each, or, where there are more than `apart` of them, one for all to which nothing happens. The row of the greatest
/// rank is given up first for want of room.
fn services(state: &RunState, apart: usize) -> Vec<(u8, ServiceRow<'_>)> {
    let (shown, settled): (Vec<&ServiceView>, Vec<&ServiceView>) = state
        .services
        .iter()
        .partition(|service| stands_apart(service, state, apart));
    let mut rows: Vec<(u8, ServiceRow<'_>)> = Vec::new();
    if !settled.is_empty() {
        rows.push((1, ServiceRow::Settled(settled)));
    }
    rows.extend(shown.into_iter().map(|service| {
        let rank = if is_under_way(service.phase) { 0 } else { 2 };
        (rank, ServiceRow::One(service))
    }));
    rows
}

/// `services: redis ready, celery ready, 8 more ready, 2 completed`.
fn settled_services(settled: &[&ServiceView]) -> Line {
    let mut line = Line::default();
    line.push(Tone::Plain, "services: ");
    let mut groups: Vec<(ServicePhase, Vec<&ServiceName>)> = Vec::new();
    for service in settled {
        match groups.iter_mut().find(|(phase, _)| *phase == service.phase) {
            Some((_, names)) => names.push(&service.name),
            None => groups.push((service.phase, vec![&service.name])),
        }
    }
    // The two that every run has are called by name; the others are many.
    let is_known = |name: &ServiceName| matches!(name.as_str(), "redis" | "celery");
    let mut first = true;
    let mut separate = |line: &mut Line| {
        if !std::mem::take(&mut first) {
            line.push(Tone::Plain, ", ");
        }
    };
    for (phase, names) in groups {
        let (tone, word) = service_word(phase);
        let (known, others): (Vec<&ServiceName>, Vec<&ServiceName>) =
            names.into_iter().partition(|name| is_known(name));
        for name in &known {
            separate(&mut line);
            line.push(Tone::Plain, format!("{name} ")).push(tone, word);
        }
        if !others.is_empty() {
            separate(&mut line);
            let more = if known.is_empty() { "" } else { "more " };
            line.push(Tone::Plain, format!("{} {more}", others.len()))
                .push(tone, word);
        }
    }
    line
}

fn service_line(service: &ServiceView, layout: &Layout) -> Line {
    let (tone, word) = service_word(service.phase);
    let mut line = layout.line(service.name.as_str(), tone, word);
    if is_under_way(service.phase) {
        line.push(Tone::Plain, format!("{}  ", coarse_span(layout.now - service.since)));
    }
    if service.phase == ServicePhase::Stopping
        && let Some(pid) = service.pid
    {
        line.push(Tone::Dim, format!("pid {pid}"));
        return line;
    }
    let tone = if service.phase == ServicePhase::Failed {
        Tone::Plain
    } else {
        Tone::Dim
    };
    if service.phase != ServicePhase::Stopped {
        line.push(tone, &service.detail);
    }
    if service.restarts > 0 {
        let gap = if service.detail.is_empty() { "" } else { "; " };
        line.push(
            Tone::Plain,
            format!("{gap}{}", plural(u64::from(service.restarts), "restart")),
        );
    }
    line
}

/// Whether the pool is what the sites wait for.
fn shows_proxies(state: &RunState) -> bool {
    let proxies = &state.proxies;
    let is_known = proxies.count.is_some() || proxies.refreshes > 0;
    let is_over = state.sites.iter().any(|site| site.started.is_some()) && !proxies.refreshing;
    is_known && !is_over
}

fn proxies(state: &RunState, layout: &Layout) -> Line {
    let proxies = &state.proxies;
    if proxies.refreshing {
        let mut line = layout.line(PROXIES, Tone::Busy, "refreshing");
        let mut figures = Line::default();
        if proxies.total.is_some() {
            figures.push(Tone::Plain, format!("{}/{}, ", proxies.done, chunks_of(proxies.total)));
        }
        if let Some(since) = proxies.since {
            figures.push(Tone::Plain, coarse_span(layout.now - since));
        }
        if let Some(stage) = proxies.stage.filter(|_| layout.verbose) {
            figures.push(Tone::Dim, format!(", following {}", stage_name(stage)));
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
        (Tone::Good, "enough")
    } else {
        (Tone::Bad, "too few")
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
        line.push(Tone::Plain, text);
    }
    if let Some(failure) = &proxies.failure {
        line.push(Tone::Plain, format!("; refresh failed: {failure}"));
    }
    line
}

fn site_lines(sites: &[&SiteView], state: &RunState, layout: &Layout) -> Vec<Line> {
    let figures: Vec<Line> = sites.iter().map(|site| figures(site, layout)).collect();
    // One length for all, so that the figures stand in one column.
    let widest = figures.iter().map(Line::width).max().unwrap_or(0);
    let bar = layout.rest().saturating_sub(widest);
    let line = |(site, figures): (&&SiteView, Line)| site_line(site, state, figures, bar, layout);
    sites.iter().zip(figures).map(line).collect()
}

/// Where there is no room for all, the least of these are shown: what runs, the least healthy first, then that with the most
/// errors; then what has not gone well.
fn badness(site: &SiteView) -> (u8, Reverse<SiteHealth>, Reverse<u64>) {
    let rank = match site.phase {
        SitePhase::Running | SitePhase::Dispatching | SitePhase::Retrying => 0,
        SitePhase::Failed | SitePhase::Unknown | SitePhase::Degraded | SitePhase::Cancelled | SitePhase::Skipped => 1,
        SitePhase::Queued | SitePhase::Waiting => 2,
        SitePhase::Complete => 3,
    };
    (rank, Reverse(site.health), Reverse(site.counts.errors.unwrap_or(0)))
}

fn site_line(site: &SiteView, state: &RunState, figures: Line, bar: usize, layout: &Layout) -> Line {
    let mut line = layout.line(
        site.name.as_str(),
        summary::tone(site.phase),
        summary::status(site.phase),
    );
    // A reason needs the room more than a bar that will not grow.
    if site.started.is_some() && site.reason.is_none() {
        progress(&mut line, site.counts.completed_chunks, site.counts.total_chunks, bar);
    }
    line.append(figures);
    if let Some(waited_for) = waited_for(site, state) {
        line.push(Tone::Dim, waited_for);
    }
    if let (Some(ailment), None) = (&site.ailment, &site.reason) {
        line.push(Tone::Warning, format!(", {}: ", site.health.word()))
            .push(Tone::Plain, ailment);
    }
    if let Some(reason) = &site.reason {
        let gap = if site.started.is_some() { ": " } else { "" };
        line.push(Tone::Plain, format!("{gap}{reason}"));
    }
    line
}

/// `12/30 chunks, 1 error, 38s, attempt 2`; nothing before the first dispatch.
fn figures(site: &SiteView, layout: &Layout) -> Line {
    let mut line = Line::default();
    let Some(started) = site.started else {
        return line;
    };
    let counts = &site.counts;
    if counts.total_chunks.is_some() || counts.completed_chunks.is_some() {
        // While it runs none has ended as far as is known; at its end what is not known is no zero.
        let done = counts.completed_chunks.or((!site.phase.is_final()).then_some(0));
        let by = match (site.phase, site.source) {
            (SitePhase::Running, Some(source)) if layout.verbose => format!(" ({})", source_name(source)),
            _ => String::new(),
        };
        line.push(
            Tone::Plain,
            format!("{}/{}{by}, ", count(done), chunks_of(counts.total_chunks)),
        );
    }
    if let (SitePhase::Complete | SitePhase::Degraded, Some(results)) = (site.phase, counts.known_results()) {
        line.push(Tone::Plain, format!("{}, ", plural(results, "result")));
    }
    if let Some(errors) = counts.errors {
        line.push(Tone::Plain, format!("{}, ", plural(errors, "error")));
    }
    line.push(Tone::Plain, coarse_span(site.finished.unwrap_or(layout.now) - started));
    if site.attempt > 1 {
        line.push(Tone::Plain, format!(", attempt {}", site.attempt));
    }
    line
}

/// `[######......]  `, where these columns have room for it.
fn progress(line: &mut Line, done: Option<u64>, total: Option<u64>, room: usize) {
    let (most, least) = BAR_WIDTHS;
    let width = room.saturating_sub("[]  ".len()).min(most);
    if width < least {
        return;
    }
    let inside = width as u64;
    let filled = match total {
        Some(0) => inside,
        // 128 bits: counts come from outside and may be anything.
        Some(total) => {
            let part = u128::from(done.unwrap_or(0).min(total)) * u128::from(inside) / u128::from(total);
            u64::try_from(part).unwrap_or(inside)
        }
        None => 0,
    };
    let filled = usize::try_from(filled).unwrap_or(width).min(width);
    line.push(Tone::Plain, "[")
        .push(Tone::Plain, "#".repeat(filled))
        .push(Tone::Dim, ".".repeat(width - filled))
        .push(Tone::Plain, "]  ");
}

/// What is awaited, for how long at most, and what the next Ctrl+C does.
fn footer(state: &RunState, now: f64, width: usize) -> Vec<Line> {
    let parts = match &state.stop {
        Some(stop) => stop_parts(stop, state, now),
        None => wait_parts(state, now),
    };
    // Parts that do not fit beside each other stand below each other.
    let mut texts: Vec<String> = Vec::new();
    for part in parts {
        match texts.last_mut() {
            Some(last) if columns(last) + 2 + columns(&part) <= width => {
                last.push_str("; ");
                last.push_str(&part);
            }
            _ => texts.push(part),
        }
    }
    texts.into_iter().map(|text| Line::of(Tone::Plain, text)).collect()
}

fn stop_parts(stop: &StopView, state: &RunState, now: f64) -> Vec<String> {
    if stop.elapsed_ms.is_some() {
        return vec!["stopped, nothing left".to_owned()];
    }
    let since = coarse_span(now - stop.since);
    let mut parts = vec![if stop.hurried {
        format!("stopping without grace, {since}")
    } else {
        let bound = std::time::Duration::from_millis(stop.bound_ms).as_secs_f64();
        format!("stopping, {since} of {} at most", coarse_span(bound.ceil()))
    }];
    // What was reused or has ended has no process of ours.
    let left = named(state, |service| service.pid.is_some());
    if !left.is_empty() {
        parts.push(format!("still there: {left}"));
    }
    let next = match (stop.hurried, stop.reason) {
        (true, _) => "Ctrl+C leaves at once, the guard ends the rest",
        (false, StopReason::Interrupt | StopReason::Terminate | StopReason::Hangup) => "Ctrl+C again: without grace",
        // The first signal asks for the stop that is already under way.
        (false, StopReason::Finished | StopReason::Failure) => "Ctrl+C twice: without grace",
    };
    parts.push(next.to_owned());
    parts
}

fn wait_parts(state: &RunState, now: f64) -> Vec<String> {
    let starting = named(state, |service| {
        matches!(
            service.phase,
            ServicePhase::Starting | ServicePhase::Restarting | ServicePhase::Unhealthy
        )
    });
    let mut parts = Vec::new();
    if let Some(sites) = overall::sites(state) {
        parts.push(sites);
        // A single site's line says it.
        parts.extend(overall::chunks(state, now).filter(|_| state.sites.len() > 1));
        parts.extend(overall::left(state, now));
    } else if state.proxies.refreshing {
        parts.push("waiting for the proxies".to_owned());
    }
    if !starting.is_empty() {
        parts.push(format!("waiting for {starting}"));
    }
    let up = state
        .header
        .as_ref()
        .is_some_and(|header| header.command == Command::Up);
    let settled = |service: &ServiceView| {
        matches!(
            service.phase,
            ServicePhase::Ready | ServicePhase::Reused | ServicePhase::Completed
        )
    };
    if up && !state.services.is_empty() && state.services.iter().all(settled) {
        parts.push(format!("all {} up", plural(state.services.len() as u64, "service")));
    }
    if is_busy(state) {
        parts.push(coarse_span(now));
    }
    parts.push("Ctrl+C stops".to_owned());
    parts
}

/// `redis, celery and 3 more`.
fn named(state: &RunState, which: impl Fn(&ServiceView) -> bool) -> String {
    let names: Vec<&str> = state
        .services
        .iter()
        .filter(|service| which(service))
        .map(|service| service.name.as_str())
        .collect();
    match names.as_slice() {
        [first, second, _, rest @ ..] => format!("{first}, {second} and {} more", rest.len() + 1),
        few => few.join(", "),
    }
}
