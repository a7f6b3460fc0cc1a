//! Publishing of tasks, and their results.

pub(crate) mod chord;
pub(crate) mod descendants;
pub(crate) mod publish;
mod result_dispatcher;
pub(crate) mod result_store;
pub(crate) mod result_tree;
pub(crate) mod result_watch;
mod signature;
mod stored_values;
pub(crate) mod task;
pub(crate) mod task_message;
pub(crate) mod task_result;
