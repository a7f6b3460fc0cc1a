//! What the user wrote (file, environment, flags) turned into one checked [`Config`]; errors point at the line.

mod model;
mod secret;

pub use model::*;
pub use secret::Secret;
