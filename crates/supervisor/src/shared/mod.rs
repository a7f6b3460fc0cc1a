//! Services that a run uses and does not own: those of an `orch up` next to the run, or services that were running
//! before.
//!
//! Their deaths are not reported to the run, so the run watches the services: the process of the partner ([`partner`]),
//! workers by their processes and answers ([`WorkerWatch`]), Redis by probes. The results are in
//! [`SharedWorkers`](orch_celery::SharedWorkers) and [`RedisOutage`].

pub mod instance_file;
pub mod partner;
mod process_watch;
mod redis_outage;
mod roster;
mod shared_name;
mod worker_watch;

pub use crate::shared::redis_outage::RedisOutage;
pub use crate::shared::shared_name::SharedName;
pub use crate::shared::worker_watch::{WatchTerms, WorkerWatch, worker_timeout};
