//! Views of a run: each folds the events itself and renders the state; no view can block the run.

#![forbid(unsafe_code)]

mod error_report;
mod footer;
mod frame;
mod highlight;
mod json;
mod notice;
#[cfg(test)]
mod notice_tests;
mod overall;
mod paint;
mod plain;
#[cfg(test)]
mod plain_tests;
mod problem_text;
#[cfg(test)]
mod replay_tests;
mod run_conditions;
mod screen;
mod site_errors;
mod status;
mod status_json;
mod status_problems;
#[cfg(test)]
mod status_tests;
mod status_text;
pub mod summary;
mod terminal;
mod text;
pub mod unfinished_run;
mod view;
mod waiting;

pub use crate::error_report::ErrorReport;
pub use crate::frame::service_word;
pub use crate::paint::{StyledLine, TextTone};
pub use crate::run_conditions::RunConditions;
pub use crate::screen::{LiveScreen, release, watch_terminal};
pub use crate::status::{LeftProcesses, ObservedRun, RunLife, ServiceUse, StatusPart};
pub use crate::status_json::StatusJson;
pub use crate::summary::status as site_word;
pub use crate::text::{coarse_span, span};
pub use crate::view::{ViewFormat, ViewHandle, ViewOptions, show_afterwards, start};
