//! The proxy pool: its file, its counts, and the refresh that fills it.

mod pool;

pub use pool::{PoolCount, count, count_settled};
