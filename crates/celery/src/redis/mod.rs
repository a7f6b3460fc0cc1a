//! Connections to Redis: addresses, Sentinels, commands, subscriptions.

pub(crate) mod celery_url;
pub(crate) mod connection;
pub(crate) mod connector;
pub(crate) mod endpoint;
pub(crate) mod endpoint_url;
pub(crate) mod limited_connection;
pub(crate) mod pubsub_frame;
mod reply_limit;
mod resolver;
pub(crate) mod server_address;
pub(crate) mod server_candidate;
pub(crate) mod server_info;
pub(crate) mod subscription;
