//! A site's way through its attempts, from turn to turn: between two turns it has no place, and keeps its lease.

use std::time::{Duration, Instant};

use super::attempt::Attempt;
use super::attempt_end::{AttemptEnd, Bounds, Next, Verdict};
use super::breaker::Tries;
use super::end_site::end_site;
use super::lease::{Completed, Completion, Lease, Leases, Occupant, Refused};
use super::registry::RegistryStatus;
use super::report::{SiteReport, stopped_by};
use super::retry::pause_before_retry;
use super::schedule::Pause;
use super::standing::Standing;
use super::take::{LOOK_AGAIN_AFTER, PATIENCE, take};
use super::under_lease::{self, Came, Under};
use crate::celery::TaskId;
use crate::config::{LossAction, SiteConfig, SiteTimeout};
use crate::follow::{Asker, Context, Desk, Failure, Manner, end_work};
use crate::run::{EventKind, JobSoFar, Level, SiteCounts, SiteName, SiteStatus};
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
    /// When the last attempt began; `None`: an earlier run had begun it.
    attempt_begun: Option<Instant>,
    /// An earlier run's job that is to be followed further first.
    under_way: Option<&'r JobSoFar>,
    lease: Lease<'r>,
    /// It was reported that it waits for the run that has its lease now.
    told: bool,
    /// Its own worker, if it is to have one, while it has its turn.
    worker: Option<Needed>,
    /// The pause before the next attempt.
    paused: Option<Paused>,
    /// The attempt before, as far as it counts if a later one comes to less.
    before: Option<AttemptEnd>,
}

struct Paused {
    /// When it wanted to go on.
    due: Instant,
    /// It goes on only when the refresh of the proxies has ended.
    awaits_refresh: bool,
}

impl<'r> Course<'r> {
    pub fn new() -> Self {
        Course::NotBegun { told: false }
    }

    /// Has a turn.
    pub async fn turn(self, around: &Surroundings<'r>, site: &'r SiteConfig, standing: &'r Standing) -> Step<'r> {
        match self {
            // Boxed, as every large part of a turn: the futures of all sites lie on one stack while they are made.
            Course::NotBegun { told } => Box::pin(begin(told, around, site, standing)).await,
            Course::Begun(course) => Box::pin(go_on(course, around, site)).await,
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
            if let Some(report) = completed_since_the_earlier_run(around, site, under_way).await {
                lease.give_back(None).await;
                return Step::Ended(Box::new(report));
            }
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
                attempt_begun: None,
                under_way,
                lease,
                told: false,
                worker: None,
                paused: None,
                before: None,
            };
            return Box::pin(go_on(Box::new(course), around, site)).await;
        }
        Err(refused) => refused,
    };
    let left = around.wait_until.saturating_duration_since(Instant::now());
    match refused {
        Refused::Held(occupant) if !left.is_zero() => {
            if !told {
                tell_waiting(context, &site.name, &occupant);
            }
            let again = Instant::now() + LOOK_AGAIN_AFTER.min(left);
            Step::Pause(Course::NotBegun { told: true }, Pause::BeforeItBegins, again)
        }
        refused => Step::Ended(Box::new(SiteReport::refused(&site.name, refused))),
    }
}

/// Returns the end of a site that another run has completed since the run which is resumed was last at it; what is left of that
/// one's job is ended.
async fn completed_since_the_earlier_run(
    around: &Surroundings<'_>,
    site: &SiteConfig,
    under_way: Option<&JobSoFar>,
) -> Option<SiteReport> {
    let Surroundings { context, desk, .. } = *around;
    let token = *context.earlier_tokens.get(&site.name)?;
    let completed = around.leases.completed_since(&site.name, token).await?;
    if let Some(job) = under_way {
        // The other run may not know the queue where the rest of it waits.
        let root = TaskId::from(job.task_id.as_str());
        // Boxed: it is large and seldom begun.
        let ended = Box::pin(end_work(context, desk, [root], [], Manner::GENTLE)).await;
        if let Some(left) = ended.left {
            tracing::warn!(site = %site.name, left, "not all of the earlier run's job is known to be gone");
        }
    }
    let attempts = under_way.map_or(0, |job| job.attempt);
    Some(SiteReport::by_another(&site.name, completed, Duration::ZERO, attempts))
}

