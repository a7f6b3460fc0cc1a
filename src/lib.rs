//! `orch` takes a machine from nothing to a finished nightly scrape and back to nothing.
//!
//! The parts, from the top: [`cli`] -> [`orchestrator`] -> [`services`], [`proxies`], [`sites`] -> [`guard`],
//! [`celery`] -> [`run`] (facts); [`ui`] depends on `run` alone.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "orch runs on Linux only (kernel 5.4 or newer): its guard needs child subreapers, pidfds and parent-death signals"
);

mod atomic_file;
pub mod celery;
mod claim;
mod clean;
pub mod cli;
pub mod config;
mod counted;
mod duration_text;
mod file_watch;
pub mod follow;
mod free_port;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod graph;
pub mod guard;
mod inotify;
mod instance;
mod large_integer;
mod median;
pub mod memory;
pub mod orchestrator;
mod outlook;
mod percent;
mod plan;
mod presence;
mod printable;
mod private_directory;
pub mod proxies;
mod redaction;
mod regular_file;
mod resume;
pub mod run;
mod scrape;
pub mod services;
mod shared_services;
mod signal_name;
mod simulation;
pub mod sites;
#[cfg(test)]
#[path = "../tests/support/skip.rs"]
mod skip;
mod socket_owner;
mod state_directory;
mod stop_requests;
pub mod ui;
mod unacknowledged_search;
mod unfinished_night;
mod unread_env_file;
mod url_authority;
