//! Decisions about restarts of a service that died or could not be started: at once, after a growing delay, or never.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use orch_config::{RestartPolicy, RestartWhen};
use orch_journal::ExitStatus;

/// The decision after a death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start again after the delay; `attempt` counts consecutive restarts from 1.
    Restart { attempt: u32, after: Duration },
    /// Leave the service dead: the policy asks for no restart after such an end.
    StayDown,
    /// Too many restarts within the window.
    GiveUp { restarts: u32 },
}

/// The recent restarts of one service.
#[derive(Clone, Debug, Default)]
pub struct RestartHistory {
    recent: VecDeque<Instant>,
    in_a_row: u32,
    /// Consecutive restarts after deaths soon after the start: a crash loop.
    early_in_a_row: u32,
    /// Failed starts since the last successful one.
    failed_starts: Option<FailedStarts>,
}

#[derive(Clone, Copy, Debug)]
struct FailedStarts {
    first: Instant,
    count: u32,
}

/// Shorter times of readiness are early deaths. s6 uses the same limit: a process that ran for a second does not loop.
const EARLY_DEATH_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest wait after a failed start: the cause lies outside of the service and needs time to disappear.
const MIN_RETRY_BACKOFF: Duration = Duration::from_millis(100);

impl RestartHistory {
    /// Decides about a death at `now` of a process that was ready for `ready_for` (`None`: never became ready).
    ///
    /// `random` in 0.0..1.0 determines the jitter, so that tests can choose the delay.
    pub fn decide(
        &mut self,
        policy: &RestartPolicy,
        status: ExitStatus,
        ready_for: Option<Duration>,
        now: Instant,
        random: f64,
    ) -> RestartDecision {
        let is_restart_wanted = match policy.when {
            RestartWhen::Always => true,
            RestartWhen::OnFailure => status != ExitStatus::Code(0),
            RestartWhen::Never => false,
        };
        if !is_restart_wanted {
            return RestartDecision::StayDown;
        }
        while self
            .recent
            .front()
            .is_some_and(|then| now.duration_since(*then) > policy.window)
        {
            self.recent.pop_front();
        }
        if self.recent.len() >= policy.limit as usize {
            return RestartDecision::GiveUp { restarts: policy.limit };
        }
        if ready_for.is_some_and(|ready| ready >= policy.stable) {
            self.in_a_row = 0;
            self.early_in_a_row = 0;
        }
        self.in_a_row += 1;
        self.recent.push_back(now);
        // The backoff slows a crash loop down. A service that was ready for a while is restarted at once; the limit
        // still counts the restart.
        let after = if ready_for.is_some_and(|ready| ready >= EARLY_DEATH_TIMEOUT.min(policy.stable)) {
            Duration::ZERO
        } else {
            self.early_in_a_row += 1;
            delay(policy, self.early_in_a_row, random)
        };
        RestartDecision::Restart {
            attempt: self.in_a_row,
            after,
        }
    }

    /// Decides about a start that failed at `now` before there was a process: the program is being replaced, the disk
    /// is full, no process is allowed.
    ///
    /// No process has died, so the failure does not count as a restart. The service is given up after `limit`
    /// consecutive failures that span at least `stable`: the cause is outside of the service, and often disappears
    /// within seconds.
    pub fn decide_failed_start(&mut self, policy: &RestartPolicy, now: Instant, random: f64) -> RestartDecision {
        let failed = self.failed_starts.get_or_insert(FailedStarts { first: now, count: 0 });
        if failed.count >= policy.limit && (policy.limit == 0 || now.duration_since(failed.first) >= policy.stable) {
            return RestartDecision::GiveUp { restarts: failed.count };
        }
        failed.count = failed.count.saturating_add(1);
        RestartDecision::Restart {
            attempt: failed.count,
            after: delay(policy, failed.count.saturating_add(1), random).max(MIN_RETRY_BACKOFF),
        }
    }

    /// Records that a start succeeded: there is a process.
    pub fn started(&mut self) {
        self.failed_starts = None;
    }
}

