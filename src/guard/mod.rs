//! The small process that is the parent of every service: mechanism only, synchronous, no async runtime.
//!
//! It knows pids, signals and grace periods; it does not know Redis or Celery.

mod protocol;

pub use protocol::*;
