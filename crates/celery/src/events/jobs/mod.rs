//! Progress of jobs, calculated from task events only. A job is all tasks with the same `root_id`. The app needs no
//! change.

mod job;
mod reconcile;
mod tracker;
#[cfg(test)]
mod tracker_tests;

pub use crate::events::jobs::job::{Job, TaskCounts};
pub use crate::events::jobs::tracker::{JobTracker, TrackerLimits, TrackerTotals};
