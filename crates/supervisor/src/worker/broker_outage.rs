//! Outages of the broker as a reason why a worker does not answer: the worker may be waiting to connect again.
//!
//! After a lost connection a worker tries again after 2 seconds, then after 4, 6 and so on up to 30. In between the
//! worker does not notice that the broker is back (kombu's `ensure_connection`, with its defaults). A restart would
//! only end tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orch_celery::Client;

/// Increase and maximum of the wait between two attempts of a worker to connect.
const RETRY_STEP_BACKOFF: Duration = Duration::from_secs(2);
const MAX_RETRY_BACKOFF: Duration = Duration::from_secs(30);
/// Time for a worker to connect and to consume; a worker also notices an outage later than orch.
const RECONNECT_GRACE: Duration = Duration::from_secs(8);

/// The broker's outages as seen for one worker process, kept between liveness probes.
#[derive(Default)]
pub struct BrokerOutage(Mutex<OutageState>);

#[derive(Default)]
struct OutageState {
    /// The last outage, until the worker answers.
    outage: Option<OutagePeriod>,
    /// The run id of the server through which the worker answered; the id changes with a restart.
    server: Option<String>,
}

#[derive(Clone, Copy)]
struct OutagePeriod {
    began: Instant,
    last_seen: Instant,
}

impl BrokerOutage {
    /// Forgets outages for a new worker process.
    pub fn reset(&self) {
        *self.memory() = OutageState::default();
    }

    /// Records that the broker could not be asked just now.
    pub fn note_outage(&self) {
        self.memory().note_outage(Instant::now());
    }

    /// Records an answer of the worker: the worker is connected.
    pub async fn answered(&self, client: &Client) {
        let is_known = {
            let mut memory = self.memory();
            memory.outage = None;
            memory.server.is_some()
        };
        if !is_known {
            let server = run_id(client).await;
            self.memory().server = server;
        }
    }

    /// Returns true if the worker's silence may come from an outage that ended only recently.
    pub async fn may_be_reconnecting(&self, client: &Client) -> bool {
        // The broker may have died and come back between two probes, or before the first one.
        let server = run_id(client).await;
        let now = Instant::now();
        let mut memory = self.memory();
        if server.is_some() && memory.server != server {
            memory.server = server;
            memory.note_outage(now);
        }
        memory
            .outage
            .is_some_and(|outage| now < outage.last_seen + longest_silence(outage))
    }

    fn memory(&self) -> MutexGuard<'_, OutageState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutageState {
    fn note_outage(&mut self, now: Instant) {
        let began = self.outage.map_or(now, |outage| outage.began);
        self.outage = Some(OutagePeriod { began, last_seen: now });
    }
}

async fn run_id(client: &Client) -> Option<String> {
    client.server_info().await.ok().and_then(|info| info.run_id)
}

/// Returns the time after the end of an outage in which a worker may be silent.
fn longest_silence(outage: OutagePeriod) -> Duration {
    wait_at(outage.last_seen.saturating_duration_since(outage.began)) + RECONNECT_GRACE
}

/// Returns the current wait between two attempts of a worker with a first attempt `passed` ago.
fn wait_at(passed: Duration) -> Duration {
    let (mut begins, mut wait) = (Duration::ZERO, RETRY_STEP_BACKOFF);
    while wait < MAX_RETRY_BACKOFF && begins + wait <= passed {
        begins += wait;
        wait += RETRY_STEP_BACKOFF;
    }
    wait
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_waits_longer_the_longer_its_broker_is_away() {
        for (passed, wait) in [
            (0, 2),
            (1, 2),
            (2, 4),
            (5, 4),
            (6, 6),
            (11, 6),
            (12, 8),
            (60, 16),
            (210, 30),
            (9000, 30),
        ] {
            assert_eq!(
                wait_at(Duration::from_secs(passed)),
                Duration::from_secs(wait),
                "{passed}"
            );
        }
    }

    #[test]
    fn an_outage_lasts_until_the_worker_answers() {
        let mut memory = OutageState::default();
        let begun = Instant::now();
        memory.note_outage(begun);
        // A short return of the broker between two attempts goes unnoticed by the worker.
        memory.note_outage(begun + Duration::from_secs(60));
        assert_eq!(
            memory.outage.map(longest_silence),
            Some(Duration::from_secs(16) + RECONNECT_GRACE)
        );
    }
}