/// Returns the delay after early death number `attempt`: zero after the first, then doubling up to the maximum, with
/// jitter.
fn delay(policy: &RestartPolicy, attempt: u32, random: f64) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let factor = 2_u32.saturating_pow(doublings.min(31));
    let base = policy.backoff.saturating_mul(factor).min(policy.backoff_max);
    // Jitter is centred on the base, so the mean is the configured value.
    let spread = policy.jitter.clamp(0.0, 1.0) * (random - 0.5);
    base.mul_f64(1.0 + spread)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RestartPolicy {
        RestartPolicy {
            when: RestartWhen::Always,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            jitter: 0.2,
            limit: 5,
            window: Duration::from_secs(300),
            stable: Duration::from_secs(30),
        }
    }

    const KILLED: ExitStatus = ExitStatus::Signal {
        signal: 9,
        core_dumped: false,
    };

    #[test]
    fn first_is_immediate_then_the_delay_doubles_until_it_gives_up() {
        let mut history = RestartHistory::default();
        let start = Instant::now();
        let mut delays = Vec::new();
        loop {
            match history.decide(&policy(), KILLED, Some(Duration::from_millis(999)), start, 0.5) {
                RestartDecision::Restart { after, .. } => delays.push(after.as_millis()),
                verdict => {
                    assert_eq!(verdict, RestartDecision::GiveUp { restarts: 5 });
                    break;
                }
            }
        }
        assert_eq!(delays, [0, 250, 500, 1000, 2000]);
    }

    #[test]
    fn a_service_that_was_ready_for_a_while_is_restarted_at_once_and_still_counts() {
        // Each row: times of readiness at consecutive deaths in ms (`None`: never ready), and the delays that follow.
        let rows: [(&[Option<u64>], &[u128]); 5] = [
            (&[Some(1000), Some(1500), Some(29_999), Some(1000)], &[0, 0, 0, 0]),
            (&[Some(10), Some(10), Some(10)], &[0, 250, 500]),
            (&[None, None, Some(1000), None], &[0, 250, 0, 500]),
            (&[Some(1000), None, None], &[0, 0, 250]),
            (&[None, None, Some(30_000), None, None], &[0, 250, 0, 0, 250]),
        ];
        for (ready, expected) in rows {
            let mut history = RestartHistory::default();
            let now = Instant::now();
            let delays: Vec<u128> = ready
                .iter()
                .map(|ready| {
                    let ready = ready.map(Duration::from_millis);
                    match history.decide(&policy(), KILLED, ready, now, 0.5) {
                        RestartDecision::Restart { after, .. } => after.as_millis(),
                        verdict => panic!("{ready:?}: {verdict:?}"),
                    }
                })
                .collect();
            assert_eq!(delays, expected, "{ready:?}");
        }
        let mut history = RestartHistory::default();
        let now = Instant::now();
        for _ in 0..5 {
            history.decide(&policy(), KILLED, Some(Duration::from_secs(2)), now, 0.5);
        }
        let verdict = history.decide(&policy(), KILLED, Some(Duration::from_secs(2)), now, 0.5);
        assert_eq!(verdict, RestartDecision::GiveUp { restarts: 5 });
    }

    #[test]
    fn a_stable_period_resets_the_backoff_and_old_restarts_leave_the_window() {
        let mut history = RestartHistory::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            now += Duration::from_secs(100);
            let verdict = history.decide(&policy(), KILLED, Some(Duration::from_secs(99)), now, 0.5);
            assert_eq!(
                verdict,
                RestartDecision::Restart {
                    attempt: 1,
                    after: Duration::ZERO
                }
            );
        }
    }

    #[test]
    fn the_policy_decides_whether_an_end_was_a_failure() {
        let judge = |when, status| {
            RestartHistory::default().decide(&RestartPolicy { when, ..policy() }, status, None, Instant::now(), 0.5)
        };
        assert_eq!(
            judge(RestartWhen::OnFailure, ExitStatus::Code(0)),
            RestartDecision::StayDown
        );
        assert_ne!(
            judge(RestartWhen::OnFailure, ExitStatus::Code(1)),
            RestartDecision::StayDown
        );
        assert_ne!(
            judge(RestartWhen::Always, ExitStatus::Code(0)),
            RestartDecision::StayDown
        );
        assert_eq!(judge(RestartWhen::Never, KILLED), RestartDecision::StayDown);
    }

    #[test]
    fn a_start_that_fails_is_tried_for_as_long_as_a_passing_cause_lasts() {
        let mut history = RestartHistory::default();
        let begin = Instant::now();
        let mut now = begin;
        let mut delays = Vec::new();
        while let RestartDecision::Restart { attempt, after } = history.decide_failed_start(&policy(), now, 0.5) {
            delays.push(after.as_millis());
            assert_eq!(attempt as usize, delays.len());
            now += after;
        }
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16000]);
        assert!(now - begin >= policy().stable);

        // A successful start ends the series, and failed starts are not deaths.
        history.started();
        assert_eq!(
            history.decide(&policy(), KILLED, None, now, 0.5),
            RestartDecision::Restart {
                attempt: 1,
                after: Duration::ZERO
            }
        );
        let first = history.decide_failed_start(&policy(), now, 0.5);
        assert!(
            matches!(first, RestartDecision::Restart { attempt: 1, .. }),
            "{first:?}"
        );
    }

    #[test]
    fn a_failed_start_follows_the_limit_and_never_spins() {
        let judge = |policy: RestartPolicy, times: u32| {
            let mut history = RestartHistory::default();
            let mut now = Instant::now();
            let mut last = RestartDecision::StayDown;
            for _ in 0..times {
                last = history.decide_failed_start(&policy, now, 0.5);
                now += policy.stable;
            }
            last
        };
        let none = RestartPolicy { limit: 0, ..policy() };
        assert_eq!(judge(none, 1), RestartDecision::GiveUp { restarts: 0 });
        let one = RestartPolicy { limit: 1, ..policy() };
        assert!(matches!(judge(one, 1), RestartDecision::Restart { .. }));
        assert_eq!(judge(one, 2), RestartDecision::GiveUp { restarts: 1 });
        let no_backoff = RestartPolicy {
            backoff: Duration::ZERO,
            ..policy()
        };
        assert_eq!(
            judge(no_backoff, 1),
            RestartDecision::Restart {
                attempt: 1,
                after: MIN_RETRY_BACKOFF
            }
        );
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(attempt in 1_u32..200, random in 0.0_f64..1.0, jitter in 0.0_f64..=1.0) {
            let policy = RestartPolicy { jitter, ..policy() };
            let after = delay(&policy, attempt, random);
            prop_assert!(after <= policy.backoff_max.mul_f64(1.5));
        }
    }
}
