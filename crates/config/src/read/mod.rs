//! Readers, one file for each section: keys with their units, defaults and bounds.

pub(crate) mod celery;
mod commands;
mod health;
pub(crate) mod item;
pub(crate) mod load_context;
mod orch;
mod own_worker;
mod policy;
mod probe;
mod proxies;
mod redis;
mod redis_variables;
pub(crate) mod section;
mod services;
mod shared;
mod sites;
mod task;

pub(crate) use crate::read::celery::celery;
pub(crate) use crate::read::orch::orch;
pub(crate) use crate::read::own_worker::check_queues;
pub(crate) use crate::read::proxies::proxies;
pub(crate) use crate::read::redis::redis;
pub(crate) use crate::read::redis_variables::check_redis_variables;
pub(crate) use crate::read::services::services;
pub(crate) use crate::read::shared::{groups, resources};
pub(crate) use crate::read::sites::{SitesFile, sites};
