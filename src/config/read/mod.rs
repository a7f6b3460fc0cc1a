//! One file a section: which keys it has, their units, defaults and bounds.

mod celery;
mod health;
mod orch;
mod own_worker;
mod policy;
mod probe;
mod proxies;
mod redis;
mod redis_variables;
mod services;
mod shared;
mod sites;
mod task;

pub(super) use celery::{celery, needs_redis as celery_needs_redis};
pub(super) use orch::orch;
pub(super) use own_worker::check_queues;
pub(super) use proxies::proxies;
pub(super) use redis::redis;
pub(super) use redis_variables::check_redis_variables;
pub(super) use services::services;
pub(super) use shared::{groups, resources};
pub(super) use sites::{SitesFile, sites};
