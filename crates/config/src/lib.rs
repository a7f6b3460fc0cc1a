//! Reader of the configuration (file, environment, flags): builds one checked [`Config`] or reports problems with their
//! lines.

#![forbid(unsafe_code)]

mod check;
mod disk_bounds;
mod env_file;
mod load;
mod model;
mod open_bracket;
mod overrides;
mod paths;
mod read;
mod read_text;
mod redis_urls;
#[cfg(test)]
mod reference;
mod select;
mod site_dependencies;
mod sites_file;
mod syntax;
pub mod template;

pub use crate::check::programs::DEFAULT_PATH;
pub use crate::check::programs::{SearchedPlaces, find_celery, find_redis_server};
pub use crate::load::LoadOptions;
pub use crate::model::*;
pub use crate::redis_urls::RedisUrls;
pub use crate::syntax::problem::ConfigErrors;
pub use crate::syntax::problem::nearest;

pub use crate::select::{Selector, UnknownSelector, UnknownSites};
