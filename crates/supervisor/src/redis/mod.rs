//! Redis as a service.

pub mod connection;
mod data;
pub mod decision;
pub(crate) mod mistyped_keys;
pub(crate) mod probe;
pub(crate) mod refusal;
pub(crate) mod refusal_watch;
pub mod sentinel_master;
pub(crate) mod service;
