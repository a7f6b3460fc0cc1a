//! Follows one job: turns results, events, keys and time into inputs of the pure state machine, and reports the facts
//! that the state machine returns.
//!
//! The follower is a plain future: dropping it ends everything. Each file has one topic: the follower itself, the
//! select loop, the ends of tasks, the losses, the progress, the searches. Not here: the purpose of the job, and the
//! steps after the end of the job.

pub(crate) mod job_follower;
mod losses;
mod pending;
mod progress_readings;
mod searches;
mod select_loop;
mod task_ends;
