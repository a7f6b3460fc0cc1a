//! The live part of the terminal as lines: services, proxies, sites, and what is awaited. Pure; drawing is elsewhere.

use super::paint::{Line, Tone, columns, cut, padded};
use super::plain::stage_name;
use super::summary;
use super::text::{coarse_span, count, plural};
use crate::run::{
    Command, ProxiesView, RunState, ServiceName, ServicePhase, ServiceView, SitePhase, SiteView, StopReason, StopView,
};

/// More services than this share one line once nothing happens to them.
const SERVICES_APART: usize = 4;
/// A name wider than this is cut.
const NAME_WIDTH: usize = 24;
/// Columns of a progress bar at most, and the fewest that still say something.
const BAR_WIDTHS: (usize, usize) = (24, 6);

/// Whether something moves that the frame should follow without a further event.
pub fn is_busy(state: &RunState) -> bool {
    let stopping = state.stop.is_some_and(|stop| stop.elapsed_ms.is_none());
    stopping
        || state.proxies.refreshing
        || state.services.iter().any(|service| is_under_way(service.phase))
        || state
            .sites
            .iter()
            .any(|site| site.started.is_some() && !site.phase.is_final())
}

/// The frame `now` seconds into the run, at most `width` columns and `height` lines; empty before the run begins.
pub fn render(state: &RunState, now: f64, width: usize, height: usize, color: bool) -> Vec<String> {
    if state.header.is_none() {
        return Vec::new();
    }
    let mut footer = footer(state, now, width);
    footer.truncate(height);
    let mut room = height - footer.len();
    let proxies = if room > 1 {
        proxies(&state.proxies, &state.sites, now, width)
    } else {
        None
    };
    room -= usize::from(proxies.is_some());
    let services = services(state, now);
    let sites = sites(state, now, width);
    // Sites are what is waited for; services give way to half of them at most.
    let for_services = if services.len() + sites.len() <= room {
        services.len()
    } else {
        (room / 2).max(room.saturating_sub(sites.len())).min(services.len())
    };
    let for_sites = room - for_services;
    let mut lines = squeeze(services, for_services, "service");
    lines.extend(proxies);
    lines.extend(squeeze(sites, for_sites, "site"));
    lines.extend(footer);
    lines.iter().map(|line| line.paint(width, color)).collect()
}

/// A line and how soon it is given up for want of room: the greatest rank first.
struct Ranked {
    rank: u8,
    line: Line,
}

/// The lines that fit, in their order, the least interesting summed up as `+N more`.
fn squeeze(lines: Vec<Ranked>, room: usize, noun: &str) -> Vec<Line> {
    if lines.len() <= room {
        return lines.into_iter().map(|ranked| ranked.line).collect();
    }
    let Some(kept) = room.checked_sub(1) else {
        return Vec::new();
    };
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|index| lines[*index].rank);
    order.truncate(kept);
    let hidden = lines.len() - kept;
    let mut shown: Vec<Line> = lines
        .into_iter()
        .enumerate()
        .filter(|(index, _)| order.contains(index))
        .map(|(_, ranked)| ranked.line)
        .collect();
    let mut more = Line::default();
    more.push(
        Tone::Dim,
        format!("+{hidden} more {noun}{}", if hidden == 1 { "" } else { "s" }),
    );
    shown.push(more);
    shown
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

fn services(state: &RunState, now: f64) -> Vec<Ranked> {
    let many = state.services.len() > SERVICES_APART;
    let names = name_width(state.services.iter().map(|service| service.name.as_str()));
    let apart = |service: &&ServiceView| !many || is_under_way(service.phase) || service.phase == ServicePhase::Failed;
    let (shown, settled): (Vec<&ServiceView>, Vec<&ServiceView>) = state.services.iter().partition(apart);
    let mut lines: Vec<Ranked> = Vec::new();
    if !settled.is_empty() {
        lines.push(Ranked {
            rank: 1,
            line: settled_services(&settled),
        });
    }
    lines.extend(shown.into_iter().map(|service| Ranked {
        rank: if is_under_way(service.phase) { 0 } else { 2 },
        line: service_line(service, now, names),
    }));
    lines
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

fn service_line(service: &ServiceView, now: f64, names: usize) -> Line {
    let (tone, word) = service_word(service.phase);
    let mut line = Line::default();
    line.push(Tone::Plain, padded(&cut(service.name.as_str(), names), names))
        .push(Tone::Plain, "  ")
        .push(tone, padded(word, 10))
        .push(Tone::Plain, "  ");
    if is_under_way(service.phase) {
        line.push(Tone::Plain, format!("{}  ", coarse_span(now - service.since)));
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
            Tone::Warning,
            format!("{gap}{}", plural(u64::from(service.restarts), "restart")),
        );
    }
    line
}

