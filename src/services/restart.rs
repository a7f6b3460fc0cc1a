//! When a dead service, or one that could not be started again, is tried again: at once, after a growing delay, or no more.

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
    /// Those of them that came soon after the start: a crash loop.
    early_in_a_row: u32,
    /// Starts that failed since the last one that succeeded.
    failed_starts: Option<FailedStarts>,
}

#[derive(Clone, Copy, Debug)]
struct FailedStarts {
    first: Instant,
    count: u32,
}

/// What was ready for less than this has died early. s6 draws the same line: what ran for a second does not loop.
const EARLY_DEATH_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest wait after a start that failed: its cause lies outside of the service and needs time to go away.
const MIN_RETRY_BACKOFF: Duration = Duration::from_millis(100);

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
            self.early_in_a_row = 0;
        }
        self.in_a_row += 1;
        self.recent.push_back(now);
        // The backoff slows a crash loop down. What has served for a while is wanted back at once; the limit still counts it.
        let after = if ready_for.is_some_and(|ready| ready >= EARLY_DEATH_TIMEOUT.min(policy.stable)) {
            Duration::ZERO
        } else {
            self.early_in_a_row += 1;
            delay(policy, self.early_in_a_row, random)
        };
        Verdict::Restart {
            attempt: self.in_a_row,
            after,
        }
    }

    /// Judges a start that failed at `now` before there was a process: the program is being replaced, the disk is full,
    /// no process is allowed.
    ///
    /// Nothing has died, so it does not count as a restart. It is given up after `limit` failures in a row that span at
    /// least `stable`: the cause is outside of the service, and often passes within seconds.
    pub fn judge_failed_start(&mut self, policy: &RestartPolicy, now: Instant, random: f64) -> Verdict {
        let failed = self.failed_starts.get_or_insert(FailedStarts { first: now, count: 0 });
        if failed.count >= policy.limit && (policy.limit == 0 || now.duration_since(failed.first) >= policy.stable) {
            return Verdict::GiveUp { restarts: failed.count };
        }
        failed.count = failed.count.saturating_add(1);
        Verdict::Restart {
            attempt: failed.count,
            after: delay(policy, failed.count.saturating_add(1), random).max(MIN_RETRY_BACKOFF),
        }
    }

    /// Notes that a start succeeded: there is a process.
    pub fn started(&mut self) {
        self.failed_starts = None;
    }
}

/// The delay after early death number `attempt`: none after the first, then doubling up to the bound, jittered.
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
            match history.judge(&policy(), KILLED, Some(Duration::from_millis(999)), start, 0.5) {
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
    fn what_was_ready_for_a_while_is_restarted_at_once_and_still_counts() {
        // Each row: how long it was ready at its deaths in a row, in ms (None: never ready), and the delays that follow.
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
                    match history.judge(&policy(), KILLED, ready, now, 0.5) {
                        Verdict::Restart { after, .. } => after.as_millis(),
                        verdict => panic!("{ready:?}: {verdict:?}"),
                    }
                })
                .collect();
            assert_eq!(delays, expected, "{ready:?}");
        }
        let mut history = RestartHistory::default();
        let now = Instant::now();
        for _ in 0..5 {
            history.judge(&policy(), KILLED, Some(Duration::from_secs(2)), now, 0.5);
        }
        let verdict = history.judge(&policy(), KILLED, Some(Duration::from_secs(2)), now, 0.5);
        assert_eq!(verdict, Verdict::GiveUp { restarts: 5 });
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

    #[test]
    fn a_start_that_fails_is_tried_for_as_long_as_a_passing_cause_lasts() {
        let mut history = RestartHistory::default();
        let begin = Instant::now();
        let mut now = begin;
        let mut delays = Vec::new();
        while let Verdict::Restart { attempt, after } = history.judge_failed_start(&policy(), now, 0.5) {
            delays.push(after.as_millis());
            assert_eq!(attempt as usize, delays.len());
            now += after;
        }
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16000]);
        assert!(now - begin >= policy().stable);

        // A start that succeeds ends the row, and failed starts are no deaths.
        history.started();
        assert_eq!(
            history.judge(&policy(), KILLED, None, now, 0.5),
            Verdict::Restart {
                attempt: 1,
                after: Duration::ZERO
            }
        );
        let first = history.judge_failed_start(&policy(), now, 0.5);
        assert!(matches!(first, Verdict::Restart { attempt: 1, .. }), "{first:?}");
    }

    #[test]
    fn a_failed_start_follows_the_limit_and_never_spins() {
        let judge = |policy: RestartPolicy, times: u32| {
            let mut history = RestartHistory::default();
            let mut now = Instant::now();
            let mut last = Verdict::LeaveDead;
            for _ in 0..times {
                last = history.judge_failed_start(&policy, now, 0.5);
                now += policy.stable;
            }
            last
        };
        let none = RestartPolicy { limit: 0, ..policy() };
        assert_eq!(judge(none, 1), Verdict::GiveUp { restarts: 0 });
        let one = RestartPolicy { limit: 1, ..policy() };
        assert!(matches!(judge(one, 1), Verdict::Restart { .. }));
        assert_eq!(judge(one, 2), Verdict::GiveUp { restarts: 1 });
        let no_backoff = RestartPolicy {
            backoff: Duration::ZERO,
            ..policy()
        };
        assert_eq!(
            judge(no_backoff, 1),
            Verdict::Restart {
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
