//! Requests of a person to one service: stop, start, restart. Pure: state and request determine the next state, the
//! actions and the answer.
//!
//! Every state answers every request in the same step, so that no request can wait for an event that never comes. An
//! answer says that the state has changed; later events report the effect, which may take as long as the service's
//! grace period or its start.
//!
//! A request concerns one service: the services that depend on it keep running, and fail only if they cannot do
//! without it.

use std::time::{Duration, Instant};

use crate::restart_policy::RestartHistory;
use crate::service::Service;
use crate::states::{AfterStop, ServiceAction, ServiceState};
use orch_journal::{EventKind, ExitStatus, RequestResult};

/// Request to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceVerb {
    /// End the service, and keep it down until a request starts it.
    Stop,
    /// Start a service that is down.
    Start,
    /// End the service and start it again.
    Restart,
}

/// Answer to a request, and the actions that follow, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceAnswer {
    pub result: RequestResult,
    /// Description of the effect, or the reason why there is none.
    pub detail: String,
    pub actions: Vec<ServiceAction>,
}

impl ServiceAnswer {
    fn nothing(detail: String) -> Self {
        Self {
            result: RequestResult::NothingToDo,
            detail,
            actions: Vec::new(),
        }
    }

    fn refused(detail: String) -> Self {
        Self {
            result: RequestResult::Refused,
            detail,
            actions: Vec::new(),
        }
    }

    fn done(detail: String, actions: Vec<ServiceAction>) -> Self {
        Self {
            result: RequestResult::Done,
            detail,
            actions,
        }
    }
}

impl Service {
    /// Handles one request. `awaited` describes the dependencies that are not usable; empty if all are.
    pub fn request(&mut self, verb: ServiceVerb, awaited: &str, now: Instant) -> ServiceAnswer {
        match verb {
            ServiceVerb::Stop => self.stop_by_request(now),
            ServiceVerb::Start => self.start_by_request(awaited),
            ServiceVerb::Restart => self.restart_by_request(awaited, now),
        }
    }

    fn stop_by_request(&mut self, now: Instant) -> ServiceAnswer {
        use ServiceState as S;
        let name = self.name.clone();
        match &mut self.state {
            S::Waiting | S::Preparing { .. } | S::BackingOff { .. } => {
                self.state = S::Stopped;
                let actions = vec![ServiceAction::StopProbes, self.stopped_event(None)];
                ServiceAnswer::done(format!("{name} was not running and stays down"), actions)
            }
            S::Starting { .. } => self.end_by_request(None, AfterStop::StayStopped),
            S::Ready { since, .. } => {
                let ready_for = now.duration_since(*since);
                self.end_by_request(Some(ready_for), AfterStop::StayStopped)
            }
            S::Ending { then, .. } => match then {
                AfterStop::StayStopped | AfterStop::StayDown => {
                    ServiceAnswer::nothing(format!("{name} is already being stopped"))
                }
                AfterStop::Fail(_) => {
                    ServiceAnswer::nothing(format!("{name} has failed, and what is left of it is being ended"))
                }
                AfterStop::StartAgain | AfterStop::Recycle | AfterStop::ApplyRestartPolicy => {
                    *then = AfterStop::StayStopped;
                    ServiceAnswer::done(format!("{name} is being stopped and is not started again"), Vec::new())
                }
            },
            S::Reused { .. } => ServiceAnswer::refused(not_started_by_orch(&name)),
            S::Completed => ServiceAnswer::nothing(format!("{name} has completed")),
            S::Down => ServiceAnswer::nothing(format!("{name} has ended by itself")),
            S::Stopped => ServiceAnswer::nothing(format!("{name} is already stopped")),
            S::Failed => ServiceAnswer::nothing(format!("{name} has failed and does not run")),
        }
    }

