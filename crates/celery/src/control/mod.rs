//! Control commands to workers and their replies.

pub(crate) mod commands;
pub(crate) mod inspect;
pub(crate) mod mailbox;
mod reply_list;
pub(crate) mod signal;
