//! The one refresh of a run that its sites may ask for: the first that asks begins it, all that do share it.

use std::time::Instant;

use super::refresh::Refresh;
use super::verdict::ProxyVerdict;
use crate::follow::{Context, Desk, Manner, end_work};
use crate::run::{EventKind, Level};

/// Refreshes the pool once, when the first site asks for it, however many proxies are usable. The sites go on meanwhile,
/// and whatever comes of it.
pub async fn refresh_when_asked(context: &Context, desk: &Desk, refresh: &Refresh) {
    let asked = context.refresh_asks.asked().await;
    let notice = |level, message| context.recorder.emit(EventKind::Noticed { level, message });
    if let Some(first) = asked.first() {
        let message = format!("the proxies are refreshed, as {first} asks; once in a run, for all sites");
        notice(Level::Info, message);
    }
    let config = &refresh.config;
    let deadline = Instant::now() + config.timeout;
    match refresh.run(context, desk, deadline).await {
        Ok(ProxyVerdict::Enough { .. }) => {}
        Ok(ProxyVerdict::Unreadable { reason, hint }) => notice(
            Level::Warning,
            format!(
                "the proxy pool {} cannot be read: {reason}; the sites go on; {hint}",
                config.file.display()
            ),
        ),
        Ok(ProxyVerdict::TooFew {
            usable,
            reason,
            hint: _,
        }) => notice(
            Level::Warning,
            format!(
                "{usable} usable proxies, {} are wanted: {reason}; the sites go on",
                config.min_usable
            ),
        ),
        Err(error) => notice(Level::Warning, format!("the proxies are not refreshed: {error}")),
    }
}

/// Ends a refresh that was dropped, since the sites that it was for have ended. The desk must be served meanwhile.
pub async fn end_refresh(context: &Context, desk: &Desk) {
    let roots = context.in_flight.roots();
    let tasks: Vec<_> = roots.iter().flat_map(|root| context.in_flight.tasks_of(root)).collect();
    if tasks.is_empty() {
        return;
    }
    for root in &roots {
        context.in_flight.forget_job(root);
    }
    let ended = end_work(context, desk, tasks, [], Manner::GENTLE).await;
    if let Some(left) = ended.left {
        tracing::warn!(left, "not all of the proxy refresh is known to be gone");
    }
    context.recorder.emit(EventKind::ProxyRefreshFailed {
        reason: "all sites have ended before it did".to_owned(),
        will_retry: false,
    });
}
