//! The proxy pool: its file, its counts, and the refresh that fills it.

mod asked;
mod pool;
mod refresh;

pub(crate) use asked::{end_refresh, refresh_when_asked};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use pool::tally;
pub use pool::{PoolCount, count, count_settled};
pub use refresh::{Error, ProxyVerdict, ensure};
