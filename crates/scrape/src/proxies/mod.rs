//! Proxy pool: the file, the counts, and the refresh of the file.

mod address;
mod checked_at;
mod dead_mark;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod judge;
mod pool;
mod pool_count;
mod pool_text;
mod refresh;
mod requested_refresh;
mod scalar;
mod suspect;
mod utf8_reader;
mod verdict;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use crate::proxies::fuzzing::tally;
pub use crate::proxies::judge::PoolRules;
pub use crate::proxies::pool::{count, count_settled};
pub use crate::proxies::pool_count::PoolCount;
pub use crate::proxies::refresh::{ProxyRefresh, RefreshError, ensure};
pub(crate) use crate::proxies::requested_refresh::{end_refresh, refresh_when_asked};
pub use crate::proxies::suspect::SuspectPool;
pub use crate::proxies::verdict::ProxyVerdict;
