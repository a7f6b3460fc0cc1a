//! All sites of a run at once, within the limit, each to its own end.
//!
//! A plain future: dropping it ends the following of every site; [`cancel`](super::cancel()) then tells Celery.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::attempt::Attempt;
use super::retry::pause_before_retry;
use crate::config::SiteConfig;
use crate::follow::{Context, Desk};
use crate::run::{EventKind, SiteCounts, SiteName, SiteStatus};

/// How one site ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteReport {
    pub site: SiteName,
    pub status: SiteStatus,
    pub counts: SiteCounts,
    /// Since its first dispatch.
    pub elapsed: Duration,
    /// 1 when the first attempt was the last.
    pub attempts: u32,
    /// Why, unless it is complete.
    pub reason: Option<String>,
}

/// Runs all sites, up to `max_parallel` at a time, in the given order. One site's failure is its own.
///
/// The reports come in the order of `sites`.
pub async fn run_all(context: &Context, sites: Vec<SiteConfig>, max_parallel: usize) -> Vec<SiteReport> {
    for site in &sites {
        context.in_flight.site_queued(&site.name);
        context.recorder.emit(EventKind::SiteQueued {
            site: site.name.clone(),
        });
    }
    if sites.is_empty() {
        return Vec::new();
    }
    let desk = Desk::open(context).await;
    let gate = Semaphore::new(max_parallel.max(1));
    let all = join_all(sites.iter().map(async |site| {
        // The semaphore is never closed; without a permit the site would only start early.
        let _permit = gate.acquire().await;
        run_one(context, &desk, site).await
    }));
    tokio::select! {
        reports = all => reports,
        never = desk.serve() => match never {},
    }
}

async fn run_one(context: &Context, desk: &Desk, site: &SiteConfig) -> SiteReport {
    let begun = Instant::now();
    let deadline = begun + site.timeout;
    let mut under_way = context.earlier.get(&site.name);
    let mut number = under_way.map_or(1, |job| job.attempt);
    let mut retries = site.retries;
    let (failure, counts) = loop {
        context.in_flight.site_begun(&site.name, begun, number);
        let picked_up = under_way.take();
        let attempt = match picked_up {
            Some(job) => Attempt::picked_up(context, desk, site, job, deadline),
            None => Attempt::new(context, desk, site, number, deadline),
        };
        let (failure, counts) = attempt.run().await;
        let Some(failure) = failure else { break (None, counts) };
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = if picked_up.is_some() {
            // What has become of an earlier run's job is no reason not to do the site: this is its first attempt.
            retries = retries.saturating_add(number);
            Some(Duration::ZERO).filter(|_| !left.is_zero())
        } else {
            pause_before_retry(&failure, number, retries, site.retry_backoff, left)
        };
        let Some(pause) = pause else {
            break (Some(failure), counts);
        };
        number += 1;
        context.recorder.emit(EventKind::SiteRetrying {
            site: site.name.clone(),
            attempt: number,
            backoff_ms: EventKind::millis(pause),
            reason: failure.reason().to_owned(),
        });
        tokio::time::sleep(pause).await;
    };
    let report = SiteReport {
        site: site.name.clone(),
        status: if failure.is_none() {
            SiteStatus::Complete
        } else {
            SiteStatus::Failed
        },
        counts,
        elapsed: begun.elapsed(),
        attempts: number,
        reason: failure.map(|failure| failure.reason().to_owned()),
    };
    context.in_flight.site_ended(&site.name);
    context.recorder.emit(finished(&report));
    report
}

pub(super) fn finished(report: &SiteReport) -> EventKind {
    EventKind::SiteFinished {
        site: report.site.clone(),
        status: report.status,
        counts: report.counts,
        elapsed_ms: EventKind::millis(report.elapsed),
        reason: report.reason.clone(),
    }
}
