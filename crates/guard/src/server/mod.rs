//! The guard's side: event loop, spawns and kills.

pub(crate) mod event_loop;
mod guard_phase;
mod guarded_service;
pub(crate) mod kill_tree;
pub(crate) mod orch_socket;
mod run_cleanup;
mod spawn;
mod terminal_reset;