/// The pool, while it is what the sites wait for.
fn proxies(proxies: &ProxiesView, sites: &[SiteView], now: f64, width: usize) -> Option<Line> {
    let wanted = proxies.count.is_some() || proxies.refreshes > 0;
    let over = sites.iter().any(|site| site.started.is_some()) && !proxies.refreshing;
    if !wanted || over {
        return None;
    }
    let mut line = Line::default();
    line.push(Tone::Plain, "proxies  ");
    if proxies.refreshing {
        line.push(Tone::Busy, "refreshing").push(Tone::Plain, "  ");
        if proxies.total.is_some() {
            let room = width.saturating_sub(70);
            progress(&mut line, Some(proxies.done), proxies.total, room);
            line.push(
                Tone::Plain,
                format!("{}/{} chunks  ", proxies.done, count(proxies.total)),
            );
        }
        if let Some(since) = proxies.since {
            line.push(Tone::Plain, format!("{}  ", coarse_span(now - since)));
        }
        if let Some(stage) = proxies.stage {
            line.push(Tone::Dim, format!("following {}", stage_name(stage)));
        }
        return Some(line);
    }
    if let Some(count) = &proxies.count {
        let enough = count.usable >= count.min_usable;
        let tone = if enough { Tone::Good } else { Tone::Bad };
        line.push(tone, format!("{} usable", count.usable))
            .push(Tone::Plain, format!(" of {}, {} wanted", count.total, count.min_usable));
    }
    if let Some(failure) = &proxies.failure {
        let gap = if proxies.count.is_some() { "; " } else { "" };
        line.push(Tone::Bad, format!("{gap}refresh failed"))
            .push(Tone::Plain, format!(": {failure}"));
    }
    Some(line)
}

fn sites(state: &RunState, now: f64, width: usize) -> Vec<Ranked> {
    let names = name_width(state.sites.iter().map(|site| site.name.as_str()));
    let line = |site: &SiteView| Ranked {
        rank: match site.phase {
            SitePhase::Running | SitePhase::Dispatching | SitePhase::Retrying => 0,
            SitePhase::Failed | SitePhase::Cancelled => 1,
            SitePhase::Queued | SitePhase::Waiting => 2,
            SitePhase::Complete => 3,
        },
        line: site_line(site, now, names, width),
    };
    state.sites.iter().map(line).collect()
}

fn site_line(site: &SiteView, now: f64, names: usize, width: usize) -> Line {
    let mut line = Line::default();
    line.push(Tone::Plain, padded(&cut(site.name.as_str(), names), names))
        .push(Tone::Plain, "  ")
        .push(summary::tone(site.phase), padded(summary::status(site.phase), 11))
        .push(Tone::Plain, "  ");
    let Some(started) = site.started else {
        if let Some(reason) = &site.reason {
            line.push(Tone::Plain, reason);
        }
        return line;
    };
    let counts = &site.counts;
    let elapsed = coarse_span(site.finished.unwrap_or(now) - started);
    let mut figures = Line::default();
    if counts.total_chunks.is_some() || counts.completed_chunks.is_some() {
        let done = count(counts.completed_chunks.or(Some(0)));
        figures.push(Tone::Plain, format!("{done}/{} chunks, ", count(counts.total_chunks)));
    }
    if let (SitePhase::Complete, Some(results)) = (site.phase, counts.results) {
        figures.push(Tone::Plain, format!("{}, ", plural(results, "result")));
    }
    if let Some(errors) = counts.errors {
        let tone = if errors > 0 { Tone::Bad } else { Tone::Plain };
        figures.push(tone, plural(errors, "error")).push(Tone::Plain, ", ");
    }
    figures.push(Tone::Plain, elapsed);
    // One length for all sites, so that the bars stand in one column.
    let room = width.saturating_sub(names + 2 + 11 + 2 + 45);
    progress(&mut line, counts.completed_chunks, counts.total_chunks, room);
    line.append(figures);
    if site.attempt > 1 {
        line.push(Tone::Warning, format!(", attempt {}", site.attempt));
    }
    if let Some(reason) = &site.reason {
        line.push(Tone::Plain, format!(": {reason}"));
    }
    line
}

/// `[######......] `, where there is room for it.
fn progress(line: &mut Line, done: Option<u64>, total: Option<u64>, room: usize) {
    let (most, least) = BAR_WIDTHS;
    let width = room.min(most);
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
        .push(Tone::Busy, "#".repeat(filled))
        .push(Tone::Dim, ".".repeat(width - filled))
        .push(Tone::Plain, "]  ");
}

fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(columns).max().unwrap_or(0).min(NAME_WIDTH)
}

/// What is awaited, for how long at most, and what the next Ctrl+C does.
fn footer(state: &RunState, now: f64, width: usize) -> Vec<Line> {
    let (tone, parts) = match &state.stop {
        Some(stop) => (Tone::Warning, stop_parts(stop, state, now)),
        None => (Tone::Plain, wait_parts(state, now)),
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
    let line = |text: String| {
        let mut line = Line::default();
        line.push(tone, text);
        line
    };
    texts.into_iter().map(line).collect()
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
    let stopping = named(state, |service| service.phase == ServicePhase::Stopping);
    if !stopping.is_empty() {
        parts.push(format!("waiting for {stopping}"));
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
    let running = state
        .sites
        .iter()
        .filter(|site| site.started.is_some() && !site.phase.is_final())
        .count();
    let ended = state.sites.iter().filter(|site| site.phase.is_final()).count();
    let starting = named(state, |service| {
        matches!(
            service.phase,
            ServicePhase::Starting | ServicePhase::Restarting | ServicePhase::Unhealthy
        )
    });
    let mut parts = Vec::new();
    if running + ended > 0 {
        let all = plural(state.sites.len() as u64, "site");
        parts.push(format!("{ended} of {all} ended, {running} running"));
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
