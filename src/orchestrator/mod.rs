//! The life of one run, and the instance that the run holds.

pub(crate) mod instance;
pub(crate) mod lifecycle;
mod own_workers;
pub(crate) mod requests;
mod run;
pub(crate) mod run_observer;
mod run_services;
mod service_plan;
mod start;
mod state_directory_watch;
mod unacknowledged_search;
pub(crate) mod unfinished_run;
mod unread_env_file;

pub use instance::locks::{RunOptions, StartError};
pub use instance::resume::ResumeTarget;
pub use lifecycle::Orchestrator;
pub use run::RunEnd;
