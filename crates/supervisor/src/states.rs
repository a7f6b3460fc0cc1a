//! Types of a service's state machine: role, state, inputs, actions; and the state as a caller sees it.
//!
//! Not here: the transitions ([`state_machine`](crate::state_machine)).

use std::time::{Duration, Instant};

use orch_config::RestartPolicy;
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, ExitStatus};

/// The kind of life that a service is meant to have.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceRole {
    /// The service is kept running.
    Daemon {
        /// The rule for restarts after an end.
        restart: RestartPolicy,
        /// Number of consecutive failed liveness probes after which the service counts as dead.
        liveness_failures: u32,
        /// The service has no readiness probe: it is ready at the spawn.
        ready_at_spawn: bool,
    },
    /// The service runs once, to the end.
    Oneshot,
}

impl ServiceRole {
    /// Returns the role of a daemon that is ready when a probe says so.
    pub(crate) fn probed_daemon(restart: RestartPolicy, liveness_failures: u32) -> Self {
        ServiceRole::Daemon {
            restart,
            liveness_failures,
            ready_at_spawn: false,
        }
    }

    pub(crate) fn is_ready_at_spawn(&self) -> bool {
        match self {
            ServiceRole::Daemon { ready_at_spawn, .. } => *ready_at_spawn,
            ServiceRole::Oneshot => false,
        }
    }
}

/// The state of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceState {
    /// A dependency is not ready.
    Waiting,
    /// The supervisor checks for a healthy server that is already running, and writes the service's configuration.
    Preparing { since: Instant },
    /// The service is spawned (once `pid` is known), and not ready.
    Starting { since: Instant, pid: Option<i32> },
    /// The service is in use.
    Ready {
        since: Instant,
        pid: i32,
        failed_probes: u32,
    },
    /// The main process has ended, or is being ended; the rest of the process tree must be gone before the next start.
    Ending {
        ready_for: Option<Duration>,
        reason: String,
        status: Option<ExitStatus>,
        then: AfterStop,
    },
    /// The service is dead, and is started again at `until`.
    BackingOff { until: Instant },
    /// The server was there before this run; orch uses that server and never stops it.
    Reused {
        /// The last liveness probe failed, which was reported.
        unhealthy: bool,
    },
    /// A oneshot has succeeded.
    Completed,
    /// The service is dead, and the restart policy does not ask for a restart.
    Down,
    /// The service is down because a request stopped it; only a request starts it again.
    Stopped,
    /// The service was given up.
    Failed,
}

/// The availability of a requested service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServiceAvailability {
    /// The service is being started, for the first time or again.
    Starting,
    Usable,
    GivenUp(ServiceFailure),
}

/// The next step once nothing of the dead process is left.
#[derive(Clone, Debug, PartialEq)]
pub enum AfterStop {
    /// Stay down: the service is not needed, until a caller requests the service again.
    StayDown,
    /// Stay down until a request starts the service: a request stopped it.
    StayStopped,
    /// Start again, because a request says so.
    StartAgain,
    /// Start again, whatever the restart policy says. A service that needs this again and again soon after a start is
    /// subject to the policy nevertheless.
    Recycle,
    /// Apply the restart policy.
    ApplyRestartPolicy,
    /// The failure is final.
    Fail(ServiceFailure),
}

/// An input of a service's state machine.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceInput {
    /// All dependencies are ready.
    DependenciesReady,
    /// A healthy server is already running.
    FoundHealthy(String),
    /// No server is running; the service may be spawned.
    Prepared,
    /// The service cannot be started, or the running server cannot be used.
    PrepareFailed(ServiceFailure),
    Spawned(i32),
    SpawnFailed(ServiceFailure),
    /// The readiness probe passed; the text describes what answered.
    BecameReady(String),
    /// The service will not become ready: a check failed, or the time is over.
    ReadinessFailed(ServiceFailure),
    LivenessPassed,
    LivenessFailed(String),
    /// The service uses too much memory, and is to be started again.
    MemoryLimitExceeded(String),
    /// The main process ended by itself.
    Exited(ExitStatus),
    /// No process of the service is left.
    Gone,
    /// The backoff is over.
    BackoffElapsed,
    /// A caller needs the service again: a service that was given up is tried again.
    Needed,
    /// No caller needs the service any more.
    NotNeeded,
}

/// An output of the state machine; the actions are carried out in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceAction {
    Emit(EventKind),
    /// Check for a running server; the answer is `FoundHealthy`, `Prepared` or `PrepareFailed`.
    Prepare,
    /// The answer is `Spawned` or `SpawnFailed`.
    Spawn,
    WatchReadiness,
    WatchLiveness,
    /// Drop all running probes of the service.
    StopProbes,
    /// Run the stop plan; the answers are `Exited` and `Gone`.
    StopTree,
    /// The answer is `BackoffElapsed`.
    WakeAt(Instant),
    /// The run cannot have this service.
    GiveUp(ServiceFailure),
}
