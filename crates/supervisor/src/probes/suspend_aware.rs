//! Detection of a suspended orch. A process that was suspended (SIGSTOP, a machine that thrashes or sleeps) finds the
//! deadline over and the answer unread; the service is not to blame for that.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Interval between two looks at the clock.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Delay of a look from which on orch counts as suspended.
const SUSPENDED_DELAY: Duration = Duration::from_millis(400);

/// The output of a future, with the time in which orch was suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuspendAwareOutput<T> {
    pub output: T,
    /// Time in which this process was suspended.
    pub suspended_for: Duration,
}

/// Awaits the future with regular looks at the clock; `since` is the start of the future's deadlines.
pub async fn run_suspend_aware<F: Future>(since: Instant, work: F) -> SuspendAwareOutput<F::Output> {
    let mut work = pin!(work);
    let mut suspended_for = Duration::ZERO;
    let mut next_look = since + LOOK_INTERVAL;
    loop {
        let output = tokio::select! {
            output = &mut work => Some(output),
            () = sleep_until(next_look) => None,
        };
        let now = Instant::now();
        let late = now.saturating_duration_since(next_look);
        if late >= SUSPENDED_DELAY {
            suspended_for += late;
        }
        next_look = now + LOOK_INTERVAL;
        if let Some(output) = output {
            return SuspendAwareOutput { output, suspended_for };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_before_the_first_look_counts() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let long_ago = Instant::now() - SUSPENDED_DELAY * 2;
        assert!(
            !runtime
                .unwrap()
                .block_on(run_suspend_aware(long_ago, async {}))
                .suspended_for
                .is_zero()
        );
    }

    fn run<T>(work: impl Future<Output = T>) -> SuspendAwareOutput<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(run_suspend_aware(Instant::now(), work))
    }

    #[test]
    fn a_long_wait_is_no_suspension() {
        // A busy machine may delay the looks of one try.
        let mut tries = (0..20).map(|_| run(async { tokio::time::sleep(LOOK_INTERVAL * 3).await }));
        assert!(tries.any(|waited| waited.suspended_for.is_zero()));
        assert_eq!(run(async { 7 }).output, 7);
    }

    #[test]
    fn a_blocked_runtime_counts_as_a_suspension() {
        // A blocked thread acts like a suspension: nothing of the runtime continues.
        let waited = run(async {
            tokio::time::sleep(LOOK_INTERVAL).await;
            std::thread::park_timeout(LOOK_INTERVAL + SUSPENDED_DELAY * 2);
            tokio::time::sleep(LOOK_INTERVAL).await;
        });
        assert!(waited.suspended_for >= SUSPENDED_DELAY, "{waited:?}");
        let waited = run(async { std::thread::park_timeout(LOOK_INTERVAL + SUSPENDED_DELAY * 2) });
        assert!(waited.suspended_for >= SUSPENDED_DELAY, "{waited:?}");
    }
}
