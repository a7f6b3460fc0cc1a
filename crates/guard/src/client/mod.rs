//! orch's side of the guard: start, orders and reports.

mod channel;
pub(crate) mod error;
pub(crate) mod handle;
mod lost;
pub(crate) mod options;
pub(crate) mod reap_orphans;
pub(crate) mod report_reader;
mod start;
pub(crate) mod terminal_switch;
