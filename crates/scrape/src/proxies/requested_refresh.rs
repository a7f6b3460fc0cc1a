//! Refresh for which the sites of a run may ask, at most one in a run: the first request begins it, and all sites share
//! it.

use std::time::Instant;

use super::refresh::ProxyRefresh;
use super::verdict::ProxyVerdict;
use crate::jobs::{CancelLimits, JobContext, WorkerMonitor, cancel_jobs};
use orch_journal::EventKind;

/// Refreshes the pool once, when the first site asks for that, however many proxies are usable. The sites go on during
/// the refresh, and after any result.
pub async fn refresh_when_asked(context: &JobContext, monitor: &WorkerMonitor, refresh: &ProxyRefresh) {
    let asked = context.refresh_requests.wait_for_first().await;
    if let Some(first) = asked.first() {
        let site = first.clone();
        context.recorder.emit(EventKind::ProxyRefreshRequested { site });
    }
    let config = &refresh.config;
    let deadline = Instant::now() + config.timeout;
    let event = match refresh.run(context, monitor, deadline).await {
        Ok(ProxyVerdict::Enough { .. }) => return,
        Ok(ProxyVerdict::Unreadable { reason, hint }) => EventKind::ProxyPoolUnreadable {
            file: config.file.clone(),
            reason,
            hint,
        },
        Ok(ProxyVerdict::TooFew {
            usable,
            reason,
            hint: _,
        }) => EventKind::ProxyRefreshInsufficient {
            usable,
            min_usable: config.min_usable,
            reason,
        },
        Err(error) => EventKind::ProxyRefreshNotStarted {
            reason: error.to_string(),
        },
    };
    context.recorder.emit(event);
}

/// Ends a refresh that was dropped because the sites that needed it have ended. The worker monitor must be served while
/// this function runs.
pub async fn end_refresh(context: &JobContext, monitor: &WorkerMonitor) {
    let roots = context.in_flight.roots();
    let tasks: Vec<_> = roots.iter().flat_map(|root| context.in_flight.tasks_of(root)).collect();
    if tasks.is_empty() {
        return;
    }
    for root in &roots {
        context.in_flight.forget_job(root);
    }
    let ended = cancel_jobs(context, monitor, tasks, [], CancelLimits::GENTLE).await;
    if let Some(left) = ended.remaining {
        tracing::warn!(left, "some tasks of the proxy refresh may still exist");
    }
    context.recorder.emit(EventKind::ProxyRefreshFailed {
        reason: "all sites have ended before the refresh did".to_owned(),
        will_retry: false,
    });
}
