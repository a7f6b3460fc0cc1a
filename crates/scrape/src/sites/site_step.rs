//! The only function that changes the state of a site. Pure: the time goes in with each input.

use std::time::{Duration, Instant};

use super::attempt_end::{AttemptEnd, AttemptVerdict, NextAttempt, RetryBounds};
use super::report::{SiteReport, stopped_by};
use super::site_projections::site_status;
use super::site_state::{
    AttemptOrder, AttemptSeries, MAX_AUTO_TIMEOUT, RetryPause, SiteAction, SiteInput, SiteNext, SiteRules, SiteState,
    SiteStep,
};
use super::take_lease::{LEASE_POLL_INTERVAL, REDIS_OUTAGE_TIMEOUT};
use crate::jobs::JobFailure;
use crate::schedule::PauseKind;
use crate::sites::lease::{CompletionRecord, LeaseOccupant, LeaseRefusal, SiteCompletion};
use crate::sites::policy::circuit_breaker::BreakerState;
use crate::sites::policy::retry::pause_before_retry;
use orch_config::{LossAction, SiteTimeout};
use orch_journal::{EventKind, RequestSender, SiteCounts, SiteStatus};

impl SiteState {
    /// Applies an input to the state. An input that answers no action of this state ends the site as unknown: nothing
    /// is claimed about the site's work then.
    pub fn step(self, input: SiteInput, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
        match (self, input) {
            (Self::NotBegun { is_wait_reported }, SiteInput::TurnBegun { .. }) => SiteStep::new(
                Self::AcquiringLease { is_wait_reported },
                SiteAction::AcquireLease {
                    give_up: now + REDIS_OUTAGE_TIMEOUT,
                },
            ),
            (Self::NotBegun { .. }, SiteInput::StopRequested(by)) => {
                ended(Box::new(SiteReport::stopped(&rules.site.name, &by)))
            }
            (Self::AcquiringLease { .. }, SiteInput::LeaseAcquired { token }) => lease_acquired(token, rules, now),
            (Self::AcquiringLease { is_wait_reported }, SiteInput::LeaseRefused(refusal)) => {
                lease_refused(refusal, is_wait_reported, rules, now)
            }
            (Self::CheckingEarlierRun(series), SiteInput::CompletionRead(None)) => begin_series(series, rules, now),
            (Self::CheckingEarlierRun(_), SiteInput::CompletionRead(Some(completed))) => {
                completed_since_earlier_run(completed, rules)
            }
            (Self::EndingEarlierJob(report), SiteInput::EarlierJobEnded) => release(report, None),
            (Self::Attempting(series), SiteInput::AttemptEnded { failure, counts }) => {
                attempt_ended(series, failure, counts, rules, now)
            }
            (Self::Attempting(series) | Self::Pausing(series, _), SiteInput::StopRequested(by)) => {
                SiteStep::new(Self::EndingWork(series, by), SiteAction::EndWork)
            }
            (Self::RequestingRefresh(series, ended, next), SiteInput::RefreshRequested { awaits_refresh }) => {
                pause(series, *ended, next.pause, awaits_refresh, rules, now)
            }
            (
                Self::Pausing(series, pause),
                SiteInput::TurnBegun {
                    is_lease_lost,
                    awaits_refresh,
                },
            ) => {
                if pause.awaits_refresh && awaits_refresh {
                    let until = now + LEASE_POLL_INTERVAL;
                    return SiteStep::giving_back(Self::Pausing(series, pause), PauseKind::BeforeARetry, until);
                }
                turn_after_pause(series, pause, is_lease_lost, rules, now)
            }
            (Self::ReacquiringLease(mut series, _), SiteInput::LeaseAcquired { token }) => {
                let lost = std::mem::replace(&mut series.token, token);
                SiteStep::new(
                    Self::CheckingInterval(series),
                    SiteAction::ReadCompletion { since: lost },
                )
            }
            (Self::ReacquiringLease(series, pause), SiteInput::LeaseRefused(refusal)) => {
                lease_refused_again(series, pause, refusal, rules, now)
            }
            (Self::CheckingInterval(series), SiteInput::CompletionRead(None)) => make_attempt(series, rules, now),
            (
                Self::CheckingInterval(series) | Self::CheckingOtherRun(series, _),
                SiteInput::CompletionRead(Some(completed)),
            ) => completed_by_another_run(&series, completed, rules, now),
            (Self::CheckingOtherRun(series, ended), SiteInput::CompletionRead(None)) => {
                conclude(*series, *ended, rules, now)
            }
            (Self::EndingWork(series, by), SiteInput::WorkEnded { counts }) => {
                release(Box::new(stopped(&series, counts, &by, rules, now)), None)
            }
            (Self::ReleasingLease(report), SiteInput::LeaseReleased) => ended(report),
            (state, input) => {
                let (input, state) = (variant(&input), variant(&state));
                let reason =
                    format!("internal error: {input} does not fit the state {state}; the site's work was not checked");
                ended(Box::new(SiteReport::unknown(&rules.site.name, reason)))
            }
        }
    }
}

