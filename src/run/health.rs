//! The words of a site's health, as events and the configuration use them.
//!
//! Not here: how it is judged (`sites::health`).

use serde::{Deserialize, Serialize};

/// How well a site does while it runs; a later one is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteHealth {
    /// Nothing is wrong that orch can see.
    #[default]
    Healthy,
    /// It takes clearly longer than it usually does.
    Slow,
    /// More of its chunks fail than may.
    Failing,
    /// Nothing happens, and nothing keeps it from happening.
    Stalled,
}

impl SiteHealth {
    /// As people say it.
    pub fn word(self) -> &'static str {
        match self {
            SiteHealth::Healthy => "healthy",
            SiteHealth::Slow => "slow",
            SiteHealth::Failing => "failing",
            SiteHealth::Stalled => "stalled",
        }
    }
}

/// What is done when a site is not well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    /// It is told.
    #[default]
    Warn,
    /// The attempt is ended; the next one follows, if there is one.
    Cancel,
    /// The site is ended.
    Fail,
    /// The pool of proxies is refreshed, once for all sites of a run that ask for it.
    RefreshProxies,
}

/// Figures of a site at one moment, over its last chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteVitals {
    /// Chunks that the figures are of, the last ones.
    pub window: u64,
    /// Of these.
    pub failed: u64,
    /// The latest ones, all of which failed.
    pub failed_in_a_row: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks_per_minute: Option<f64>,
    /// Half of the chunks took no longer in their slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_p50_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_p95_ms: Option<u64>,
    /// Since when nothing has happened.
    pub quiet_ms: u64,
}
