//! Nightly work: jobs, proxies, sites and their schedule.

#![forbid(unsafe_code)]

pub mod jobs;
pub mod proxies;
pub mod schedule;
pub mod sites;
