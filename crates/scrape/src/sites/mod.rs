//! Sites of a run: their attempts, retries and limits, and the registry that shows their progress.

mod attempt;
mod attempt_end;
mod cancel_run;
mod cancel_site;
mod empty_sites;
mod forecast;
mod health;
mod lease;
mod leased_attempt;
mod memory_watch;
mod own_worker;
mod policy;
mod registry;
mod registry_keeper;
mod report;
mod run_plan;
mod run_sites;
mod runner_requests;
mod site_driver;
mod site_projections;
#[cfg(test)]
mod site_properties;
mod site_state;
mod site_step;
mod take_lease;
mod template_values;
mod wait_for_lease;

pub use crate::jobs::{JobContext, KeptMonitor, SettledCheck, StopRequests, WorkerLogs};
pub use crate::sites::cancel_run::{WorkersAfterRun, cancel};
pub use crate::sites::empty_sites::hint_at_empty_sites;
pub use crate::sites::lease::{LeaseHolder, LeaseOccupant, LeaseStore, LeaseTerms, OutagePolicy};
pub use crate::sites::own_worker::{OwnWorkers, WorkerRequest};
pub use crate::sites::policy::circuit_breaker::{BreakerSkip, BreakerState};
pub use crate::sites::policy::min_results::{ResultShortfall, YieldVerdict};
pub use crate::sites::policy::standing::SiteStanding;
pub use crate::sites::registry::{Registry, RegistryStatus};
pub use crate::sites::report::SiteReport;
pub use crate::sites::run_plan::RunPlan;
pub use crate::sites::run_sites::run_all;
pub use crate::sites::template_values::{key_prefixes, template_values};
pub use crate::sites::wait_for_lease::{AllSitesHeld, wait_for_a_free_site};
