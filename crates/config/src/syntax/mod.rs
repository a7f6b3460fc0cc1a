//! TOML, YAML and JSON as one tree with positions.

pub(crate) mod json;
pub(crate) mod problem;
pub(crate) mod source;
pub(crate) mod toml;
pub(crate) mod tree;
pub(crate) mod yaml;
