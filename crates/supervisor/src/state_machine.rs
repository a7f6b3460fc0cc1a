//! The life of one service as a pure state machine: state and input determine the next state and the actions.
//!
//! ```text
//! Waiting -> Preparing -> Starting -> Ready -> Ending -> BackingOff -> Waiting -> ...
//!                |            |         `-> (liveness) Ending
//!                |            `-> Completed (oneshot)
//!                `-> Reused            any of them -> Failed
//! ```
//! A request ([`crate::service_requests`]) leads from any state to Stopped, and from there to Waiting.
//!
//! `now` and the jitter are arguments: tables and property tests drive time. Not here: processes, probes, the stop of
//! the whole run (the guard does that by rank, in one order), and what follows an end ([`crate::after_end`]).

use std::time::{Duration, Instant};

use crate::restart_policy::RestartHistory;
use crate::service::Service;
use crate::states::{AfterStop, ServiceAction, ServiceInput, ServiceRole, ServiceState};
use orch_journal::{EventKind, ExitStatus};

impl Service {
    /// Handles one input; `random` in 0.0..1.0 is the jitter of a restart.
    pub fn step(&mut self, input: ServiceInput, now: Instant, random: f64) -> Vec<ServiceAction> {
        use ServiceState as S;
        let state = std::mem::replace(&mut self.state, S::Failed);
        let (next, actions) = match (state, input) {
            (S::Waiting, ServiceInput::DependenciesReady) => {
                self.attempt += 1;
                let event = EventKind::ServiceStarting {
                    service: self.name.clone(),
                    attempt: self.attempt,
                };
                (
                    S::Preparing { since: now },
                    vec![ServiceAction::Emit(event), ServiceAction::Prepare],
                )
            }
            (S::Preparing { .. }, ServiceInput::FoundHealthy(detail)) => {
                self.has_been_ready = true;
                let event = EventKind::ServiceReused {
                    service: self.name.clone(),
                    detail,
                };
                (
                    S::Reused { unhealthy: false },
                    vec![ServiceAction::Emit(event), ServiceAction::WatchLiveness],
                )
            }
            (S::Preparing { since }, ServiceInput::Prepared) => {
                (S::Starting { since, pid: None }, vec![ServiceAction::Spawn])
            }
            (S::Preparing { .. }, ServiceInput::PrepareFailed(failure)) => self.start_failed(failure, now, random),

            (S::Starting { since, pid: None }, ServiceInput::Spawned(pid)) => {
                self.history.started();
                let event = EventKind::ServiceSpawned {
                    service: self.name.clone(),
                    pid,
                };
                if self.role.is_ready_at_spawn() {
                    let (state, mut actions) = self.became_ready(since, pid, "running".to_owned(), now);
                    actions.insert(0, ServiceAction::Emit(event));
                    (state, actions)
                } else {
                    (
                        S::Starting { since, pid: Some(pid) },
                        vec![ServiceAction::Emit(event), ServiceAction::WatchReadiness],
                    )
                }
            }
            (S::Starting { pid: None, .. }, ServiceInput::SpawnFailed(failure)) => {
                self.start_failed(failure, now, random)
            }
            (S::Starting { since, pid: Some(pid) }, ServiceInput::BecameReady(detail)) => {
                self.became_ready(since, pid, detail, now)
            }
            (S::Starting { pid: Some(_), .. }, ServiceInput::ReadinessFailed(failure)) => {
                let ending = S::Ending {
                    ready_for: None,
                    reason: failure.summary.clone(),
                    status: None,
                    then: if self.has_been_ready {
                        AfterStop::ApplyRestartPolicy
                    } else {
                        AfterStop::Fail(failure)
                    },
                };
                (ending, vec![ServiceAction::StopProbes, ServiceAction::StopTree])
            }
            (S::Starting { since, .. }, ServiceInput::Exited(status)) => match (&self.role, status) {
                (ServiceRole::Oneshot, ExitStatus::Code(0)) => {
                    let elapsed_ms = EventKind::millis(now.duration_since(since));
                    let event = EventKind::ServiceCompleted {
                        service: self.name.clone(),
                        elapsed_ms,
                    };
                    (
                        S::Completed,
                        vec![ServiceAction::StopProbes, ServiceAction::Emit(event)],
                    )
                }
                _ => {
                    let lived = now.duration_since(since);
                    let then = self.after_a_failed_start(status, lived);
                    self.died(status, None, then)
                }
            },

            (S::Ready { since, pid, .. }, ServiceInput::LivenessPassed) => (
                S::Ready {
                    since,
                    pid,
                    failed_probes: 0,
                },
                vec![],
            ),
            (
                S::Ready {
                    since,
                    pid,
                    failed_probes,
                },
                ServiceInput::LivenessFailed(reason),
            ) => {
                let failed_probes = failed_probes + 1;
                let limit = match self.role {
                    ServiceRole::Daemon { liveness_failures, .. } => liveness_failures,
                    ServiceRole::Oneshot => u32::MAX,
                };
                let event = EventKind::ServiceUnhealthy {
                    service: self.name.clone(),
                    reason: reason.clone(),
                };
                if failed_probes < limit {
                    let actions = if failed_probes == 1 {
                        vec![ServiceAction::Emit(event)]
                    } else {
                        vec![]
                    };
                    (
                        S::Ready {
                            since,
                            pid,
                            failed_probes,
                        },
                        actions,
                    )
                } else {
                    let ready_for = Some(now.duration_since(since));
                    let ending = S::Ending {
                        ready_for,
                        reason,
                        status: None,
                        then: AfterStop::ApplyRestartPolicy,
                    };
                    (ending, vec![ServiceAction::StopProbes, ServiceAction::StopTree])
                }
            }
            (S::Ready { since, .. }, ServiceInput::MemoryLimitExceeded(reason)) => {
                let event = EventKind::ServiceUnhealthy {
                    service: self.name.clone(),
                    reason: reason.clone(),
                };
                let ending = S::Ending {
                    ready_for: Some(now.duration_since(since)),
                    reason,
                    status: None,
                    then: AfterStop::Recycle,
                };
                (
                    ending,
                    vec![
                        ServiceAction::StopProbes,
                        ServiceAction::Emit(event),
                        ServiceAction::StopTree,
                    ],
                )
            }
            (S::Ready { since, .. }, ServiceInput::Exited(status)) => {
                self.died(status, Some(now.duration_since(since)), AfterStop::ApplyRestartPolicy)
            }

            (
                S::Ending {
                    ready_for,
                    reason,
                    then,
                    ..
                },
                ServiceInput::Exited(status),
            ) => (
                S::Ending {
                    ready_for,
                    reason,
                    status: Some(status),
                    then,
                },
                vec![],
            ),
            (
                S::Ending {
                    ready_for,
                    reason,
                    status,
                    then,
                },
                ServiceInput::Gone,
            ) => match then {
                AfterStop::StayDown => {
                    let event = EventKind::ServiceStopped {
                        service: self.name.clone(),
                        status: status.unwrap_or(ExitStatus::Unknown),
                    };
                    self.has_been_ready = false;
                    (S::Waiting, vec![ServiceAction::Emit(event)])
                }
                AfterStop::StayStopped => (S::Stopped, vec![self.stopped_event(status)]),
                AfterStop::StartAgain => (S::Waiting, vec![self.stopped_event(status)]),
                AfterStop::Fail(failure) => self.fail(failure),
                AfterStop::Recycle => self.recycle(ready_for, reason, now, random),
                AfterStop::ApplyRestartPolicy => {
                    self.apply_restart_policy(ready_for, reason, status.unwrap_or(ExitStatus::Unknown), now, random)
                }
            },
            (S::BackingOff { .. }, ServiceInput::BackoffElapsed) => (S::Waiting, vec![]),

            // orch does not restart this server: the outage is reported once, until the server is healthy again.
            (S::Reused { unhealthy: false }, ServiceInput::LivenessFailed(reason)) => {
                let event = EventKind::ServiceUnhealthy {
                    service: self.name.clone(),
                    reason,
                };
                (S::Reused { unhealthy: true }, vec![ServiceAction::Emit(event)])
            }
            (S::Reused { .. }, ServiceInput::LivenessPassed) => (S::Reused { unhealthy: false }, vec![]),

            (S::Down | S::Failed, ServiceInput::Needed) => {
                self.history = RestartHistory::default();
                self.has_been_ready = false;
                (S::Waiting, vec![])
            }
            (S::Preparing { .. } | S::BackingOff { .. }, ServiceInput::NotNeeded) => (
                S::Waiting,
                vec![
                    ServiceAction::StopProbes,
                    ServiceAction::Emit(EventKind::ServiceStopped {
                        service: self.name.clone(),
                        status: ExitStatus::Unknown,
                    }),
                ],
            ),
            (S::Starting { .. }, ServiceInput::NotNeeded) => self.stop_unneeded(None),
            (S::Ready { since, .. }, ServiceInput::NotNeeded) => self.stop_unneeded(Some(now.duration_since(since))),
            // The service is being ended already.
            (
                S::Ending {
                    ready_for,
                    reason,
                    status,
                    ..
                },
                ServiceInput::NotNeeded,
            ) => (
                S::Ending {
                    ready_for,
                    reason,
                    status,
                    then: AfterStop::StayDown,
                },
                vec![],
            ),

            // Late inputs change nothing: a probe's answer after a missed death, a report about an end that was
            // handled. All states and inputs are listed, so that a new input needs a decision.
            (
                state @ (S::Waiting
                | S::Preparing { .. }
                | S::Starting { .. }
                | S::Ready { .. }
                | S::Ending { .. }
                | S::BackingOff { .. }
                | S::Reused { .. }
                | S::Completed
                | S::Down
                | S::Stopped
                | S::Failed),
                ServiceInput::DependenciesReady
                | ServiceInput::FoundHealthy(_)
                | ServiceInput::Prepared
                | ServiceInput::PrepareFailed(_)
                | ServiceInput::Spawned(_)
                | ServiceInput::SpawnFailed(_)
                | ServiceInput::BecameReady(_)
                | ServiceInput::ReadinessFailed(_)
                | ServiceInput::LivenessPassed
                | ServiceInput::LivenessFailed(_)
                | ServiceInput::MemoryLimitExceeded(_)
                | ServiceInput::Exited(_)
                | ServiceInput::Gone
                | ServiceInput::BackoffElapsed
                | ServiceInput::Needed
                | ServiceInput::NotNeeded,
            ) => (state, vec![]),
        };
        self.state = next;
        actions
    }

    fn became_ready(
        &mut self,
        since: Instant,
        pid: i32,
        detail: String,
        now: Instant,
    ) -> (ServiceState, Vec<ServiceAction>) {
        self.has_been_ready = true;
        let elapsed_ms = EventKind::millis(now.duration_since(since));
        let event = EventKind::ServiceReady {
            service: self.name.clone(),
            elapsed_ms,
            detail,
        };
        let ready = ServiceState::Ready {
            since: now,
            pid,
            failed_probes: 0,
        };
        (ready, vec![ServiceAction::Emit(event), ServiceAction::WatchLiveness])
    }

    /// Ends the service that is not needed.
    fn stop_unneeded(&self, ready_for: Option<Duration>) -> (ServiceState, Vec<ServiceAction>) {
        let event = EventKind::ServiceStopping {
            service: self.name.clone(),
        };
        let ending = ServiceState::Ending {
            ready_for,
            reason: "it is not needed any more".to_owned(),
            status: None,
            then: AfterStop::StayDown,
        };
        (
            ending,
            vec![
                ServiceAction::StopProbes,
                ServiceAction::Emit(event),
                ServiceAction::StopTree,
            ],
        )
    }
}

#[cfg(test)]
#[path = "state_machine_tests.rs"]
mod tests;
