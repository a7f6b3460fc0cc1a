//! Messages in the broker: locations of tasks, stuck messages, leftovers.

pub(crate) mod broker_queues;
pub(crate) mod chord_state;
pub(crate) mod consumers;
pub(crate) mod consumption;
pub(crate) mod diagnosis;
pub(crate) mod find_tasks;
pub(crate) mod leftovers;
pub(crate) mod message_counts;
pub(crate) mod mistyped_keys;
pub(crate) mod observed_lists;
pub(crate) mod poison;
pub(crate) mod pool_process;
pub(crate) mod remove_messages;
mod restore_scope;
pub(crate) mod restore_unacked;
mod scan;
pub(crate) mod server;
pub(crate) mod shared_workers;
mod task_holders;
mod worker_tasks;
