//! The phase of the guard as a pure state machine: phase and input determine the next phase and the actions.
//!
//! ```text
//! Serving -> StopAwaited (a signal) -> Stopping (orch is connected -> has said goodbye, or is lost) -> end
//! ```
//! A stop is final: no input leads from `Stopping` to another phase. The guard ends when nothing is left and orch has
//! said goodbye or is lost. Not here: the stops of single services, and hurry, which changes no phase.

use std::time::{Duration, Instant};

use crate::log::ORCH_GONE;
use crate::protocol::GuardReport;

/// Time in which orch can order the stop that a signal has asked for.
const STOP_ORDER_TIMEOUT: Duration = Duration::from_secs(2);

const STOP_NOT_ORDERED: &str = "orch has not ordered the stop that a signal asked for: ordered stop";

/// The phase of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardPhase {
    /// Services are started and ended on request.
    Serving,
    /// A signal has asked for an end; orch can order the stop until this time.
    StopAwaited { until: Instant },
    /// All services are to end, and none is started any more.
    Stopping {
        orch: OrchPresence,
        all_gone_reported: bool,
    },
}

/// The presence of orch during a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrchPresence {
    Connected,
    /// orch has announced that the guard is no longer needed.
    SaidGoodbye,
    /// The socket is closed or cannot be used, without a goodbye.
    Lost,
}

/// An input of the guard's state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseInput {
    /// A signal to the guard asks for an end.
    SignalledToEnd {
        signal: i32,
        sender: u32,
    },
    /// A turn of the event loop: a deadline may be over.
    TimePassed,
    StopOrdered,
    GoodbyeOrdered,
    SocketClosed,
    SocketFailed,
    /// Everything was to end, and no descendant is left.
    NothingLeft,
}

/// An output of the guard's state machine; the actions are carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhaseAction {
    Log(&'static str),
    Report(GuardReport),
    /// Restore the terminal that orch has changed.
    ResetTerminal,
    /// Remove the traces of the run and end. After a goodbye, orch removes the control group.
    End {
        removes_group: bool,
    },
}

impl GuardPhase {
    pub fn is_stopping(self) -> bool {
        matches!(self, GuardPhase::Stopping { .. })
    }

    /// Returns the time of the next step that no other input causes.
    pub fn deadline(self) -> Option<Instant> {
        match self {
            GuardPhase::StopAwaited { until } => Some(until),
            GuardPhase::Serving | GuardPhase::Stopping { .. } => None,
        }
    }

    /// Handles one input.
    pub fn step(self, input: PhaseInput, now: Instant) -> (Self, Vec<PhaseAction>) {
        use GuardPhase::{Serving, StopAwaited, Stopping};
        let (orch, all_gone_reported) = match self {
            Serving | StopAwaited { .. } => (OrchPresence::Connected, false),
            Stopping {
                orch,
                all_gone_reported,
            } => (orch, all_gone_reported),
        };
        let stopping = |orch| Stopping {
            orch,
            all_gone_reported,
        };
        match input {
            PhaseInput::SignalledToEnd { signal, sender } => {
                let report = PhaseAction::Report(GuardReport::Signalled {
                    signal,
                    sender,
                    asks_to_end: true,
                });
                match self {
                    Serving => (
                        StopAwaited {
                            until: now + STOP_ORDER_TIMEOUT,
                        },
                        vec![report],
                    ),
                    StopAwaited { .. } => (self, vec![report]),
                    Stopping { .. } => (self, vec![]),
                }
            }
            PhaseInput::TimePassed => match self {
                StopAwaited { until } if now >= until => (stopping(orch), vec![PhaseAction::Log(STOP_NOT_ORDERED)]),
                Serving | StopAwaited { .. } | Stopping { .. } => (self, vec![]),
            },
            // The report is the answer to each such order.
            PhaseInput::StopOrdered => (
                Stopping {
                    orch,
                    all_gone_reported: false,
                },
                vec![],
            ),
            PhaseInput::GoodbyeOrdered => (stopping(OrchPresence::SaidGoodbye), vec![]),
            PhaseInput::SocketClosed | PhaseInput::SocketFailed if orch == OrchPresence::SaidGoodbye => (self, vec![]),
            PhaseInput::SocketClosed => (
                stopping(OrchPresence::Lost),
                vec![PhaseAction::Log(ORCH_GONE), PhaseAction::ResetTerminal],
            ),
            // The reader of the socket has logged the cause. orch may be alive, and then restores the terminal itself.
            PhaseInput::SocketFailed => (stopping(OrchPresence::Lost), vec![]),
            PhaseInput::NothingLeft => match self {
                Serving | StopAwaited { .. } => (self, vec![]),
                Stopping { .. } => {
                    let mut actions = Vec::new();
                    if !all_gone_reported {
                        actions.push(PhaseAction::Report(GuardReport::AllGone));
                    }
                    match orch {
                        OrchPresence::Connected => {}
                        OrchPresence::SaidGoodbye => actions.push(PhaseAction::End { removes_group: false }),
                        OrchPresence::Lost => actions.push(PhaseAction::End { removes_group: true }),
                    }
                    let next = Stopping {
                        orch,
                        all_gone_reported: true,
                    };
                    (next, actions)
                }
            },
        }
    }
}

#[cfg(test)]
#[path = "guard_phase_tests.rs"]
mod tests;
