//! Properties of a site's state, for every order of answers, turns and stop requests.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::site_state::{AttemptOrder, SiteAction, SiteInput, SiteNext, SiteRules, SiteState};
use super::template_values::tests::site as any_config;
use crate::jobs::JobFailure;
use crate::sites::lease::{CompletionRecord, LeaseHolder, LeaseOccupant, LeaseRefusal, SiteCompletion};
use crate::sites::policy::circuit_breaker::BreakerState;
use crate::sites::policy::standing::SiteStanding;
use crate::sites::report::SiteReport;
use orch_config::{DegradedAction, LossAction, SiteConfig};
use orch_journal::{RequestSender, SiteCounts, SiteStatus};

/// Number of inputs after which a run without an end counts as endless; other runs hold the lease at most until then.
const MOST_INPUTS: usize = 400;

/// Settings of one random run of a site.
#[derive(Clone, Debug)]
struct RandomLife {
    config: SiteConfig,
    is_half_open: bool,
    earlier_attempt: Option<u32>,
    earlier_token: Option<u64>,
    wait: Duration,
    /// Numbers that choose the answers.
    choices: Vec<u8>,
}

fn any_site() -> impl Strategy<Value = RandomLife> {
    let degraded = prop_oneof![
        Just(DegradedAction::Retry),
        Just(DegradedAction::Warn),
        Just(DegradedAction::Fail),
        Just(DegradedAction::RefreshProxies),
    ];
    let lost = prop_oneof![Just(LossAction::Retry), Just(LossAction::Finish)];
    let earlier = proptest::option::of((1u32..4, any::<bool>()));
    (
        (0u32..4, 0u64..30, 1u64..200),
        (degraded, lost, any::<bool>()),
        (earlier, any::<bool>()),
        0u64..20,
        proptest::collection::vec(any::<u8>(), 1..60),
    )
        .prop_map(
            |(
                (retries, backoff, timeout),
                (on_degraded, on_lost, is_half_open),
                (earlier, has_token),
                wait,
                choices,
            )| {
                RandomLife {
                    config: SiteConfig {
                        retries,
                        retry_backoff: Duration::from_secs(backoff),
                        timeout: orch_config::SiteTimeout::Fixed(Duration::from_secs(timeout)),
                        on_degraded,
                        on_lost,
                        ..any_config(json!({}))
                    },
                    is_half_open,
                    earlier_attempt: earlier.map(|(attempt, _)| attempt),
                    earlier_token: (earlier.is_some() || has_token).then_some(5),
                    wait: Duration::from_secs(wait),
                    choices,
                }
            },
        )
}

fn holder() -> LeaseHolder {
    LeaseHolder {
        host: "h".to_owned(),
        pid: 7,
        run_id: "other".into(),
        started_at: 0,
        lock: None,
    }
}

fn requester() -> RequestSender {
    RequestSender {
        pid: 12,
        user: "alice".to_owned(),
    }
}

/// World around the state of the site, which knows the truth about the lease and the attempts.
struct SiteWorld {
    choices: std::iter::Cycle<std::vec::IntoIter<u8>>,
    now: Instant,
    wait_until: Instant,
    deadline: Instant,
    next_token: u64,
    /// Token of the lease that the site has not released.
    held: Option<u64>,
    is_lost: bool,
    attempts: Vec<AttemptOrder>,
    /// Success of the last attempt.
    last_succeeded: Option<bool>,
    is_stopped: bool,
    completed_by_other: bool,
    completions: Vec<Option<SiteCompletion>>,
}

impl SiteWorld {
    fn choose(&mut self, below: u8) -> u8 {
        self.choices.next().unwrap_or(0) % below
    }

    fn wait(&mut self, seconds: u8) {
        let waited = Duration::from_secs(self.choose(seconds).into());
        self.now += waited;
    }

