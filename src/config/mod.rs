//! What the user wrote (file, environment, flags) turned into one checked [`Config`]; errors point at the line.

mod duration;
mod env_file;
mod item;
mod json_tree;
mod load;
mod model;
mod open_bracket;
mod order;
mod overrides;
mod paths;
mod ports;
mod problem;
mod programs;
mod read;
mod redis_urls;
#[cfg(test)]
mod reference;
mod secret;
mod section;
mod select;
mod site_order;
mod sites_file;
mod size;
mod source;
mod templates;
mod toml_tree;
mod tree;
mod yaml_tree;

pub use duration::{DurationError, format_duration, parse_duration};
pub use load::LoadOptions;
pub use model::*;
pub use problem::ConfigErrors;
pub(crate) use problem::nearest;
pub(crate) use programs::DEFAULT_PATH;
pub use programs::{Tried, find_celery, find_redis_server};
pub use redis_urls::RedisUrls;
pub use secret::Secret;
pub use select::{Selector, Unknown, UnknownSites};
