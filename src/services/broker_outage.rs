//! Whether a worker that does not answer may be waiting to connect again, because its broker was away until a moment ago.
//!
//! After a lost connection a worker tries again after 2 seconds, then after 4, 6 and so on up to 30, and it does not notice in
//! between that its broker is back (kombu's `ensure_connection`, by its defaults). A restart would only end its tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::celery::Client;

/// From one attempt of a worker to the next: by how much the wait grows, and how long it gets.
const WAIT_STEP: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The worker notices an outage later than orch does, and needs some time to connect and to consume.
const RECONNECT_TIME: Duration = Duration::from_secs(8);

/// What is known about the broker of one worker process, from one liveness probe to the next.
#[derive(Default)]
pub struct BrokerOutage(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    /// The last outage that the worker has not answered since.
    outage: Option<Outage>,
    /// The run id of the server that the worker answered through, which is another after its restart.
    server: Option<String>,
}

#[derive(Clone, Copy)]
struct Outage {
    began: Instant,
    last_seen: Instant,
}

impl BrokerOutage {
    /// A new worker process: no outage concerns it.
    pub fn begin_anew(&self) {
        *self.memory() = Memory::default();
    }

    /// The broker could not be asked just now.
    pub fn is_away(&self) {
        self.memory().note_outage(Instant::now());
    }

    /// The worker has answered: it is connected.
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

    /// Whether silence may come from an outage that is over since a moment only.
    pub async fn may_be_reconnecting(&self, client: &Client) -> bool {
        // It may have died and come back between two probes, or before the first one.
        let server = run_id(client).await;
        let now = Instant::now();
        let mut memory = self.memory();
        if server.is_some() && memory.server != server {
            memory.server = server;
            memory.note_outage(now);
        }
        memory
            .outage
            .is_some_and(|outage| now < outage.last_seen + patience(outage))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn note_outage(&mut self, now: Instant) {
        let began = self.outage.map_or(now, |outage| outage.began);
        self.outage = Some(Outage { began, last_seen: now });
    }
}

async fn run_id(client: &Client) -> Option<String> {
    client.server_info().await.ok().and_then(|info| info.run_id)
}

/// How long after the end of an outage a worker may be silent.
fn patience(outage: Outage) -> Duration {
    wait_at(outage.last_seen.saturating_duration_since(outage.began)) + RECONNECT_TIME
}

/// The wait between two attempts that a worker is in, so long after its first attempt.
fn wait_at(passed: Duration) -> Duration {
    let (mut begins, mut wait) = (Duration::ZERO, WAIT_STEP);
    while wait < LONGEST_WAIT && begins + wait <= passed {
        begins += wait;
        wait += WAIT_STEP;
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
        let mut memory = Memory::default();
        let begun = Instant::now();
        memory.note_outage(begun);
        // A broker that comes back for a moment between two attempts is still away for the worker.
        memory.note_outage(begun + Duration::from_secs(60));
        assert_eq!(
            memory.outage.map(patience),
            Some(Duration::from_secs(16) + RECONNECT_TIME)
        );
    }
}
