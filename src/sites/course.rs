//! A site's way through its attempts, from turn to turn: between two turns it has no place, and keeps its lease.

use std::time::{Duration, Instant};

use super::attempt::Attempt;
use super::breaker::Tries;
use super::end_site::end_site;
use super::lease::{Lease, Leases, Refused};
use super::registry::RegistryStatus;
use super::report::{SiteReport, stopped_by};
use super::retry::pause_before_retry;
use super::sanity::Yield;
use super::schedule::Pause;
use super::standing::Standing;
use super::take::{LOOK_AGAIN_AFTER, PATIENCE, take};
use super::under_lease::{self, Came, Under};
use crate::config::{SiteConfig, SiteTimeout};
use crate::follow::{Asker, Context, Desk, Failure, Manner};
use crate::run::{EventKind, JobSoFar, Level, SiteCounts, SiteStatus};
use crate::services::{Needed, OnDemand, site_service_name};

/// Whatever the chunks of a site and its history say.
const AUTO_AT_MOST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What every turn of every site needs.
pub(super) struct Surroundings<'r> {
    pub context: &'r Context,
    pub desk: &'r Desk,
    pub leases: &'r Leases,
    /// By whom the sites' own workers are had.
    pub workers: &'r OnDemand,
    /// Until when a site that another run has is waited for.
    pub wait_until: Instant,
}

/// What came of a turn.
pub(super) enum Step<'r> {
    Ended(Box<SiteReport>),
    /// It goes on at this moment, or later.
    Pause(Course<'r>, Pause, Instant),
}

/// See the module.
pub(super) enum Course<'r> {
    /// It has never had its lease.
    NotBegun {
        told: bool,
    },
    Begun(Box<Begun<'r>>),
}

pub(super) struct Begun<'r> {
    begun: Instant,
    /// Moves by what the site waits for its turn: that is not its fault.
    deadline: Instant,
    /// Of the attempt that is next.
    number: u32,
    retries: u32,
    standing: &'r Standing,
    /// An earlier run's job that is to be followed further first.
    under_way: Option<&'r JobSoFar>,
    lease: Lease<'r>,
    /// Its own worker, if it is to have one, while it has its turn.
    worker: Option<Needed>,
    /// When it wanted to go on, and what the last attempt came to.
    paused: Option<(Instant, Failure, SiteCounts)>,
}

impl<'r> Course<'r> {
    pub fn new() -> Self {
        Course::NotBegun { told: false }
    }

    /// Has a turn.
    pub async fn turn(self, around: &Surroundings<'r>, site: &'r SiteConfig, standing: &'r Standing) -> Step<'r> {
        match self {
            Course::NotBegun { told } => begin(told, around, site, standing).await,
            Course::Begun(course) => go_on(course, around, site).await,
        }
    }

    /// Ends it between two turns, or before the first.
    pub async fn stop(self, around: &Surroundings<'r>, site: &'r SiteConfig, by: &Asker) -> Box<SiteReport> {
        match self {
            Course::NotBegun { .. } => Box::new(SiteReport::stopped(&site.name, by)),
            Course::Begun(course) => course.stop(around, site, by).await,
        }
    }
}

/// Takes the lease, which lets nobody else be at the site; one that another run has is looked at again later.
async fn begin<'r>(told: bool, around: &Surroundings<'r>, site: &'r SiteConfig, standing: &'r Standing) -> Step<'r> {
    let context = around.context;
    let under_way = context.earlier.get(&site.name);
    let retries = match &standing.tries {
        Tries::Closed => site.retries,
        // The latter has no turn.
        Tries::Once | Tries::Skipped(_) => 0,
    };
    let give_up = Instant::now() + PATIENCE;
    let refused = match take(context, around.desk, around.leases, site, give_up).await {
        Ok(lease) => {
            let begun = Instant::now();
            if standing.tries == Tries::Once && site.retries > 0 {
                let message = format!("{}: no retries, since it failed in its last runs", site.name);
                context.recorder.emit(EventKind::Noticed {
                    level: Level::Info,
                    message,
                });
            }
            let course = Begun {
                begun,
                deadline: begun + longest(site),
                number: under_way.map_or(1, |job| job.attempt),
                retries,
                standing,
                under_way,
                lease,
                worker: None,
                paused: None,
            };
            return go_on(Box::new(course), around, site).await;
        }
        Err(refused) => refused,
    };
    let left = around.wait_until.saturating_duration_since(Instant::now());
    match refused {
        Refused::Held(occupant) if !left.is_zero() => {
            if !told {
                let message = format!("{} waits for {occupant}, which is at it", site.name);
                let level = Level::Info;
                context.recorder.emit(EventKind::Noticed { level, message });
            }
            let again = Instant::now() + LOOK_AGAIN_AFTER.min(left);
            Step::Pause(Course::NotBegun { told: true }, Pause::BeforeItBegins, again)
        }
        refused => Step::Ended(Box::new(SiteReport::refused(&site.name, refused))),
    }
}

