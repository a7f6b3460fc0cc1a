//! Site health and health actions, as events use them.

pub use orch_base::names::HealthAction;
use serde::{Deserialize, Serialize};

/// Health of a site while it runs; a later variant is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteHealth {
    /// No problem that orch can see.
    #[default]
    Healthy,
    /// The site takes clearly longer than usual.
    Slow,
    /// More chunks fail than allowed.
    Failing,
    /// Nothing happens although nothing prevents the work.
    Stalled,
}

impl SiteHealth {
    /// Returns the word for people.
    pub fn word(self) -> &'static str {
        match self {
            SiteHealth::Healthy => "healthy",
            SiteHealth::Slow => "slow",
            SiteHealth::Failing => "failing",
            SiteHealth::Stalled => "stalled",
        }
    }
}

/// Metrics of a site at one time, over the last chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteMetrics {
    /// Number of the last chunks that the metrics cover.
    pub window: u64,
    /// Number of failed chunks among them.
    pub failed: u64,
    /// Number of the latest consecutive failed chunks.
    pub failed_in_a_row: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks_per_minute: Option<f64>,
    /// Median of the time of a chunk in a slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_p50_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_p95_ms: Option<u64>,
    /// Time without any activity.
    pub quiet_ms: u64,
}
