//! The life of one service as a pure state machine: what it is, what just happened, what to do about it.
//!
//! ```text
//! Waiting -> Preparing -> Starting -> Ready -> Ending -> BackingOff -> Waiting -> ...
//!                |            |         `-> (liveness) Ending
//!                |            `-> Completed (oneshot)
//!                `-> Reused            any of them -> Failed
//! ```
//! `now` and the jitter are arguments: tables and property tests drive time. Not here: processes, probes, the stop of
//! the whole run (the guard does that by rank, in one order).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::life::{Action, Input, Role, ServiceState, Then};
use super::restart::{RestartHistory, Verdict};
use crate::config::{RestartPolicy, RestartWhen};
use crate::duration_text::shown;
use crate::run::{EventKind, ExitStatus, ServiceName, describe_exit as describe};

/// Why a service may end at once, and well: what runs on is a child of it, which orch ends with it.
const IN_THE_BACKGROUND: &str = "it ended by itself and without an error: a program that puts itself into the background \
(daemonises) is to stay in the foreground (as `--daemonize no`, `-f`, `--nodaemon`), and one that runs once is \
`kind = \"oneshot\"`";

/// One service: its role, its state, its past.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub role: Role,
    pub log: PathBuf,
    /// How it was started last, for people.
    pub command: Option<String>,
    pub state: ServiceState,
    history: RestartHistory,
    /// Starts so far.
    attempt: u32,
    /// It has been ready in this run: a death is then no longer a failed start.
    has_been_ready: bool,
    /// The cause of the failed start is removed: it is started again.
    pub start_is_mended: bool,
}

impl Service {
    /// A service that has not been started.
    pub fn new(name: ServiceName, role: Role, log: PathBuf) -> Self {
        Self {
            name,
            role,
            log,
            command: None,
            state: ServiceState::Waiting,
            history: RestartHistory::default(),
            attempt: 0,
            has_been_ready: false,
            start_is_mended: false,
        }
    }

    /// Whether services that come after this one may start.
    pub fn is_usable(&self) -> bool {
        match self.state {
            ServiceState::Ready { .. } | ServiceState::Reused { .. } | ServiceState::Completed => true,
            // Ended well and not wanted back: it has served its purpose.
            ServiceState::Down => true,
            ServiceState::Waiting
            | ServiceState::Preparing { .. }
            | ServiceState::Starting { .. }
            | ServiceState::Ending { .. }
            | ServiceState::BackingOff { .. }
            | ServiceState::Failed => false,
        }
    }

