//! Waits for conditions that no event announces, such as a key in Redis or a state below `/proc`. The only polls of the tests
//! are here. Waits for the end of a process and for changes of files are in `watch.rs`.

use std::panic::Location;
use std::time::{Duration, Instant};

/// Time from one evaluation of a condition to the next.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` returns a value.
///
/// # Panics
/// The condition returns none before `timeout`; the message is `what`.
#[track_caller]
pub fn until<T>(what: &str, timeout: Duration, condition: impl FnMut() -> Option<T>) -> T {
    within(timeout, condition).unwrap_or_else(|| panic!("not within {timeout:?}: {what}"))
}

/// Waits until `condition` returns a value; returns `None` after `timeout`, for callers that describe the failure themselves.
pub fn within<T>(timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        // Read before the condition is evaluated: the last evaluation is not earlier than the deadline.
        let is_over = Instant::now() >= deadline;
        let value = condition();
        if value.is_some() || is_over {
            return value;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits as [`until`] does, while the other tasks of the runtime run.
///
/// # Panics
/// The condition returns no value before `timeout`; the message is `what`, with the place of the call.
#[track_caller]
pub fn until_async<T>(
    what: &str,
    timeout: Duration,
    condition: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let value = within_async(timeout, condition).await;
        value.unwrap_or_else(|| panic!("{caller}: not within {timeout:?}: {what}"))
    }
}

/// Waits as [`within`] does, while the other tasks of the runtime run.
pub async fn within_async<T>(timeout: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let is_over = Instant::now() >= deadline;
        let value = condition().await;
        if value.is_some() || is_over {
            return value;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
