//! The proxy pool: its file, its counts, and the refresh that fills it.

mod address;
mod asked;
mod checked_at;
mod dead_mark;
mod judge;
mod pool;
mod pool_text;
mod refresh;
mod scalar;
mod suspect;
mod utf8_reader;
mod verdict;

pub(crate) use asked::{end_refresh, refresh_when_asked};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzed::tally;
pub use judge::PoolRules;
pub use pool::{PoolCount, count, count_settled};
pub use refresh::{Error, Refresh, ensure};
pub use suspect::SuspectPool;
pub use verdict::ProxyVerdict;

#[cfg(any(test, feature = "fuzzing"))]
mod fuzzed {
    use std::time::Duration;

    use super::checked_at::Clock;
    use super::judge::{Judge, PoolRules};
    use super::pool::PoolCount;

    /// Counts a text of no file, by rules in which every field matters.
    pub(crate) fn tally(bytes: &[u8]) -> PoolCount {
        let rules = PoolRules {
            unusable_anonymity: vec!["Transparent".to_owned()],
            max_age: Some(Duration::from_secs(1)),
        };
        let judge = Judge {
            rules: &rules,
            clock: Clock::of_system(),
            written: None,
        };
        super::pool_text::tally(bytes, &judge)
    }
}
