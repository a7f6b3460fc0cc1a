//! The words of a service's life: what it is meant to be, where it is, what happens to it, what is to be done about it.
//!
//! Not here: what follows from what (`state`).

use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::config::RestartPolicy;
use crate::run::{EventKind, ExitStatus};

/// What a service is meant to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// Kept running.
    Daemon {
        /// What to do about a death.
        restart: RestartPolicy,
        /// Failed liveness probes in a row that count as dead.
        liveness_failures: u32,
        /// It has no readiness probe: that it runs is all there is to know.
        ready_at_spawn: bool,
    },
    /// Runs to its end once.
    Oneshot,
}

impl Role {
    pub(super) fn is_ready_at_spawn(&self) -> bool {
        match self {
            Role::Daemon { ready_at_spawn, .. } => *ready_at_spawn,
            Role::Oneshot => false,
        }
    }
}

/// Where a service is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceState {
    /// What it depends on is not ready.
    Waiting,
    /// Looking whether a healthy one is there already, writing its configuration.
    Preparing { since: Instant },
    /// Spawned (once `pid` is known), not ready.
    Starting { since: Instant, pid: Option<i32> },
    /// In use.
    Ready {
        since: Instant,
        pid: i32,
        failed_probes: u32,
    },
    /// Its main process has ended, or is being ended; what it left must go before the next start.
    Ending {
        ready_for: Option<Duration>,
        reason: String,
        status: Option<ExitStatus>,
        then: Then,
    },
    /// Dead, to be started again at `until`.
    BackingOff { until: Instant },
    /// It was there before; used, never stopped.
    Reused {
        /// Its last liveness probe failed, which has been said.
        unhealthy: bool,
    },
    /// A oneshot that ended well.
    Completed,
    /// Dead, and to stay so, with its policy's consent.
    Down,
    /// Given up.
    Failed,
}

/// What follows once nothing of the dead process is left.
#[derive(Clone, Debug, PartialEq)]
pub enum Then {
    /// Nobody needs it: it waits until somebody does.
    Rest,
    /// It was ended to begin anew, whatever the policy says of its end; one that needs that again and again, soon after
    /// its start, is judged by it all the same.
    Renew,
    /// Ask the restart policy.
    Judge,
    /// The failure is final.
    Fail(Failure),
}

/// What happened to a service.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// All that it depends on is ready.
    DependenciesReady,
    /// A healthy one is there already.
    FoundHealthy(String),
    /// Nothing is there: it may be spawned.
    Prepared,
    /// It can not be started, or what is there is wrong.
    PrepareFailed(Failure),
    Spawned(i32),
    SpawnFailed(Failure),
    /// The readiness probe passed; the text says what answered.
    BecameReady(String),
    /// It will not become ready: a check failed, or the time is over.
    ReadinessFailed(Failure),
    LivenessPassed,
    LivenessFailed(String),
    /// It holds too much of something, and is to begin anew.
    Overgrown(String),
    /// Its main process ended by itself.
    Exited(ExitStatus),
    /// Nothing of it is left.
    Gone,
    /// The backoff is over.
    BackoffElapsed,
    /// Somebody needs it anew: what was given up is tried again.
    Needed,
    /// Nobody needs it any more.
    NotNeeded,
}

/// What to do about it, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Emit(EventKind),
    /// Look whether one is there; answered by `FoundHealthy`, `Prepared` or `PrepareFailed`.
    Prepare,
    /// Answered by `Spawned` or `SpawnFailed`.
    Spawn,
    WatchReadiness,
    WatchLiveness,
    /// Drop whatever probes run for it.
    StopProbes,
    /// Run its stop plan; answered by `Exited` and `Gone`.
    StopTree,
    /// Answered by `BackoffElapsed`.
    WakeAt(Instant),
    /// The run must learn that it can not have this service.
    GiveUp(Failure),
}
