//! All sites of a run at once, within the limit, each to its own end.
//!
//! A plain future: dropping it ends the following of every site; [`cancel`](super::cancel()) then tells Celery. The leases
//! are not given back then, since running tasks go on for a while: they end by themselves.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::attempt::Attempt;
use super::lease::{LeaseStore, Leases, Occupant, Refused};
use super::retry::pause_before_retry;
use super::turn::{PATIENCE, Turn, take, turn};
use super::under_lease;
use crate::config::SiteConfig;
use crate::follow::{Context, Desk, Failure};
use crate::run::{EventKind, SiteCounts, SiteName, SiteStatus};

/// How one site ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteReport {
    pub site: SiteName,
    pub status: SiteStatus,
    pub counts: SiteCounts,
    /// Since its first dispatch.
    pub elapsed: Duration,
    /// 1 when the first attempt was the last; 0 when there was none.
    pub attempts: u32,
    /// Why, unless it is complete.
    pub reason: Option<String>,
    /// Another run was at it, so that it was not begun.
    pub held_by: Option<Occupant>,
}

/// Runs all sites, up to `max_parallel` at a time, in the given order. One site's failure is its own.
///
/// The reports come in the order of `sites`. A site that another run has is waited for until the given moment.
pub async fn run_all(
    context: &Context,
    sites: Vec<SiteConfig>,
    max_parallel: usize,
    leases: LeaseStore,
    wait_until: Instant,
) -> Vec<SiteReport> {
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
    let leases = Leases::new(leases, context.in_flight.clone());
    let all = join_all(sites.iter().map(
        async |site| match turn(context, &desk, &gate, &leases, site, wait_until).await {
            Ok(turn) => run_one(context, &desk, site, &leases, turn).await,
            Err(refused) => not_begun(context, site, refused),
        },
    ));
    tokio::select! {
        reports = all => reports,
        never = desk.serve() => match never {},
        never = leases.keep() => match never {},
    }
}

fn not_begun(context: &Context, site: &SiteConfig, refused: Refused) -> SiteReport {
    let report = SiteReport {
        site: site.name.clone(),
        status: SiteStatus::Failed,
        counts: SiteCounts::default(),
        elapsed: Duration::ZERO,
        attempts: 0,
        reason: Some(refused.to_string()),
        held_by: match refused {
            Refused::Held(occupant) => Some(occupant),
            Refused::Unreachable(_) => None,
        },
    };
    context.in_flight.site_ended(&site.name);
    context.recorder.emit(finished(&report));
    report
}

async fn run_one<'r>(
    context: &Context,
    desk: &Desk,
    site: &SiteConfig,
    leases: &'r Leases,
    mut turn: Turn<'r>,
) -> SiteReport {
    let begun = Instant::now();
    let deadline = begun + site.timeout;
    let mut under_way = context.earlier.get(&site.name);
    let mut number = under_way.map_or(1, |job| job.attempt);
    let mut retries = site.retries;
    let (failure, counts) = loop {
        context.in_flight.site_begun(&site.name, begun, number);
        let picked_up = under_way.take();
        let token = turn.lease.token();
        let attempt = match picked_up {
            Some(job) => Attempt::picked_up(context, desk, site, job, deadline, token),
            None => Attempt::new(context, desk, site, number, deadline, token),
        };
        let (failure, counts) = under_lease::run(context, desk, &site.name, &turn.lease, attempt).await;
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
        if turn.lease.is_lost() {
            let give_up = deadline.min(Instant::now() + PATIENCE);
            match take(context, desk, leases, site, give_up).await {
                Ok(lease) => turn.lease = lease,
                Err(refused) => {
                    number -= 1;
                    break (Some(Failure::Lost(format!("{}; {refused}", failure.reason()))), counts);
                }
            }
        }
    };
    turn.lease.give_back().await;
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
        held_by: None,
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
