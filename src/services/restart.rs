//! When a dead service is started again: at once, after a growing delay, or no more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::{RestartPolicy, RestartWhen};
use crate::run::ExitStatus;

/// What to do about a death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after the delay; `attempt` counts restarts in a row from 1.
    Restart { attempt: u32, after: Duration },
    /// Leave it dead: the policy does not want it back after such an end.
    LeaveDead,
    /// Too many restarts within the window.
    GiveUp { restarts: u32 },
}

/// The recent restarts of one service.
#[derive(Clone, Debug, Default)]
pub struct RestartHistory {
    recent: VecDeque<Instant>,
    in_a_row: u32,
}

impl RestartHistory {
    /// Judges a death at `now` of a process that was ready for `ready_for` (None: never became ready).
    ///
    /// `random` in 0.0..1.0 picks the jitter, so that tests and tables can.
    pub fn judge(
        &mut self,
        policy: &RestartPolicy,
        status: ExitStatus,
        ready_for: Option<Duration>,
        now: Instant,
        random: f64,
    ) -> Verdict {
        let wanted = match policy.when {
            RestartWhen::Always => true,
            RestartWhen::OnFailure => status != ExitStatus::Code(0),
            RestartWhen::Never => false,
        };
        if !wanted {
            return Verdict::LeaveDead;
        }
        while self
            .recent
            .front()
            .is_some_and(|then| now.duration_since(*then) > policy.window)
        {
            self.recent.pop_front();
        }
        if self.recent.len() >= policy.limit as usize {
            return Verdict::GiveUp { restarts: policy.limit };
        }
        if ready_for.is_some_and(|ready| ready >= policy.stable) {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        self.recent.push_back(now);
        Verdict::Restart {
            attempt: self.in_a_row,
            after: delay(policy, self.in_a_row, random),
        }
    }
}

/// The delay before restart number `attempt`: none before the first, then doubling up to the bound, jittered.
fn delay(policy: &RestartPolicy, attempt: u32, random: f64) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let factor = 2_u32.saturating_pow(doublings.min(31));
    let base = policy.backoff.saturating_mul(factor).min(policy.backoff_max);
    // Jitter is spread around the base, so that the mean stays what the configuration says.
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
            match history.judge(&policy(), KILLED, Some(Duration::from_secs(1)), start, 0.5) {
                Verdict::Restart { after, .. } => delays.push(after.as_millis()),
                verdict => {
                    assert_eq!(verdict, Verdict::GiveUp { restarts: 5 });
                    break;
                }
            }
        }
        assert_eq!(delays, [0, 250, 500, 1000, 2000]);
    }

    #[test]
    fn a_stable_period_starts_the_backoff_anew_and_the_window_forgets() {
        let mut history = RestartHistory::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            now += Duration::from_secs(100);
            let verdict = history.judge(&policy(), KILLED, Some(Duration::from_secs(99)), now, 0.5);
            assert_eq!(
                verdict,
                Verdict::Restart {
                    attempt: 1,
                    after: Duration::ZERO
                }
            );
        }
    }

    #[test]
    fn the_policy_decides_whether_an_end_was_a_failure() {
        let judge = |when, status| {
            RestartHistory::default().judge(&RestartPolicy { when, ..policy() }, status, None, Instant::now(), 0.5)
        };
        assert_eq!(judge(RestartWhen::OnFailure, ExitStatus::Code(0)), Verdict::LeaveDead);
        assert_ne!(judge(RestartWhen::OnFailure, ExitStatus::Code(1)), Verdict::LeaveDead);
        assert_ne!(judge(RestartWhen::Always, ExitStatus::Code(0)), Verdict::LeaveDead);
        assert_eq!(judge(RestartWhen::Never, KILLED), Verdict::LeaveDead);
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
