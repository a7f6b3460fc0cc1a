//! When each site of a run may begin: a state machine without processes, clocks or tasks.
//!
//! What happens goes in with the moment at which it does, what is to be done comes out; so a test, a simulation and the real
//! run drive the very same code. The parts:
//!
//! - [`Agenda`]: the sites with what each needs, the limits, how long each is expected to take. Without cycles.
//! - [`Schedule`]: where each site is: waiting, queued, running, pausing, ended.
//! - `queue`: who is next. `room`: what is free, and what is kept free for whom.
//! - [`simulate`]: the same with virtual time.
//!
//! The policy. Among the sites that fit the one goes first that begins the longest chain: its own expected time and that of
//! the longest way through its dependents. Waiting ages: four moments waited count as one expected. A site that has begun and
//! paused (a retry) goes before those that have not. A site that does not fit claims what it needs: others use it only if they
//! are expected to give it back before the claim can be met. What passes it so moves that moment never back, and once it has come
//! nothing passes any more: a site that needs many units is not overtaken for ever, however wrong the expectations are.
//!
//! An event costs O(log n) for each site whose state it changes, and O(d) beside, with d the number of different `uses` among
//! the queued sites.

mod agenda;
mod machine;
#[cfg(test)]
mod makespan;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod properties;
mod queue;
mod room;
mod simulate;
mod state;

pub use agenda::{Agenda, AgendaError, Entry, Limits};
pub use machine::Schedule;
pub use simulate::{Fate, Span, Trace, as_expected, expected_end, simulate};
pub use state::{Admission, Cause, Decision, End, Outcome, Pause, ResourceId, SiteId, State};