    /// Answers an action with one of the inputs that its documentation names.
    fn answer(&mut self, action: SiteAction) -> SiteInput {
        match action {
            SiteAction::AcquireLease { give_up } => {
                assert!(give_up <= self.now + Duration::from_secs(60));
                self.wait(3);
                match self.choose(6) {
                    0 if self.now < self.deadline => {
                        SiteInput::LeaseRefused(LeaseRefusal::Held(LeaseOccupant::Run(holder())))
                    }
                    1 => {
                        let (action, endpoint) = ("acquire".to_owned(), "redis".to_owned());
                        let error = orch_celery::Error::Loading { action, endpoint };
                        SiteInput::LeaseRefused(LeaseRefusal::Unreachable(error))
                    }
                    _ => {
                        self.next_token += 1;
                        self.held = Some(self.next_token);
                        self.is_lost = false;
                        SiteInput::LeaseAcquired { token: self.next_token }
                    }
                }
            }
            SiteAction::ReadCompletion { since } => {
                assert!(since <= self.next_token.max(5));
                let is_completed = self.choose(8) == 0;
                self.completed_by_other |= is_completed;
                SiteInput::CompletionRead(is_completed.then(|| CompletionRecord {
                    token: since + 1,
                    by: holder(),
                    completion: SiteCompletion {
                        status: SiteStatus::Complete,
                        counts: SiteCounts::default(),
                        reason: None,
                    },
                }))
            }
            SiteAction::EndEarlierJob => SiteInput::EarlierJobEnded,
            SiteAction::MakeAttempt(order) => self.attempt(order),
            SiteAction::RequestRefresh => SiteInput::RefreshRequested {
                awaits_refresh: self.choose(2) == 0,
            },
            SiteAction::EndWork => {
                assert!(self.is_stopped, "work is ended without a stop request");
                SiteInput::WorkEnded {
                    counts: SiteCounts::default(),
                }
            }
            SiteAction::ReleaseLease(completion) => {
                assert!(self.held.take().is_some(), "a lease is released that is not held");
                self.completions.push(completion);
                SiteInput::LeaseReleased
            }
        }
    }

    fn attempt(&mut self, order: AttemptOrder) -> SiteInput {
        assert_eq!(self.held, Some(order.token), "an attempt without the lease");
        assert!(!self.is_lost, "an attempt after the loss of the lease");
        if let Some(until) = order.ends_at_loss_until {
            assert!(until <= order.deadline);
        }
        self.attempts.push(order);
        self.wait(20);
        let reason = "x".to_owned();
        let failure = match self.choose(10) {
            0 => {
                self.is_stopped = true;
                return SiteInput::StopRequested(requester());
            }
            1 => Some(JobFailure::Reported(reason)),
            2 => Some(JobFailure::Lost(reason)),
            3 => Some(JobFailure::Unknown(reason)),
            4 => Some(JobFailure::TimedOut(reason)),
            5 => Some(JobFailure::Unhealthy {
                reason,
                may_retry: self.choose(2) == 0,
            }),
            _ => None,
        };
        self.last_succeeded = Some(failure.is_none());
        let counts = SiteCounts {
            results: Some(self.choose(2).into()),
            ..SiteCounts::default()
        };
        SiteInput::AttemptEnded { failure, counts }
    }

    /// Returns the next input of a site without a turn.
    fn turn(&mut self) -> SiteInput {
        self.wait(5);
        if self.choose(12) == 0 {
            self.is_stopped = true;
            return SiteInput::StopRequested(requester());
        }
        self.is_lost |= self.held.is_some() && self.choose(4) == 0;
        SiteInput::TurnBegun {
            is_lease_lost: self.is_lost,
            awaits_refresh: self.choose(3) == 0,
        }
    }
}

