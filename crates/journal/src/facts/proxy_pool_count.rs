//! Count of the proxies in a pool file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::left_out::LeftOutProxies;

/// Count of the proxies in a pool file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyPoolCount {
    pub file: PathBuf,
    pub total: u64,
    pub usable: u64,
    pub min_usable: u64,
    #[serde(default, skip_serializing_if = "LeftOutProxies::is_none")]
    pub left_out: LeftOutProxies,
    /// Problem with the pool file, if the file could not be read completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
