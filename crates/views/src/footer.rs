//! Lines at the bottom of the live view: the awaited events, the upper bound of the wait, and the effect of Ctrl+C. Pure.

use crate::overall;
use crate::paint::{StyledLine, TextTone, columns};
use crate::text::coarse_span;
use orch_base::text::counted::plural;
use orch_journal::{RunCommand, RunState, ServicePhase, ServiceView, SiteAdmission, StopReason, StopView};

/// Decides whether the frame changes without a further event, because something is in progress.
pub fn is_busy(state: &RunState) -> bool {
    let stopping = state.stop.is_some_and(|stop| stop.elapsed_ms.is_none());
    stopping
        || state.proxies.refreshing
        || state.services.iter().any(|service| service.phase.is_in_progress())
        || state.totals.running_sites() > 0
}

/// Makes the lines at the bottom: the awaited events, the upper bound of the wait, and the effect of the next Ctrl+C.
pub fn footer(state: &RunState, now: f64, width: usize) -> Vec<StyledLine> {
    let parts = match &state.stop {
        Some(stop) => stop_parts(stop, state, now),
        None => wait_parts(state, now),
    };
    // Parts that do not fit next to each other are placed below each other.
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
    texts
        .into_iter()
        .map(|text| StyledLine::of(TextTone::Plain, text))
        .collect()
}

fn stop_parts(stop: &StopView, state: &RunState, now: f64) -> Vec<String> {
    if stop.elapsed_ms.is_some() {
        return vec!["stopped, nothing left".to_owned()];
    }
    let since = coarse_span(now - stop.since);
    let mut parts = vec![if stop.hurried {
        format!("stopping without grace periods, {since}")
    } else {
        let bound = std::time::Duration::from_millis(stop.bound_ms).as_secs_f64();
        format!("stopping, {since} of {} at most", coarse_span(bound.ceil()))
    }];
    // Reused services and services that have ended have no process of this instance.
    let left = named(state, |service| service.pid.is_some());
    if !left.is_empty() {
        parts.push(format!("still running: {left}"));
    }
    let next = match (stop.hurried, stop.reason) {
        (true, _) => "Ctrl+C exits at once, the guard stops the rest",
        (false, StopReason::Interrupt | StopReason::Terminate | StopReason::Hangup) => {
            "Ctrl+C again: skip grace periods"
        }
        // The first signal requests the stop that is already in progress.
        (false, StopReason::Finished | StopReason::Failure | StopReason::Requested) => {
            "Ctrl+C twice: skip grace periods"
        }
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
        // The line of a single site shows its chunks already.
        parts.extend(overall::chunks(state, now).filter(|_| state.sites.len() > 1));
        parts.extend(overall::time_left(state, now));
    } else if state.proxies.refreshing {
        parts.push("waiting for the proxies".to_owned());
    }
    parts.extend(held_back(state.admission));
    if !starting.is_empty() {
        parts.push(format!("waiting for {starting}"));
    }
    let up = state
        .header
        .as_ref()
        .is_some_and(|header| header.command == RunCommand::Up);
    if up && !state.services.is_empty() && state.services.iter().all(|service| service.phase.is_up()) {
        parts.push(format!("all {} up", plural(state.services.len() as u64, "service")));
    }
    if is_busy(state) {
        parts.push(coarse_span(now));
    }
    parts.push("Ctrl+C stops".to_owned());
    parts
}

/// Describes a request that holds sites back.
fn held_back(admission: SiteAdmission) -> Option<String> {
    let text = match admission {
        SiteAdmission::Open => return None,
        SiteAdmission::Paused => "paused: `orch resume` lets sites begin",
        SiteAdmission::Draining => "draining: no further site begins",
    };
    Some(text.to_owned())
}

/// Lists names such as `redis, celery and 3 more`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_and_a_drain_are_named() {
        for (admission, expected) in [
            (SiteAdmission::Open, "Ctrl+C stops"),
            (
                SiteAdmission::Paused,
                "paused: `orch resume` lets sites begin; Ctrl+C stops",
            ),
            (
                SiteAdmission::Draining,
                "draining: no further site begins; Ctrl+C stops",
            ),
        ] {
            let mut state = RunState::default();
            state.admission = admission;
            let lines: Vec<String> = footer(&state, 0.0, 120)
                .iter()
                .map(|line| line.whole(false).as_str().to_owned())
                .collect();
            assert_eq!(lines, [expected], "{admission:?}");
        }
    }
}