/// Returns the name of a variant.
fn variant(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take_while(char::is_ascii_alphanumeric).collect()
}

fn ended(report: Box<SiteReport>) -> SiteStep {
    SiteStep {
        state: SiteState::Ended(report.status),
        facts: Vec::new(),
        next: SiteNext::Report(report),
    }
}

fn release(report: Box<SiteReport>, completion: Option<SiteCompletion>) -> SiteStep {
    SiteStep::new(SiteState::ReleasingLease(report), SiteAction::ReleaseLease(completion))
}

/// Begins the attempts, unless an earlier run worked on the site: then another run may have completed it since.
fn lease_acquired(token: u64, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
    let longest = match rules.site.timeout {
        SiteTimeout::Fixed(timeout) => timeout,
        // Each attempt has its own bound.
        SiteTimeout::Auto => MAX_AUTO_TIMEOUT,
    };
    let series = Box::new(AttemptSeries {
        begun: now,
        deadline: now + longest,
        number: rules.earlier_attempt.unwrap_or(1),
        attempts_begun: 0,
        retries: match &rules.standing.breaker {
            BreakerState::Closed => rules.site.retries,
            // A skipped site has no turn.
            BreakerState::HalfOpen | BreakerState::Open(_) => 0,
        },
        picks_up: rules.earlier_attempt.is_some(),
        attempt_begun: None,
        token,
        is_wait_reported: false,
        best: None,
    });
    match rules.earlier_token {
        Some(since) => SiteStep::new(
            SiteState::CheckingEarlierRun(series),
            SiteAction::ReadCompletion { since },
        ),
        None => begin_series(series, rules, now),
    }
}

fn begin_series(series: Box<AttemptSeries>, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
    let step = make_attempt(series, rules, now);
    if rules.standing.breaker == BreakerState::HalfOpen && rules.site.retries > 0 {
        let site = rules.site.name.clone();
        return step.with_fact(EventKind::SiteRetriesWithheld { site });
    }
    step
}

fn lease_refused(refusal: LeaseRefusal, is_wait_reported: bool, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
    match refusal {
        LeaseRefusal::Held(occupant) if now < rules.wait_until => {
            let state = SiteState::NotBegun { is_wait_reported: true };
            wait_for_lease(
                state,
                PauseKind::BeforeItBegins,
                &occupant,
                is_wait_reported,
                rules,
                now,
            )
        }
        refusal => ended(Box::new(SiteReport::refused(&rules.site.name, refusal))),
    }
}

