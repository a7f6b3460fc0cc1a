//! `orch logs`: prints the logs of the services of a run, from another terminal.

mod command;
mod line_filter;
mod line_printer;
mod log_choice;
mod log_source;
mod log_time;
mod site_lines;

pub use command::{LogsArgs, main};
