//! The part of a service's state machine that follows an end or a failed start: restart, stay down, or fail.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::restart_policy::RestartDecision;
use crate::service::Service;
use crate::states::{AfterStop, ServiceAction, ServiceRole, ServiceState};
use orch_base::text::duration_text::shown;
use orch_config::{RestartPolicy, RestartWhen};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, ExitStatus, describe_exit as describe};

/// Hint for a service that ends at once without an error: a background process is a descendant, which orch ends as
/// well.
const BACKGROUND_HINT: &str = "it ended by itself and without an error: a program that goes into the background \
(daemonises) has to stay in the foreground (as `--daemonize no`, `-f`, `--nodaemon`), and one that runs once is \
`kind = \"oneshot\"`";

impl Service {
    /// Gives the service up.
    pub(crate) fn fail(&self, failure: ServiceFailure) -> (ServiceState, Vec<ServiceAction>) {
        let event = EventKind::ServiceFailed {
            service: self.name.clone(),
            reason: failure.summary.clone(),
            log: failure.log().map(Path::to_owned),
        };
        (
            ServiceState::Failed,
            vec![
                ServiceAction::StopProbes,
                ServiceAction::Emit(event),
                ServiceAction::GiveUp(failure),
            ],
        )
    }

    /// Handles a start that failed before there was a process. The first failed start of a run shows a configuration
    /// error; after a successful start the cause may be temporary.
    pub(crate) fn start_failed(
        &mut self,
        failure: ServiceFailure,
        now: Instant,
        random: f64,
    ) -> (ServiceState, Vec<ServiceAction>) {
        let ServiceRole::Daemon { restart, .. } = &self.role else {
            return self.fail(failure);
        };
        if !self.has_been_ready || failure.is_permanent() {
            return self.fail(failure);
        }
        match self.history.decide_failed_start(restart, now, random) {
            RestartDecision::GiveUp { restarts } if restarts > 0 => self.fail(failure.after_retries(restarts)),
            RestartDecision::GiveUp { .. } | RestartDecision::StayDown => self.fail(failure),
            verdict @ RestartDecision::Restart { .. } => {
                let (state, mut actions) = self.apply(verdict, failure.on_one_line(), ExitStatus::Unknown, now);
                actions.insert(0, ServiceAction::StopProbes);
                (state, actions)
            }
        }
    }

    /// Decides what follows an end before readiness. An exit at the first start is an error that a restart would only
    /// repeat; a signal comes from outside.
    pub(crate) fn after_a_failed_start(&self, status: ExitStatus, lived: Duration) -> AfterStop {
        let by_itself = matches!(status, ExitStatus::Code(_));
        if matches!(self.role, ServiceRole::Oneshot) || (by_itself && !self.has_been_ready && !self.start_is_repaired) {
            let when = format!("{} after its start", shown(lived));
            let what = match self.role {
                ServiceRole::Oneshot => format!("`{}` {} {when}", self.name, describe(status)),
                ServiceRole::Daemon { .. } => {
                    format!("`{}` {} {when}, before it was ready", self.name, describe(status))
                }
            };
            let failure = ServiceFailure::infrastructure(what);
            AfterStop::Fail(match &self.command {
                _ if matches!(self.role, ServiceRole::Daemon { .. }) && status == ExitStatus::Code(0) => {
                    failure.hint(BACKGROUND_HINT)
                }
                Some(command) => failure.hint(format!("it was started as {command}")),
                None => failure,
            })
        } else {
            AfterStop::ApplyRestartPolicy
        }
    }

    /// Handles the end of the main process: the rest of the process tree is ended next.
    pub(crate) fn died(
        &self,
        status: ExitStatus,
        ready_for: Option<Duration>,
        then: AfterStop,
    ) -> (ServiceState, Vec<ServiceAction>) {
        let then = match then {
            AfterStop::Fail(failure) => AfterStop::Fail(failure.with_log(&self.log)),
            then @ (AfterStop::ApplyRestartPolicy
            | AfterStop::StayDown
            | AfterStop::StayStopped
            | AfterStop::StartAgain
            | AfterStop::Recycle) => then,
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
        (ending, vec![ServiceAction::StopProbes, ServiceAction::Emit(event)])
    }

    /// Handles the end of the whole process tree as the restart policy says.
    pub(crate) fn apply_restart_policy(
        &mut self,
        ready_for: Option<Duration>,
        reason: String,
        status: ExitStatus,
        now: Instant,
        random: f64,
    ) -> (ServiceState, Vec<ServiceAction>) {
        let ServiceRole::Daemon { restart, .. } = &self.role else {
            return self.fail(ServiceFailure::infrastructure(format!("`{}`: {reason}", self.name)).with_log(&self.log));
        };
        let verdict = self.history.decide(restart, status, ready_for, now, random);
        self.apply(verdict, reason, status, now)
    }

    /// Starts the service again after an end that is not a failure.
    pub(crate) fn recycle(
        &mut self,
        ready_for: Option<Duration>,
        reason: String,
        now: Instant,
        random: f64,
    ) -> (ServiceState, Vec<ServiceAction>) {
        let verdict = match &self.role {
            ServiceRole::Daemon { restart, .. } if ready_for.is_none_or(|ready| ready < restart.stable) => {
                let policy = RestartPolicy {
                    when: RestartWhen::Always,
                    ..*restart
                };
                // The service reaches the limit again and again: that is a crash loop, however long each life lasts.
                self.history.decide(&policy, ExitStatus::Unknown, None, now, random)
            }
            ServiceRole::Daemon { .. } | ServiceRole::Oneshot => RestartDecision::Restart {
                attempt: 1,
                after: Duration::ZERO,
            },
        };
        self.apply(verdict, reason, ExitStatus::Unknown, now)
    }

    fn apply(
        &self,
        verdict: RestartDecision,
        reason: String,
        status: ExitStatus,
        now: Instant,
    ) -> (ServiceState, Vec<ServiceAction>) {
        match verdict {
            RestartDecision::Restart { attempt, after } => {
                let backoff_ms = EventKind::millis(after);
                let event = EventKind::ServiceRestarting {
                    service: self.name.clone(),
                    attempt,
                    backoff_ms,
                    reason,
                };
                if after.is_zero() {
                    (ServiceState::Waiting, vec![ServiceAction::Emit(event)])
                } else {
                    let until = now + after;
                    (
                        ServiceState::BackingOff { until },
                        vec![ServiceAction::Emit(event), ServiceAction::WakeAt(until)],
                    )
                }
            }
            RestartDecision::StayDown => {
                let event = EventKind::ServiceStopped {
                    service: self.name.clone(),
                    status,
                };
                (ServiceState::Down, vec![ServiceAction::Emit(event)])
            }
            RestartDecision::GiveUp { restarts } => {
                let what = format!("`{}` died again after {restarts} restarts: {reason}", self.name);
                let hint = match status {
                    ExitStatus::Code(0) => BACKGROUND_HINT,
                    ExitStatus::Code(_) | ExitStatus::Signal { .. } | ExitStatus::Unknown => {
                        "see its log; `restart = { limit, window }` sets how often orch tries"
                    }
                };
                self.fail(ServiceFailure::infrastructure(what).with_log(&self.log).hint(hint))
            }
        }
    }
}