    fn start_by_request(&mut self, awaited: &str) -> ServiceAnswer {
        use ServiceState as S;
        let name = self.name.clone();
        match &mut self.state {
            S::Waiting => ServiceAnswer::nothing(format!("{name} {}", starts_after(awaited))),
            S::Preparing { .. } | S::Starting { .. } => ServiceAnswer::nothing(format!("{name} is already starting")),
            S::Ready { .. } => ServiceAnswer::nothing(format!("{name} is already running")),
            S::Reused { .. } => ServiceAnswer::nothing(format!("{name} is already running, and orch did not start it")),
            S::Completed => {
                ServiceAnswer::nothing(format!("{name} has completed; `orch restart {name}` runs it again"))
            }
            S::Ending { then, .. } => match then {
                AfterStop::StartAgain | AfterStop::Recycle => {
                    ServiceAnswer::nothing(format!("{name} is already being restarted"))
                }
                AfterStop::StayStopped | AfterStop::StayDown | AfterStop::ApplyRestartPolicy | AfterStop::Fail(_) => {
                    *then = AfterStop::StartAgain;
                    self.history = RestartHistory::default();
                    ServiceAnswer::done(
                        format!("{name} starts as soon as its last processes have ended"),
                        Vec::new(),
                    )
                }
            },
            S::BackingOff { .. } | S::Down | S::Stopped | S::Failed => self.start_anew(awaited),
        }
    }

    fn restart_by_request(&mut self, awaited: &str, now: Instant) -> ServiceAnswer {
        use ServiceState as S;
        let name = self.name.clone();
        match &self.state {
            S::Waiting => ServiceAnswer::nothing(format!("{name} {}", starts_after(awaited))),
            S::Preparing { .. } => ServiceAnswer::nothing(format!("{name} is already starting")),
            S::Starting { .. } => self.end_by_request(None, AfterStop::StartAgain),
            S::Ready { since, .. } => {
                let ready_for = now.duration_since(*since);
                self.end_by_request(Some(ready_for), AfterStop::StartAgain)
            }
            S::Ending { .. } => self.start_by_request(awaited),
            S::Reused { .. } => ServiceAnswer::refused(not_started_by_orch(&name)),
            S::Completed | S::BackingOff { .. } | S::Down | S::Stopped | S::Failed => self.start_anew(awaited),
        }
    }

    /// Ends a service that has processes.
    fn end_by_request(&mut self, ready_for: Option<Duration>, then: AfterStop) -> ServiceAnswer {
        let name = self.name.clone();
        let detail = match then {
            AfterStop::StartAgain => format!("{name} is being restarted"),
            _ => format!("{name} is being stopped"),
        };
        self.history = RestartHistory::default();
        self.state = ServiceState::Ending {
            ready_for,
            reason: "a request ended it".to_owned(),
            status: None,
            then,
        };
        let actions = vec![
            ServiceAction::StopProbes,
            ServiceAction::Emit(EventKind::ServiceStopping { service: name }),
            ServiceAction::StopTree,
        ];
        ServiceAnswer::done(detail, actions)
    }

    /// Starts a service without processes as soon as the dependencies are usable. Earlier ends do not count towards the
    /// limit of restarts.
    fn start_anew(&mut self, awaited: &str) -> ServiceAnswer {
        self.history = RestartHistory::default();
        self.state = ServiceState::Waiting;
        let detail = format!("{} {}", self.name, starts_after(awaited));
        ServiceAnswer::done(detail, vec![ServiceAction::StopProbes])
    }

    /// Returns the event of a service that is down by request.
    pub(crate) fn stopped_event(&self, status: Option<ExitStatus>) -> ServiceAction {
        ServiceAction::Emit(EventKind::ServiceStopped {
            service: self.name.clone(),
            status: status.unwrap_or(ExitStatus::Unknown),
        })
    }
}

fn starts_after(awaited: &str) -> String {
    match awaited {
        "" => "starts now".to_owned(),
        awaited => format!("starts as soon as it can use {awaited}"),
    }
}

fn not_started_by_orch(name: &orch_journal::ServiceName) -> String {
    format!("{name} was running before orch, which does not stop a service that it did not start")
}

#[cfg(test)]
#[path = "service_requests_tests.rs"]
mod tests;
