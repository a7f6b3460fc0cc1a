//! Services that a run uses and does not own: those of an `orch up` beside it, or what was there before.
//!
//! Nobody reports their deaths to the run, so it watches for itself: the process of the partner ([`partner`]), workers by
//! their processes and answers ([`WorkerWatch`]), Redis by the same questions. What is known is in [`SharedWorkers`].

mod handle;
pub mod partner;
mod process_watch;
mod roster;
mod shared_name;
mod task_holders;
mod worker_watch;

pub use handle::{DeadWorker, SharedWorkers};
pub use shared_name::SharedName;
pub use worker_watch::{WatchTerms, WorkerWatch, worker_timeout};