/// All attempts together.
fn longest(site: &SiteConfig) -> Duration {
    match site.timeout {
        SiteTimeout::Fixed(timeout) => timeout,
        // Each attempt has a bound of its own.
        SiteTimeout::Auto => AUTO_AT_MOST,
    }
}

/// One attempt; a pause when another is to follow.
async fn go_on<'r>(mut course: Box<Begun<'r>>, around: &Surroundings<'r>, site: &'r SiteConfig) -> Step<'r> {
    let Surroundings { context, desk, .. } = *around;
    if let Some(by) = context.stops.of(&site.name) {
        return Step::Ended(course.stop(around, site, &by).await);
    }
    if let Some((due, failure, counts)) = course.paused.take() {
        course.deadline += Instant::now().saturating_duration_since(due);
        if course.lease.is_lost() {
            let give_up = course.deadline.min(Instant::now() + PATIENCE);
            match take(context, desk, around.leases, site, give_up).await {
                Ok(lease) => course.lease = lease,
                Err(refused) => {
                    // The attempt that was next has not begun.
                    course.number -= 1;
                    let failure = Failure::Lost(format!("{}; {refused}", failure.reason()));
                    return course.end(around, site, Some(failure), counts).await;
                }
            }
        }
    }
    context.in_flight.site_begun(&site.name, course.begun, course.number);
    course.worker = site
        .worker
        .as_ref()
        .map(|_| around.workers.need(site_service_name(&site.name)));
    let picked_up = course.under_way.take();
    let (deadline, token) = (course.deadline, course.lease.token());
    let attempt = match picked_up {
        Some(job) => Attempt::picked_up(context, desk, site, course.standing, job, deadline, token),
        None => Attempt::new(context, desk, site, course.standing, course.number, deadline, token),
    };
    let under = Under {
        site: &site.name,
        lease: &course.lease,
        worker: course.worker.as_ref(),
    };
    let (failure, counts) = match under_lease::run(context, desk, under, attempt).await {
        Came::To(failure, counts) => (failure, counts),
        // Its worker is there until nothing of it is under way.
        Came::Stopped(by) => return Step::Ended(course.stop(around, site, &by).await),
    };
    course.worker = None;
    let Some(failure) = failure else {
        return course.end(around, site, None, counts).await;
    };
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let is_final = matches!(failure, Failure::Unhealthy { may_retry: false, .. });
    let pause = if picked_up.is_some() && !is_final {
        // What has become of an earlier run's job is no reason not to do the site: this is its first attempt.
        course.retries = course.retries.saturating_add(course.number);
        Some(Duration::ZERO).filter(|_| !left.is_zero())
    } else {
        pause_before_retry(&failure, course.number, course.retries, site.retry_backoff, left)
    };
    let Some(pause) = pause else {
        return course.end(around, site, Some(failure), counts).await;
    };
    course.number += 1;
    context.recorder.emit(EventKind::SiteRetrying {
        site: site.name.clone(),
        attempt: course.number,
        backoff_ms: EventKind::millis(pause),
        reason: failure.reason().to_owned(),
    });
    let due = now + pause;
    course.paused = Some((due, failure, counts));
    Step::Pause(Course::Begun(course), Pause::BeforeARetry, due)
}

impl<'r> Begun<'r> {
    /// The lease is kept until nothing of the site is under way.
    async fn stop(self: Box<Self>, around: &Surroundings<'r>, site: &SiteConfig, by: &Asker) -> Box<SiteReport> {
        let Surroundings { context, desk, .. } = *around;
        let state = end_site(context, desk, &site.name, Manner::GENTLE, RegistryStatus::Cancelled).await;
        self.lease.give_back().await;
        Box::new(SiteReport {
            site: site.name.clone(),
            status: SiteStatus::Cancelled,
            counts: state.counts,
            elapsed: self.begun.elapsed(),
            attempts: state.attempts,
            reason: Some(stopped_by(by)),
            held_by: None,
            dependency: None,
            cause: None,
        })
    }

    async fn end(
        self: Box<Self>,
        around: &Surroundings<'r>,
        site: &SiteConfig,
        failure: Option<Failure>,
        counts: SiteCounts,
    ) -> Step<'r> {
        self.lease.give_back().await;
        let (status, reason, cause) = match failure {
            Some(failure) => {
                let reason = failure.reason().to_owned();
                (SiteStatus::Failed, Some(reason), Some(self.standing.failure()))
            }
            None => match self.standing.judge(counts) {
                Yield::Enough => (SiteStatus::Complete, None, None),
                Yield::Short(short) => (SiteStatus::Degraded, Some(short.why), Some(short.cause)),
                Yield::Unknown(why) => {
                    let message = format!("{}: {why}", site.name);
                    let level = Level::Warning;
                    around.context.recorder.emit(EventKind::Noticed { level, message });
                    (SiteStatus::Complete, None, None)
                }
            },
        };
        Step::Ended(Box::new(SiteReport {
            site: site.name.clone(),
            status,
            counts,
            elapsed: self.begun.elapsed(),
            attempts: self.number,
            reason,
            held_by: None,
            dependency: None,
            cause,
        }))
    }
}
