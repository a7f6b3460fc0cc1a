//! Pauses that are part of the schedule of a fault or of a load, such as the length of a suspension. A pause is an
//! input of such a test: it does not wait for anything. A test that waits uses [`super::wait`] or [`super::watch`].

use std::time::{Duration, Instant};

/// Pauses until a moment of the schedule; returns at once when the moment has passed.
pub fn pause_until(moment: Instant) {
    let left = moment.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

/// Pauses for a part of the schedule, while the other tasks of the runtime run.
pub async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}