fn lease_refused_again(
    mut series: Box<AttemptSeries>,
    pause: RetryPause,
    refusal: LeaseRefusal,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteStep {
    match refusal {
        // The other run may complete the site.
        LeaseRefusal::Held(occupant) if now < rules.wait_until => {
            let is_wait_reported = std::mem::replace(&mut series.is_wait_reported, true);
            let state = SiteState::Pausing(series, RetryPause { due: now, ..pause });
            wait_for_lease(state, PauseKind::BeforeARetry, &occupant, is_wait_reported, rules, now)
        }
        refusal => {
            let lost = |reason, counts| AttemptEnd {
                verdict: AttemptVerdict::Failed(JobFailure::Lost(reason)),
                counts,
            };
            let refused = lost(refusal.to_string(), SiteCounts::default());
            let end = match &series.best {
                Some(best) if !best.yields_more_than(&refused) => {
                    lost(format!("{}; {}", best.reason(), refused.reason()), best.counts)
                }
                Some(_) | None => refused,
            };
            end_series(series, end, rules, now)
        }
    }
}

/// Waits for the run that holds the lease, up to the time limit of the run. Reports the wait once.
fn wait_for_lease(
    state: SiteState,
    kind: PauseKind,
    occupant: &LeaseOccupant,
    is_reported: bool,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteStep {
    let step = SiteStep::giving_back(state, kind, rules.wait_until.min(now + LEASE_POLL_INTERVAL));
    if is_reported {
        return step;
    }
    step.with_fact(EventKind::SiteLeaseAwaited {
        site: rules.site.name.clone(),
        holder: occupant.into(),
    })
}

fn completed_since_earlier_run(completed: CompletionRecord, rules: &SiteRules<'_>) -> SiteStep {
    let attempts = rules.earlier_attempt.unwrap_or(0);
    let report = SiteReport::completed_by_another_run(&rules.site.name, completed, Duration::ZERO, attempts);
    match rules.earlier_attempt {
        // The other run may not know the queue in which the rest of the job waits.
        Some(_) => SiteStep::new(SiteState::EndingEarlierJob(Box::new(report)), SiteAction::EndEarlierJob),
        None => release(Box::new(report), None),
    }
}

/// Ends the site as completed by the run that acquired the lease after this run had lost it.
fn completed_by_another_run(
    series: &AttemptSeries,
    completed: CompletionRecord,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteStep {
    let elapsed = now.saturating_duration_since(series.begun);
    let report = SiteReport::completed_by_another_run(&rules.site.name, completed, elapsed, series.attempts_begun);
    release(Box::new(report), None)
}

fn make_attempt(mut series: Box<AttemptSeries>, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
    series.attempt_begun = (!series.picks_up).then_some(now);
    series.attempts_begun = series.number;
    let order = AttemptOrder {
        number: series.number,
        picks_up: series.picks_up,
        deadline: series.deadline,
        token: series.token,
        ends_at_loss_until: ends_at_loss_until(&series, rules, now),
        site_begun: series.begun,
    };
    SiteStep::new(SiteState::Attempting(series), SiteAction::MakeAttempt(order))
}

/// Returns the time until which a lost chunk ends the attempt that begins now, that is, as long as another attempt would
/// follow.
fn ends_at_loss_until(series: &AttemptSeries, rules: &SiteRules<'_>, now: Instant) -> Option<Instant> {
    if rules.site.on_lost == LossAction::Finish {
        return None;
    }
    // An earlier run's job does not count as an attempt.
    if series.picks_up {
        return Some(series.deadline);
    }
    let left = series.deadline.saturating_duration_since(now);
    let pause = pause_before_retry(None, series.number, series.retries, rules.site.retry_backoff, left)?;
    series.deadline.checked_sub(pause)
}

fn attempt_ended(
    mut series: Box<AttemptSeries>,
    failure: Option<JobFailure>,
    counts: SiteCounts,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteStep {
    let ended = AttemptEnd::of(failure, counts, rules.standing, rules.site.on_degraded);
    let left = series.deadline.saturating_duration_since(now);
    let next = if std::mem::take(&mut series.picks_up) && !ended.verdict.is_final() {
        // The end of an earlier run's job costs no attempt: this run makes all configured attempts.
        series.retries = series.retries.saturating_add(series.number);
        Some(NextAttempt::at_once()).filter(|_| !left.is_zero())
    } else {
        let bounds = RetryBounds {
            attempt: series.number,
            retries: series.retries,
            left,
        };
        ended.next(rules.site, bounds)
    };
    match next {
        None => end_series(series, ended, rules, now),
        Some(next) if next.refresh_proxies => SiteStep::new(
            SiteState::RequestingRefresh(series, Box::new(ended), next),
            SiteAction::RequestRefresh,
        ),
        Some(next) => pause(series, ended, next.pause, false, rules, now),
    }
}

/// Pauses before the next attempt.
fn pause(
    mut series: Box<AttemptSeries>,
    ended: AttemptEnd,
    pause: Duration,
    awaits_refresh: bool,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteStep {
    let first = if awaits_refresh {
        "; the proxies are refreshed first"
    } else {
        ""
    };
    series.number += 1;
    let fact = EventKind::SiteRetrying {
        site: rules.site.name.clone(),
        attempt: series.number,
        backoff_ms: EventKind::millis(pause),
        reason: format!("{}{first}", ended.reason()),
    };
    if series.best.as_ref().is_none_or(|best| !best.yields_more_than(&ended)) {
        series.best = Some(ended);
    }
    let due = now + pause;
    let state = SiteState::Pausing(series, RetryPause { due, awaits_refresh });
    SiteStep::giving_back(state, PauseKind::BeforeARetry, due).with_fact(fact)
}

fn turn_after_pause(
    mut series: Box<AttemptSeries>,
    pause: RetryPause,
    is_lease_lost: bool,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteStep {
    series.deadline += now.saturating_duration_since(pause.due);
    if !is_lease_lost {
        return make_attempt(series, rules, now);
    }
    let give_up = series.deadline.min(now + REDIS_OUTAGE_TIMEOUT);
    SiteStep::new(
        SiteState::ReacquiringLease(series, pause),
        SiteAction::AcquireLease { give_up },
    )
}

/// Ends the site after the last attempt. No further attempt would discover that another run has completed a site that
/// this run has lost.
fn end_series(series: Box<AttemptSeries>, ended: AttemptEnd, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
    match ended.verdict {
        AttemptVerdict::Failed(JobFailure::Lost(_) | JobFailure::Unknown(_)) => {
            let since = series.token;
            SiteStep::new(
                SiteState::CheckingOtherRun(series, Box::new(ended)),
                SiteAction::ReadCompletion { since },
            )
        }
        AttemptVerdict::Failed(_) | AttemptVerdict::Complete(_) | AttemptVerdict::Degraded(_) => {
            conclude(*series, ended, rules, now)
        }
    }
}

/// Reports the best attempt as the end of the site.
fn conclude(mut series: AttemptSeries, ended: AttemptEnd, rules: &SiteRules<'_>, now: Instant) -> SiteStep {
    let AttemptEnd { verdict, counts } = match series.best.take() {
        Some(best) => best.better_of(ended),
        None => ended,
    };
    let status = site_status(&verdict);
    let (reason, cause, warning) = match verdict {
        AttemptVerdict::Complete(warning) => (None, None, warning),
        AttemptVerdict::Degraded(short) => (Some(short.why), Some(short.cause), None),
        AttemptVerdict::Failed(JobFailure::Unknown(reason)) => (Some(reason), None, None),
        AttemptVerdict::Failed(failure) => (
            Some(failure.reason().to_owned()),
            Some(rules.standing.failure_cause()),
            None,
        ),
    };
    let has_yielded = status == SiteStatus::Complete || !counts.has_no_results();
    let completion = (status.is_success() && has_yielded).then(|| SiteCompletion {
        status,
        counts,
        reason: reason.clone(),
    });
    let report = SiteReport {
        status,
        reason,
        cause,
        ..report_of_begun(&series, counts, rules, now)
    };
    let step = release(Box::new(report), completion);
    match warning {
        Some(reason) => {
            let site = rules.site.name.clone();
            step.with_fact(EventKind::SiteResultsUnknown { site, reason })
        }
        None => step,
    }
}

fn stopped(
    series: &AttemptSeries,
    counts: SiteCounts,
    by: &RequestSender,
    rules: &SiteRules<'_>,
    now: Instant,
) -> SiteReport {
    SiteReport {
        reason: Some(stopped_by(by)),
        ..report_of_begun(series, counts, rules, now)
    }
}

/// Reports a site that has begun and is stopped; other ends change the status.
fn report_of_begun(series: &AttemptSeries, counts: SiteCounts, rules: &SiteRules<'_>, now: Instant) -> SiteReport {
    let since = |begun| now.saturating_duration_since(begun);
    SiteReport {
        site: rules.site.name.clone(),
        status: SiteStatus::Cancelled,
        counts,
        elapsed: since(series.begun),
        attempt: series.attempt_begun.map(since),
        attempts: series.attempts_begun,
        reason: None,
        held_by: None,
        dependency: None,
        cause: None,
    }
}
