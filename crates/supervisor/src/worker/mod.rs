//! A Celery worker as a service.

mod acks_late;
pub(crate) mod app_settings;
pub(crate) mod beat;
mod broker_match;
mod broker_outage;
pub mod command_line;
mod consumption;
mod leftovers;
pub(crate) mod log;
pub(crate) mod pool_kind;
mod reused_worker;
pub(crate) mod service;
mod silent_worker;
pub mod site_worker;
mod unknown_tasks;
pub(crate) mod wake_for_stop;