fn tell_waiting(context: &Context, site: &SiteName, occupant: &Occupant) {
    let message = format!("{site} waits for {occupant}, which is at it");
    let level = Level::Info;
    context.recorder.emit(EventKind::Noticed { level, message });
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
    if let Some(Paused { due, awaits_refresh }) = course.paused {
        let now = Instant::now();
        if awaits_refresh && context.refresh_asks.awaits_refresh() {
            return Step::Pause(Course::Begun(course), Pause::BeforeARetry, now + LOOK_AGAIN_AFTER);
        }
        course.paused = None;
        course.deadline += now.saturating_duration_since(due);
        if course.lease.is_lost() {
            let give_up = course.deadline.min(Instant::now() + PATIENCE);
            let lost = course.lease.token();
            match take(context, desk, around.leases, site, give_up).await {
                Ok(lease) => {
                    course.lease = lease;
                    if let Some(completed) = around.leases.completed_since(&site.name, lost).await {
                        course.number -= 1;
                        return course.by_another(site, completed).await;
                    }
                }
                // The other may complete it.
                Err(Refused::Held(occupant)) if Instant::now() < around.wait_until => {
                    if !std::mem::replace(&mut course.told, true) {
                        tell_waiting(context, &site.name, &occupant);
                    }
                    let left = around.wait_until.saturating_duration_since(Instant::now());
                    let again = Instant::now() + LOOK_AGAIN_AFTER.min(left);
                    let due = Instant::now();
                    course.paused = Some(Paused { due, awaits_refresh });
                    return Step::Pause(Course::Begun(course), Pause::BeforeARetry, again);
                }
                Err(refused) => {
                    // The attempt that was next has not begun.
                    course.number -= 1;
                    return course.end_without_lease(around, site, &refused).await;
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
    course.attempt_begun = picked_up.is_none().then(Instant::now);
    let (deadline, token) = (course.deadline, course.lease.token());
    let attempt = match picked_up {
        Some(job) => Attempt::picked_up(context, desk, site, course.standing, job, deadline, token),
        None => Attempt::new(context, desk, site, course.standing, course.number, deadline, token),
    };
    let attempt = attempt.ending_at_loss(course.ends_at_loss_until(site, picked_up.is_some()));
    let under = Under {
        site: &site.name,
        lease: &course.lease,
        worker: course.worker.as_ref(),
    };
    let (failure, counts) = match Box::pin(under_lease::run(context, desk, under, attempt)).await {
        Came::To(failure, counts) => (failure, counts),
        // Its worker is there until nothing of it is under way.
        Came::Stopped(by) => return Step::Ended(course.stop(around, site, &by).await),
    };
    course.worker = None;
    let ended = AttemptEnd::of(failure, counts, course.standing, site.on_degraded);
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let is_final = match &ended.verdict {
        Verdict::Complete(_) | Verdict::Degraded(_) => true,
        Verdict::Failed(failure) => matches!(failure, Failure::Unhealthy { may_retry: false, .. }),
    };
    let next = if picked_up.is_some() && !is_final {
        // What has become of an earlier run's job is no reason not to do the site: this is its first attempt.
        course.retries = course.retries.saturating_add(course.number);
        Some(Next::at_once()).filter(|_| !left.is_zero())
    } else {
        let bounds = Bounds {
            attempt: course.number,
            retries: course.retries,
            left,
        };
        ended.next(site, bounds)
    };
    let Some(Next { pause, refresh_proxies }) = next else {
        return course.end(around, site, ended).await;
    };
    if refresh_proxies {
        context.refresh_asks.ask(&site.name);
    }
    let awaits_refresh = refresh_proxies && context.refresh_asks.awaits_refresh();
    let first = if awaits_refresh {
        "; the proxies are refreshed first"
    } else {
        ""
    };
    course.number += 1;
    context.recorder.emit(EventKind::SiteRetrying {
        site: site.name.clone(),
        attempt: course.number,
        backoff_ms: EventKind::millis(pause),
        reason: format!("{}{first}", ended.reason()),
    });
    if course.before.as_ref().is_none_or(|before| !before.outdoes(&ended)) {
        course.before = Some(ended);
    }
    let due = now + pause;
    course.paused = Some(Paused { due, awaits_refresh });
    Step::Pause(Course::Begun(course), Pause::BeforeARetry, due)
}

impl<'r> Begun<'r> {
    /// Until when a loss among the chunks of the attempt that begins now ends it: as long as another attempt would follow.
    fn ends_at_loss_until(&self, site: &SiteConfig, is_picked_up: bool) -> Option<Instant> {
        if site.on_lost == LossAction::Finish {
            return None;
        }
        // An earlier run's job does not count as an attempt.
        if is_picked_up {
            return Some(self.deadline);
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let pause = pause_before_retry(None, self.number, self.retries, site.retry_backoff, left)?;
        self.deadline.checked_sub(pause)
    }

    /// The lease is kept until nothing of the site is under way.
    async fn stop(self: Box<Self>, around: &Surroundings<'r>, site: &SiteConfig, by: &Asker) -> Box<SiteReport> {
        let Surroundings { context, desk, .. } = *around;
        let end = end_site(context, desk, &site.name, Manner::GENTLE, RegistryStatus::Cancelled);
        let state = Box::pin(end).await;
        self.lease.give_back(None).await;
        Box::new(SiteReport {
            site: site.name.clone(),
            status: SiteStatus::Cancelled,
            counts: state.counts,
            elapsed: self.begun.elapsed(),
            attempt: self.attempt_begun.map(|begun| begun.elapsed()),
            attempts: state.attempts,
            reason: Some(stopped_by(by)),
            held_by: None,
            dependency: None,
            cause: None,
        })
    }

    /// Another run has the site, or it is not known who has.
    async fn end_without_lease(
        self: Box<Self>,
        around: &Surroundings<'r>,
        site: &SiteConfig,
        refused: &Refused,
    ) -> Step<'r> {
        let lost = |reason, counts| AttemptEnd {
            verdict: Verdict::Failed(Failure::Lost(reason)),
            counts,
        };
        let refused = lost(refused.to_string(), SiteCounts::default());
        let ended = match &self.before {
            Some(before) if !before.outdoes(&refused) => {
                lost(format!("{}; {}", before.reason(), refused.reason()), before.counts)
            }
            Some(_) | None => refused,
        };
        self.end(around, site, ended).await
    }

    async fn end(self: Box<Self>, around: &Surroundings<'r>, site: &SiteConfig, ended: AttemptEnd) -> Step<'r> {
        // No further attempt would find it.
        if let Verdict::Failed(Failure::Lost(_) | Failure::Unknown(_)) = ended.verdict
            && let Some(completed) = around.leases.completed_since(&site.name, self.lease.token()).await
        {
            return self.by_another(site, completed).await;
        }
        let mut course = self;
        let AttemptEnd { verdict, counts } = match course.before.take() {
            Some(before) => before.or_last(ended),
            None => ended,
        };
        let (status, reason, cause) = match verdict {
            Verdict::Failed(Failure::Unknown(reason)) => (SiteStatus::Unknown, Some(reason), None),
            Verdict::Failed(failure) => {
                let reason = failure.reason().to_owned();
                (SiteStatus::Failed, Some(reason), Some(course.standing.failure()))
            }
            Verdict::Degraded(short) => (SiteStatus::Degraded, Some(short.why), Some(short.cause)),
            Verdict::Complete(warning) => {
                if let Some(why) = warning {
                    let message = format!("{}: {why}", site.name);
                    let level = Level::Warning;
                    around.context.recorder.emit(EventKind::Noticed { level, message });
                }
                (SiteStatus::Complete, None, None)
            }
        };
        let has_yielded = status == SiteStatus::Complete || !counts.has_no_results();
        let completion = (status.is_success() && has_yielded).then(|| Completion {
            status,
            counts,
            reason: reason.clone(),
        });
        course.lease.give_back(completion).await;
        Step::Ended(Box::new(SiteReport {
            site: site.name.clone(),
            status,
            counts,
            elapsed: course.begun.elapsed(),
            attempt: course.attempt_begun.map(|begun| begun.elapsed()),
            attempts: course.number,
            reason,
            held_by: None,
            dependency: None,
            cause,
        }))
    }

    /// It is complete by the work of the run that has had the lease since this one lost it.
    async fn by_another(self: Box<Self>, site: &SiteConfig, completed: Completed) -> Step<'r> {
        self.lease.give_back(None).await;
        let (elapsed, attempts) = (self.begun.elapsed(), self.number);
        Step::Ended(Box::new(SiteReport::by_another(
            &site.name, completed, elapsed, attempts,
        )))
    }
}
