//! Health of a running site: a pure judgement of the site's signals against the configured limits.
//!
//! [`jobs`](crate::jobs) sends the signals, and [`attempt`](super::attempt) acts on a verdict.

mod judge;
#[cfg(test)]
mod judge_tests;
mod window;

pub(crate) use crate::sites::health::judge::{HealthLimits, HealthMonitor, VerdictChange};
