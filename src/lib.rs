//! `orch` takes a machine from nothing to a finished nightly scrape and back to nothing.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "orch runs on Linux only (kernel 5.4 or newer): its guard needs child subreapers, pidfds and parent-death signals"
);

pub mod celery;
pub mod config;
pub mod follow;
pub mod guard;
pub mod proxies;
pub mod run;
