//! Decision whether and when a failed or degraded site is tried again.

use std::time::Duration;

use crate::jobs::JobFailure;

/// Returns the pause before the next attempt; `None` if no attempt follows.
///
/// `failure` is `None` for a degraded attempt. `attempt` is the number of the attempt that has ended, 1 for the first.
/// The pause doubles with each attempt. An attempt that could begin only after the site's deadline (`left` from now) is
/// not begun, and a timeout is not retried.
pub fn pause_before_retry(
    failure: Option<&JobFailure>,
    attempt: u32,
    retries: u32,
    backoff: Duration,
    left: Duration,
) -> Option<Duration> {
    match failure {
        Some(JobFailure::TimedOut(_) | JobFailure::Unhealthy { may_retry: false, .. }) => return None,
        Some(
            JobFailure::Reported(_)
            | JobFailure::Lost(_)
            | JobFailure::Unknown(_)
            | JobFailure::Unhealthy { may_retry: true, .. },
        )
        | None => {}
    }
    if attempt > retries {
        return None;
    }
    let pause = backoff.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1)));
    (pause < left).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_never_outlive_the_deadline() {
        let reported = JobFailure::Reported("x".into());
        let lost = JobFailure::Lost("x".into());
        let late = JobFailure::TimedOut("x".into());
        let unhealthy = |may_retry| JobFailure::Unhealthy {
            reason: "x".into(),
            may_retry,
        };
        let seconds = Duration::from_secs;
        for (failure, attempt, retries, left, pause) in [
            (Some(&reported), 1, 0, 1000, None),
            (Some(&reported), 1, 1, 1000, Some(10)),
            (Some(&lost), 1, 3, 1000, Some(10)),
            (Some(&lost), 2, 3, 1000, Some(20)),
            (Some(&lost), 3, 3, 1000, Some(40)),
            (Some(&lost), 4, 3, 1000, None),
            (Some(&reported), 3, 3, 40, None),
            (Some(&late), 1, 3, 1000, None),
            (Some(&unhealthy(true)), 1, 3, 1000, Some(10)),
            (Some(&unhealthy(true)), 4, 3, 1000, None),
            (Some(&unhealthy(false)), 1, 3, 1000, None),
            (None, 1, 1, 1000, Some(10)),
            (None, 1, 0, 1000, None),
            (None, 2, 2, 15, None),
            (Some(&reported), 200, 300, u64::MAX, Some(10 * u64::from(u32::MAX))),
        ] {
            let found = pause_before_retry(failure, attempt, retries, seconds(10), seconds(left));
            assert_eq!(
                found,
                pause.map(seconds),
                "{failure:?}, attempt {attempt} of {retries} retries, {left} s left"
            );
        }
    }
}
