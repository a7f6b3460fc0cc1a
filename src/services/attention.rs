//! Whether this process was there while it waited for an answer. One that was stopped (SIGSTOP, a machine that thrashes or
//! sleeps) finds its deadline over and the answer unread: that is nobody's silence but its own.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// From one look at the clock to the next.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look that comes so much too late was kept from coming.
const TOO_LATE: Duration = Duration::from_millis(400);

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited<T> {
    pub output: T,
    /// For so long this process was not there.
    pub away: Duration,
}

/// Waits, with a look at the clock now and then; `since` is when the work's deadlines began to count.
pub async fn attend<F: Future>(since: Instant, work: F) -> Waited<F::Output> {
    let mut work = pin!(work);
    let mut away = Duration::ZERO;
    let mut next_look = since + LOOK_EVERY;
    loop {
        let output = tokio::select! {
            output = &mut work => Some(output),
            () = sleep_until(next_look) => None,
        };
        let now = Instant::now();
        let late = now.saturating_duration_since(next_look);
        if late >= TOO_LATE {
            away += late;
        }
        next_look = now + LOOK_EVERY;
        if let Some(output) = output {
            return Waited { output, away };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_kept_from_beginning_was_not_there_either() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let long_ago = Instant::now() - TOO_LATE * 2;
        assert!(!runtime.unwrap().block_on(attend(long_ago, async {})).away.is_zero());
    }

    fn run<T>(work: impl Future<Output = T>) -> Waited<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(attend(Instant::now(), work))
    }

    #[test]
    fn a_long_wait_is_attended() {
        // A busy machine may keep one of them from its looks.
        let mut tries = (0..20).map(|_| run(async { tokio::time::sleep(LOOK_EVERY * 3).await }));
        assert!(tries.any(|waited| waited.away.is_zero()));
        assert_eq!(run(async { 7 }).output, 7);
    }

    #[test]
    fn who_is_kept_from_looking_was_not_there() {
        // As a stop does it: nothing of the runtime goes on.
        let kept = run(async {
            tokio::time::sleep(LOOK_EVERY).await;
            std::thread::park_timeout(LOOK_EVERY + TOO_LATE * 2);
            tokio::time::sleep(LOOK_EVERY).await;
        });
        assert!(kept.away >= TOO_LATE, "{kept:?}");
        let kept = run(async { std::thread::park_timeout(LOOK_EVERY + TOO_LATE * 2) });
        assert!(kept.away >= TOO_LATE, "{kept:?}");
    }
}
