//! The small process that is the parent of every service: mechanism only, synchronous, no async runtime.
//!
//! It knows pids, signals and grace periods; it does not know Redis or Celery. `client` is orch's side, `server` the
//! guard's, `protocol` what they say to each other.

mod birth;
mod cgroup;
mod client;
mod inherited_children;
mod init;
mod launch;
mod leftovers;
mod lock;
mod process_table;
mod protocol;
mod records;
mod server;
mod strangers;
mod sweep;
mod sys;

pub use cgroup::own_group as own_control_group;
pub use client::{Error, Guard, GuardEvent, GuardHandle, GuardOptions, HurrySwitch, StopSummary};
pub use init::init;
use init::{GUARD_ARGUMENT, Hello, INITIALISED, RUN_ID_VARIABLE, SERVICE_VARIABLE};
pub use leftovers::{Leftovers, end_leftovers, find_leftovers};
pub use lock::{Holder, InstanceLock, LockError};
pub use process_table::{is_alive, is_the_same_alive, own_start_time, tree as process_tree};
pub use protocol::*;
pub use strangers::reap_strangers;
