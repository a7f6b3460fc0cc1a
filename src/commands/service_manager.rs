//! Messages to systemd, or to another service manager with its protocol (`sd_notify(3)`): ready, status, stop, watchdog.

use std::time::Duration;

use sd_notify::NotifyState;

use orch_journal::{EventKind, Feed, FeedUpdate, Recorder, RunState, ServicePhase, SitePhase, SiteStatus};
use orch_views::service_word;

/// Variables of the protocol. Services must not inherit them: a Redis with `supervised auto` would report that orch is
/// ready.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Sends the state of a run to the service manager until the run ends, in a thread of its own. Without a service manager
/// the function does nothing.
pub fn follow(recorder: &Recorder) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let events = recorder.subscribe();
    let started = std::thread::Builder::new()
        .name("service manager".to_owned())
        .spawn(move || send_states(events));
    if let Err(error) = started {
        tracing::warn!(%error, "could not start the thread that reports to the service manager");
    }
}

fn send_states(events: Feed) {
    let mut state = RunState::default();
    let mut sent = SentState::default();
    for update in events {
        // After a gap the next event shows the state again.
        let FeedUpdate::Event(event) = update else { continue };
        state.apply(&event);
        sent.send_changes(&state, &event.kind);
    }
}

/// Messages that were sent so far.
#[derive(Default)]
struct SentState {
    is_ready: bool,
    status: String,
}

impl SentState {
    fn send_changes(&mut self, state: &RunState, kind: &EventKind) {
        let status = status(state);
        let is_ready = is_settled(state);
        let mut messages = Vec::new();
        if is_ready && !self.is_ready {
            self.is_ready = true;
            messages.push(NotifyState::Ready);
        }
        if let EventKind::StopStarted { bound_ms, .. } = kind {
            messages.push(NotifyState::Stopping);
            let bound = Duration::from_millis(*bound_ms).as_micros();
            messages.push(NotifyState::ExtendTimeoutUsec(u32::try_from(bound).unwrap_or(u32::MAX)));
        }
        if status != self.status {
            messages.push(NotifyState::Status(&status));
        }
        if messages.is_empty() {
            return;
        }
        if let Err(error) = sd_notify::notify(&messages) {
            tracing::warn!(%error, "could not report to the service manager");
        }
        self.status = status;
    }
}

/// Decides whether the start is over: each service is up, or orch has given it up and keeps the others running.
fn is_settled(state: &RunState) -> bool {
    let is_up = |phase| {
        !matches!(
            phase,
            ServicePhase::Pending | ServicePhase::Starting | ServicePhase::Restarting
        )
    };
    state.header.is_some() && state.services.iter().all(|service| is_up(service.phase))
}

/// Describes the run in one line.
fn status(state: &RunState) -> String {
    if let Some(outcome) = state.outcome {
        return format!("ended with exit code {}", outcome.exit_code());
    }
    if state.stop.is_some() {
        return "stopping".to_owned();
    }
    if !state.sites.is_empty() {
        let sites_in = |phase| state.totals.in_phase(phase);
        let ended = state.sites.iter().filter(|site| site.phase.is_final()).count();
        let failed = sites_in(SitePhase::Ended(SiteStatus::Failed)) + sites_in(SitePhase::Ended(SiteStatus::Unknown));
        return format!("{ended} of {} sites ended, {failed} failed", state.sites.len());
    }
    let ready = state.services.iter().filter(|service| service.phase.is_up()).count();
    let others: Vec<String> = state
        .services
        .iter()
        .filter(|service| !service.phase.is_up())
        .map(|service| format!("{} {}", service.name, service_word(service.phase).1))
        .collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(" ({})", others.join(", ")),
    };
    format!("{ready} of {} services ready{others}", state.services.len())
}

/// Sends a sign of life twice in the time that the service manager allows, for as long as the runtime of this future
/// runs. Never ends.
pub async fn keep_watchdog() -> std::convert::Infallible {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()) else {
        return std::future::pending().await;
    };
    let mut signs = tokio::time::interval(timeout / 2);
    signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        signs.tick().await;
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::warn!(%error, "could not send a sign of life to the service manager");
        }
    }
}