    /// Takes one input; `random` in 0.0..1.0 is the jitter of a restart.
    pub fn step(&mut self, input: Input, now: Instant, random: f64) -> Vec<Action> {
        use ServiceState as S;
        let state = std::mem::replace(&mut self.state, S::Failed);
        let (next, actions) = match (state, input) {
            (S::Waiting, Input::DependenciesReady) => {
                self.attempt += 1;
                let event = EventKind::ServiceStarting {
                    service: self.name.clone(),
                    attempt: self.attempt,
                };
                (S::Preparing { since: now }, vec![Action::Emit(event), Action::Prepare])
            }
            (S::Preparing { .. }, Input::FoundHealthy(detail)) => {
                self.has_been_ready = true;
                let event = EventKind::ServiceReused {
                    service: self.name.clone(),
                    detail,
                };
                (
                    S::Reused { unhealthy: false },
                    vec![Action::Emit(event), Action::WatchLiveness],
                )
            }
            (S::Preparing { since }, Input::Prepared) => (S::Starting { since, pid: None }, vec![Action::Spawn]),
            (S::Preparing { .. }, Input::PrepareFailed(failure)) => self.start_failed(failure, now, random),

            (S::Starting { since, pid: None }, Input::Spawned(pid)) => {
                self.history.started();
                let event = EventKind::ServiceSpawned {
                    service: self.name.clone(),
                    pid,
                };
                if self.role.is_ready_at_spawn() {
                    let (state, mut actions) = self.became_ready(since, pid, "running".to_owned(), now);
                    actions.insert(0, Action::Emit(event));
                    (state, actions)
                } else {
                    (
                        S::Starting { since, pid: Some(pid) },
                        vec![Action::Emit(event), Action::WatchReadiness],
                    )
                }
            }
            (S::Starting { pid: None, .. }, Input::SpawnFailed(failure)) => self.start_failed(failure, now, random),
            (S::Starting { since, pid: Some(pid) }, Input::BecameReady(detail)) => {
                self.became_ready(since, pid, detail, now)
            }
            (S::Starting { pid: Some(_), .. }, Input::ReadinessFailed(failure)) => {
                let ending = S::Ending {
                    ready_for: None,
                    reason: failure.what.clone(),
                    status: None,
                    then: if self.has_been_ready {
                        Then::Judge
                    } else {
                        Then::Fail(failure)
                    },
                };
                (ending, vec![Action::StopProbes, Action::StopTree])
            }
            (S::Starting { since, .. }, Input::Exited(status)) => match (&self.role, status) {
                (Role::Oneshot, ExitStatus::Code(0)) => {
                    let elapsed_ms = EventKind::millis(now.duration_since(since));
                    let event = EventKind::ServiceCompleted {
                        service: self.name.clone(),
                        elapsed_ms,
                    };
                    (S::Completed, vec![Action::StopProbes, Action::Emit(event)])
                }
                _ => {
                    let lived = now.duration_since(since);
                    let then = self.after_a_failed_start(status, lived);
                    self.died(status, None, then)
                }
            },

            (S::Ready { since, pid, .. }, Input::LivenessPassed) => (
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
                Input::LivenessFailed(reason),
            ) => {
                let failed_probes = failed_probes + 1;
                let limit = match self.role {
                    Role::Daemon { liveness_failures, .. } => liveness_failures,
                    Role::Oneshot => u32::MAX,
                };
                let event = EventKind::ServiceUnhealthy {
                    service: self.name.clone(),
                    reason: reason.clone(),
                };
                if failed_probes < limit {
                    let actions = if failed_probes == 1 {
                        vec![Action::Emit(event)]
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
                        then: Then::Judge,
                    };
                    (ending, vec![Action::StopProbes, Action::StopTree])
                }
            }
            (S::Ready { since, .. }, Input::Overgrown(reason)) => {
                let event = EventKind::ServiceUnhealthy {
                    service: self.name.clone(),
                    reason: reason.clone(),
                };
                let ending = S::Ending {
                    ready_for: Some(now.duration_since(since)),
                    reason,
                    status: None,
                    then: Then::Renew,
                };
                (ending, vec![Action::StopProbes, Action::Emit(event), Action::StopTree])
            }
            (S::Ready { since, .. }, Input::Exited(status)) => {
                self.died(status, Some(now.duration_since(since)), Then::Judge)
            }

            (
                S::Ending {
                    ready_for,
                    reason,
                    then,
                    ..
                },
                Input::Exited(status),
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
                Input::Gone,
            ) => match then {
                Then::Rest => {
                    let event = EventKind::ServiceStopped {
                        service: self.name.clone(),
                        status: status.unwrap_or(ExitStatus::Unknown),
                    };
                    self.has_been_ready = false;
                    (S::Waiting, vec![Action::Emit(event)])
                }
                Then::Fail(failure) => self.fail(failure),
                Then::Renew => self.renew(ready_for, reason, now, random),
                Then::Judge => self.judge(ready_for, reason, status.unwrap_or(ExitStatus::Unknown), now, random),
            },
            (S::BackingOff { .. }, Input::BackoffElapsed) => (S::Waiting, vec![]),

            // Not ours to restart: said once, until it is well again.
            (S::Reused { unhealthy: false }, Input::LivenessFailed(reason)) => {
                let event = EventKind::ServiceUnhealthy {
                    service: self.name.clone(),
                    reason,
                };
                (S::Reused { unhealthy: true }, vec![Action::Emit(event)])
            }
            (S::Reused { .. }, Input::LivenessPassed) => (S::Reused { unhealthy: false }, vec![]),

            (S::Down | S::Failed, Input::Needed) => {
                self.history = RestartHistory::default();
                self.has_been_ready = false;
                (S::Waiting, vec![])
            }
            (S::Preparing { .. } | S::BackingOff { .. }, Input::NotNeeded) => (
                S::Waiting,
                vec![
                    Action::StopProbes,
                    Action::Emit(EventKind::ServiceStopped {
                        service: self.name.clone(),
                        status: ExitStatus::Unknown,
                    }),
                ],
            ),
            (S::Starting { .. }, Input::NotNeeded) => self.rest(None),
            (S::Ready { since, .. }, Input::NotNeeded) => self.rest(Some(now.duration_since(since))),
            // Its end is under way already.
            (
                S::Ending {
                    ready_for,
                    reason,
                    status,
                    ..
                },
                Input::NotNeeded,
            ) => (
                S::Ending {
                    ready_for,
                    reason,
                    status,
                    then: Then::Rest,
                },
                vec![],
            ),

            // What comes late - a probe's answer after the death it did not see, a report of what is already judged -
            // changes nothing. Listed by state, so that a new input has to be thought about.
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
                | S::Failed),
                Input::DependenciesReady
                | Input::FoundHealthy(_)
                | Input::Prepared
                | Input::PrepareFailed(_)
                | Input::Spawned(_)
                | Input::SpawnFailed(_)
                | Input::BecameReady(_)
                | Input::ReadinessFailed(_)
                | Input::LivenessPassed
                | Input::LivenessFailed(_)
                | Input::Overgrown(_)
                | Input::Exited(_)
                | Input::Gone
                | Input::BackoffElapsed
                | Input::Needed
                | Input::NotNeeded,
            ) => (state, vec![]),
        };
        self.state = next;
        actions
    }

    fn became_ready(&mut self, since: Instant, pid: i32, detail: String, now: Instant) -> (ServiceState, Vec<Action>) {
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
        (ready, vec![Action::Emit(event), Action::WatchLiveness])
    }

    /// Has it end because nobody needs it.
    fn rest(&self, ready_for: Option<Duration>) -> (ServiceState, Vec<Action>) {
        let event = EventKind::ServiceStopping {
            service: self.name.clone(),
        };
        let ending = ServiceState::Ending {
            ready_for,
            reason: "nobody needs it".to_owned(),
            status: None,
            then: Then::Rest,
        };
        (ending, vec![Action::StopProbes, Action::Emit(event), Action::StopTree])
    }

    fn fail(&self, failure: Failure) -> (ServiceState, Vec<Action>) {
        let event = EventKind::ServiceFailed {
            service: self.name.clone(),
            reason: failure.what.clone(),
            log: failure.log().map(Path::to_owned),
        };
        (
            ServiceState::Failed,
            vec![Action::StopProbes, Action::Emit(event), Action::GiveUp(failure)],
        )
    }

    /// A start that failed before there was a process. The first one of a run shows a mistake; later the same start has
    /// worked, so that the cause may pass.
    fn start_failed(&mut self, failure: Failure, now: Instant, random: f64) -> (ServiceState, Vec<Action>) {
        let Role::Daemon { restart, .. } = &self.role else {
            return self.fail(failure);
        };
        if !self.has_been_ready || failure.is_lasting() {
            return self.fail(failure);
        }
        match self.history.judge_failed_start(restart, now, random) {
            Verdict::GiveUp { restarts } if restarts > 0 => self.fail(failure.after_retries(restarts)),
            Verdict::GiveUp { .. } | Verdict::LeaveDead => self.fail(failure),
            verdict @ Verdict::Restart { .. } => {
                let (state, mut actions) = self.obey(verdict, failure.on_one_line(), ExitStatus::Unknown, now);
                actions.insert(0, Action::StopProbes);
                (state, actions)
            }
        }
    }

    /// An end before readiness. By itself, at the first start, it is a mistake that a restart would only repeat; a
    /// signal comes from outside.
    fn after_a_failed_start(&self, status: ExitStatus, lived: Duration) -> Then {
        let by_itself = matches!(status, ExitStatus::Code(_));
        if matches!(self.role, Role::Oneshot) || (by_itself && !self.has_been_ready && !self.start_is_mended) {
            let when = format!("{} after its start", shown(lived));
            let what = match self.role {
                Role::Oneshot => format!("`{}` {} {when}", self.name, describe(status)),
                Role::Daemon { .. } => format!("`{}` {} {when}, before it was ready", self.name, describe(status)),
            };
            let failure = Failure::infrastructure(what);
            Then::Fail(match &self.command {
                _ if matches!(self.role, Role::Daemon { .. }) && status == ExitStatus::Code(0) => {
                    failure.hint(IN_THE_BACKGROUND)
                }
                Some(command) => failure.hint(format!("it was started as {command}")),
                None => failure,
            })
        } else {
            Then::Judge
        }
    }

    fn died(&self, status: ExitStatus, ready_for: Option<Duration>, then: Then) -> (ServiceState, Vec<Action>) {
        let then = match then {
            Then::Fail(failure) => Then::Fail(failure.with_log(&self.log)),
            then @ (Then::Judge | Then::Rest | Then::Renew) => then,
        };
        let event = EventKind::ServiceExited {
            service: self.name.clone(),
            status,
            log: self.log.clone(),
        };
        let reason = format!("it {}", describe(status));
        let ending = ServiceState::Ending {
            ready_for,
            reason,
            status: Some(status),
            then,
        };
        (ending, vec![Action::StopProbes, Action::Emit(event)])
    }

    fn judge(
        &mut self,
        ready_for: Option<Duration>,
        reason: String,
        status: ExitStatus,
        now: Instant,
        random: f64,
    ) -> (ServiceState, Vec<Action>) {
        let Role::Daemon { restart, .. } = &self.role else {
            return self.fail(Failure::infrastructure(format!("`{}`: {reason}", self.name)).with_log(&self.log));
        };
        let verdict = self.history.judge(restart, status, ready_for, now, random);
        self.obey(verdict, reason, status, now)
    }

    /// After an end that is no failure.
    fn renew(
        &mut self,
        ready_for: Option<Duration>,
        reason: String,
        now: Instant,
        random: f64,
    ) -> (ServiceState, Vec<Action>) {
        let verdict = match &self.role {
            Role::Daemon { restart, .. } if ready_for.is_none_or(|ready| ready < restart.stable) => {
                let policy = RestartPolicy {
                    when: RestartWhen::Always,
                    ..*restart
                };
                // It reaches its limit again and again: that is a loop, however long a turn of it takes.
                self.history.judge(&policy, ExitStatus::Unknown, None, now, random)
            }
            Role::Daemon { .. } | Role::Oneshot => Verdict::Restart {
                attempt: 1,
                after: Duration::ZERO,
            },
        };
        self.obey(verdict, reason, ExitStatus::Unknown, now)
    }

    fn obey(&self, verdict: Verdict, reason: String, status: ExitStatus, now: Instant) -> (ServiceState, Vec<Action>) {
        match verdict {
            Verdict::Restart { attempt, after } => {
                let backoff_ms = EventKind::millis(after);
                let event = EventKind::ServiceRestarting {
                    service: self.name.clone(),
                    attempt,
                    backoff_ms,
                    reason,
                };
                if after.is_zero() {
                    (ServiceState::Waiting, vec![Action::Emit(event)])
                } else {
                    let until = now + after;
                    (
                        ServiceState::BackingOff { until },
                        vec![Action::Emit(event), Action::WakeAt(until)],
                    )
                }
            }
            Verdict::LeaveDead => {
                let event = EventKind::ServiceStopped {
                    service: self.name.clone(),
                    status,
                };
                (ServiceState::Down, vec![Action::Emit(event)])
            }
            Verdict::GiveUp { restarts } => {
                let what = format!("`{}` died again after {restarts} restarts: {reason}", self.name);
                let hint = match status {
                    ExitStatus::Code(0) => IN_THE_BACKGROUND,
                    ExitStatus::Code(_) | ExitStatus::Signal { .. } | ExitStatus::Unknown => {
                        "see its log; `restart = { limit, window }` sets how often orch tries"
                    }
                };
                self.fail(Failure::infrastructure(what).with_log(&self.log).hint(hint))
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
