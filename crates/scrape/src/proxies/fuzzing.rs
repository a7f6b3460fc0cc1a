//! Entry of the fuzz targets into the pool's text.

use std::time::Duration;

use super::checked_at::CheckClock;
use super::judge::{PoolJudge, PoolRules};
use super::pool_count::PoolCount;
use super::pool_text;

/// Counts a text without a file, by rules for which every field matters.
pub fn tally(bytes: &[u8]) -> PoolCount {
    let rules = PoolRules {
        unusable_anonymity: vec!["Transparent".to_owned()],
        max_age: Some(Duration::from_secs(1)),
    };
    let judge = PoolJudge {
        rules: &rules,
        clock: CheckClock::of_system(),
        written: None,
    };
    pool_text::tally(bytes, &judge)
}
