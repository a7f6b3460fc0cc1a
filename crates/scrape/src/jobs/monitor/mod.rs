//! Worker monitor: the part that all jobs which are followed at one time share. The monitor has one stream of task
//! events, the number of pool slots, and one search for the remaining tasks of all jobs.
//!
//! Each file has one topic of the monitor: its life, the events, the queries of workers, the subscriptions, the census,
//! the searches, the polls for stale executions, the bans.

mod activity;
mod bans;
mod census;
mod crash_revocations;
mod event_reading;
pub(crate) mod kept;
mod life;
pub(crate) mod loss_search;
mod queue_watch;
pub(crate) mod remaining_work;
mod stale_polls;
pub(crate) mod subscription;
mod work_search;
pub(crate) mod worker_monitor;
mod worker_queries;
