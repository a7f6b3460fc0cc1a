//! Refreshes during the sites of a run: at most one for the sites, which the first request begins and all sites share,
//! and those that persons ask for.

use std::convert::Infallible;
use std::time::Instant;

use super::refresh::ProxyRefresh;
use super::verdict::ProxyVerdict;
use crate::jobs::{CancelLimits, JobContext, RefreshCause, WorkerMonitor, cancel_jobs};
use orch_journal::EventKind;

/// Refreshes the pool whenever that is requested, however many proxies are usable: once for all sites that ask, and for
/// each request of a person. The sites go on during a refresh, and after any result.
pub async fn refresh_when_asked(context: &JobContext, monitor: &WorkerMonitor, refresh: &ProxyRefresh) -> Infallible {
    loop {
        if let RefreshCause::Site(site) = context.refresh_requests.begin_next().await {
            context.recorder.emit(EventKind::ProxyRefreshRequested { site });
        }
        refresh_once(context, monitor, refresh).await;
        context.refresh_requests.end();
    }
}

async fn refresh_once(context: &JobContext, monitor: &WorkerMonitor, refresh: &ProxyRefresh) {
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
