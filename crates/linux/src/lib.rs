//! Starts of processes and other calls to the kernel that need unsafe code. Only the guard uses this crate.

pub mod exit;
pub mod prepared_process;
mod process_record;
pub mod spawn_in_group;
pub mod sys;
