//! `orch` starts the services of a nightly scrape, runs the scrape, and stops all services again.
//!
//! Each part is a separate crate, which this crate re-exports under a short name. `ARCHITECTURE.md` lists the
//! dependencies between the crates.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "orch runs on Linux only (kernel 5.4 or newer): its guard needs child subreapers, pidfds and parent-death signals"
);

pub mod commands;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod orchestrator;

#[cfg(test)]
#[path = "../tests/support/skip.rs"]
mod skip;

pub use orch_celery as celery;
pub use orch_config as config;
pub use orch_guard as guard;
pub use orch_journal as journal;
pub use orch_scrape as scrape;
pub use orch_supervisor as supervisor;
pub use orch_views as views;
