//! The sites of a run: their jobs, retries, limits, and the registry of their progress.

mod attempt;
mod attempt_end;
mod breaker;
mod busy;
mod cancel;
mod course;
mod empty_sites;
mod end_site;
mod forecast;
mod health;
mod lease;
mod memory_watch;
mod registry;
mod report;
mod retry;
mod sanity;
pub mod schedule;
mod scheduler;
mod standing;
mod take;
mod under_lease;
mod values;
mod work;

pub use crate::follow::{Asker, Context, Settled, Stops};
pub use breaker::{Skip, Tries};
pub use busy::{AllHeld, wait_for_a_free_site};
pub use cancel::{Workers, cancel};
pub use empty_sites::hint_at_empty_sites;
pub use lease::{Holder, LeaseStore, Occupant, Outage, Terms};
pub use registry::{Registry, RegistryStatus};
pub use report::SiteReport;
pub use sanity::{Shortfall, Yield};
pub use scheduler::run_all;
pub use standing::Standing;
pub use values::{key_prefixes, values};
pub use work::Work;
