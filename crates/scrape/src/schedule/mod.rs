//! Schedule of a run: decides when each site may begin, as a state machine without processes, clocks or tasks.
//!
//! Events go in with their times, and decisions come out, so that a test, a simulation and the real run use the same
//! code. The parts:
//!
//! - The agenda: the sites with their needs, the limits, and the expected durations. Without cycles.
//! - [`Schedule`]: the state of each site: waiting, queued, running, pausing, ended.
//! - The requests of persons: a pause, a site that begins first, a site that begins again.
//! - The queue: which site is next. The capacity: which slots and units are free, and for which sites units are kept
//!   free.
//! - [`simulate()`]: the schedule in virtual time.
//!
//! The policy. Among the sites that fit, the site with the longest chain goes first: its own expected time plus the
//! longest chain through its dependents. Waiting sites age: four milliseconds of waiting count as one of expected time.
//! A site that has begun and paused (a retry) goes before sites that have not begun. A site that does not fit claims
//! the units that it needs: other sites use these units only if they are expected to give them back before the claim
//! can be met. A site that overtakes in this way never delays that time, and after that time no site overtakes any
//! more: a site that needs many units is not overtaken forever, however wrong the expectations are.
//!
//! An event costs O(log n) for each site with a state that changes, plus O(d), where d is the number of different
//! demands among the queued sites.

mod agenda;
mod capacity;
mod machine;
#[cfg(test)]
mod makespan;
pub(crate) mod memory_gate;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod properties;
mod queue;
#[cfg(test)]
mod random_run;
mod requests;
pub mod simulate;
mod state;

pub use crate::schedule::agenda::{AgendaEntry, AgendaError, AgendaLimits, SiteAgenda};
pub use crate::schedule::machine::Schedule;
pub use crate::schedule::requests::RetryRefusal;
pub use crate::schedule::simulate::{SimulatedTurn, SimulationTrace, TurnSpan, as_expected, expected_end, simulate};
pub use crate::schedule::state::{
    PauseKind, ResourceId, ScheduleDecision, SiteEnd, SiteId, SiteTurn, SkipCause, TurnState,
};
