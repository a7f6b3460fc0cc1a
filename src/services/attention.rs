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
    /// This process was there all the time.
    pub attended: bool,
}

/// Waits, with a look at the clock now and then.
pub async fn attend<F: Future>(work: F) -> Waited<F::Output> {
    let mut work = pin!(work);
    let mut attended = true;
    let mut next_look = Instant::now() + LOOK_EVERY;
    loop {
        let output = tokio::select! {
            output = &mut work => Some(output),
            () = sleep_until(next_look) => None,
        };
        let now = Instant::now();
        attended &= now < next_look + TOO_LATE;
        next_look = now + LOOK_EVERY;
        if let Some(output) = output {
            return Waited { output, attended };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> Waited<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(attend(work))
    }

    #[test]
    fn a_long_wait_is_attended() {
        // A busy machine may keep one of them from its looks.
        let mut tries = (0..20).map(|_| run(async { tokio::time::sleep(LOOK_EVERY * 3).await }));
        assert!(tries.any(|waited| waited.attended));
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
        assert!(!kept.attended);
        let kept = run(async { std::thread::park_timeout(LOOK_EVERY + TOO_LATE * 2) });
        assert!(!kept.attended);
    }
}
