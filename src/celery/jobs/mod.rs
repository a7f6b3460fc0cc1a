//! The progress of jobs, a job being all tasks with one `root_id`, folded from task events alone: it needs no change in
//! the app.

mod job;
mod reconcile;
mod tracker;
#[cfg(test)]
mod tracker_tests;

pub use job::{Job, TaskCounts};
pub use tracker::{JobTracker, Limits, Outcome, Totals};