/// Runs the site to the end.
fn run(random: &RandomLife) -> (SiteWorld, Box<SiteReport>, SiteState) {
    let start = Instant::now();
    let mut standing = SiteStanding::default();
    if random.is_half_open {
        standing.breaker = BreakerState::HalfOpen;
    }
    let mut world = SiteWorld {
        choices: random.choices.clone().into_iter().cycle(),
        now: start,
        wait_until: start + random.wait,
        deadline: start + Duration::from_secs(MOST_INPUTS as u64),
        next_token: 10,
        held: None,
        is_lost: false,
        attempts: Vec::new(),
        last_succeeded: None,
        is_stopped: false,
        completed_by_other: false,
        completions: Vec::new(),
    };
    let rules = SiteRules {
        site: &random.config,
        standing: &standing,
        earlier_attempt: random.earlier_attempt,
        earlier_token: random.earlier_token,
        wait_until: world.wait_until,
    };
    let mut state = SiteState::new();
    let mut input = world.turn();
    for _ in 0..MOST_INPUTS {
        let step = state.step(input, &rules, world.now);
        state = step.state;
        input = match step.next {
            SiteNext::Perform(action) => world.answer(action),
            SiteNext::GiveTurnBack(_, until) => {
                assert!(until >= world.now, "a turn is given back until a time in the past");
                assert!(
                    matches!(state, SiteState::NotBegun { .. } | SiteState::Pausing(..)),
                    "{state:?} has no turn"
                );
                world.now = until;
                world.turn()
            }
            SiteNext::Report(report) => return (world, report, state),
        };
    }
    // Choices that repeat may refuse the lease for ever, or ask for a refresh that never ends.
    let report = SiteReport::stopped(&random.config.name, &requester());
    (world, Box::new(report), state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_site_ends_once_without_a_lease_and_with_the_status_of_its_work(random in any_site()) {
        let (world, report, state) = run(&random);
        let SiteState::Ended(status) = state else {
            return Ok(());
        };
        prop_assert_eq!(report.status, status);
        let reason = report.reason.clone().unwrap_or_default();
        prop_assert!(!reason.contains("internal error"), "{}", reason);
        prop_assert_eq!(world.held, None, "the lease is held beyond the end");
        prop_assert!(world.completions.len() <= 1, "the lease is released twice");
        if let Some(Some(completion)) = world.completions.first() {
            prop_assert_eq!(completion.status, status);
            prop_assert!(status.is_success());
        }
        match status {
            SiteStatus::Cancelled => prop_assert!(world.is_stopped),
            SiteStatus::Complete => prop_assert!(world.completed_by_other || world.last_succeeded == Some(true)),
            SiteStatus::Degraded => prop_assert!(!world.is_stopped && world.last_succeeded.is_some()),
            SiteStatus::Failed | SiteStatus::Unknown => {
                prop_assert!(!world.is_stopped && !world.completed_by_other);
                prop_assert!(report.reason.is_some(), "no reason");
            }
            SiteStatus::Skipped => prop_assert!(false, "only the schedule skips a site"),
        }
        if world.is_stopped {
            prop_assert_eq!(status, SiteStatus::Cancelled);
        }
    }

    #[test]
    fn attempts_are_numbered_without_gaps_and_bounded_by_the_retries(random in any_site()) {
        let (world, ..) = run(&random);
        let first = random.earlier_attempt.unwrap_or(1);
        for (index, order) in world.attempts.iter().enumerate() {
            prop_assert_eq!(order.number as usize, first as usize + index);
            prop_assert_eq!(order.picks_up, index == 0 && random.earlier_attempt.is_some());
            prop_assert!(world.attempts.windows(2).all(|pair| pair[0].deadline <= pair[1].deadline));
        }
        let retries = if random.is_half_open { 0 } else { random.config.retries as usize };
        // The job of an earlier run costs no attempt.
        let most = 1 + retries + usize::from(random.earlier_attempt.is_some());
        prop_assert!(world.attempts.len() <= most, "{} attempts with {retries} retries", world.attempts.len());
    }
}

#[test]
fn an_answer_to_no_action_ends_the_site_as_unknown() {
    let config = any_config(json!({}));
    let standing = SiteStanding::default();
    let now = Instant::now();
    let rules = SiteRules {
        site: &config,
        standing: &standing,
        earlier_attempt: None,
        earlier_token: None,
        wait_until: now,
    };
    let step = SiteState::new().step(SiteInput::LeaseReleased, &rules, now);
    assert_eq!(step.state, SiteState::Ended(SiteStatus::Unknown));
    let SiteNext::Report(report) = step.next else {
        panic!("{:?}", step.next)
    };
    assert_eq!(
        report.reason.as_deref(),
        Some("internal error: LeaseReleased does not fit the state NotBegun; the site's work was not checked")
    );
}
