//! The proxy pool: its file, its counts, and the refresh that fills it.

mod pool;
mod refresh;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use pool::tally;
pub use pool::{PoolCount, count, count_settled};
pub use refresh::{Error, ProxyVerdict, ensure};
