//! The small process that is the parent of every service. The guard is synchronous and provides mechanism only: no
//! async runtime, no policy.
//!
//! The guard knows pids, signals and grace periods, but nothing about Redis or Celery. [`Guard`] is the owner's side; a
//! private module is the side of the guard process. [`SpawnOrder`] and [`GuardReport`] are messages between them.
//!
//! ```standalone_crate
//! use std::path::Path;
//! use std::sync::mpsc::channel;
//! use std::time::Duration;
//!
//! use orch_guard::{Guard, GuardEvent, GuardFiles, GuardOptions, GuardReport, SpawnOrder, StopPlan, StopStep};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // The guard is this program, started again: this call must be the first line.
//!     orch_guard::init();
//!     let directory = tempfile::tempdir()?;
//!     let home = directory.path();
//!     let options = GuardOptions { run_id: "example".to_owned(), owns_all_children: false };
//!     let files = GuardFiles { state_dir: home.to_owned(), log: home.join("guard.log"), lock: Vec::new() };
//!     let (sender, events) = channel();
//!     let guard = Guard::start(options)?.begin(&files, move |event| drop(sender.send(event)))?;
//!     guard.handle().spawn(SpawnOrder {
//!         service: "sleeper".to_owned(),
//!         argv: vec!["/bin/sleep".to_owned(), "600".to_owned()],
//!         environment: Vec::new(),
//!         directory: home.to_owned(),
//!         log: home.join("sleeper.log"),
//!         // SIGTERM, a second of grace, then SIGKILL to the whole process tree.
//!         stop: StopPlan { rank: 0, steps: vec![StopStep { signal: 15, grace: Duration::from_secs(1) }] },
//!     })?;
//!     let pid = loop {
//!         if let GuardEvent::Report(GuardReport::Spawned { pid, .. }) = events.recv_timeout(Duration::from_secs(10))? {
//!             break pid;
//!         }
//!     };
//!     assert!(Path::new(&format!("/proc/{pid}")).exists());
//!     guard.stop_all()?;
//!     assert!(!Path::new(&format!("/proc/{pid}")).exists());
//!     Ok(())
//! }
//! ```

#![forbid(unsafe_code)]

mod client;
mod control_group;
mod holder_command;
mod inherited_children;
pub mod init;
mod kill_exactly;
mod leftovers;
mod lock;
mod log;
mod protocol;
mod records;
mod server;
mod unended;

pub use crate::client::error::Error;
pub use crate::client::handle::{Guard, GuardHandle, HurrySwitch, StopSummary, WaitingGuard};
pub use crate::client::options::{GuardFiles, GuardOptions};
pub use crate::client::report_reader::GuardEvent;
pub use crate::client::terminal_switch::TerminalSwitch;
pub use crate::init::init;

pub use crate::holder_command::HolderCommand;
pub use crate::leftovers::{Leftovers, end_leftovers, find_leftovers};
pub use crate::lock::{InstanceLock, LockError, LockHolder};
pub use crate::log::death_of_orch;
pub use crate::records::has_records;

pub use crate::client::reap_orphans::reap_orphans;
pub use crate::protocol::*;
pub use crate::unended::why_unended;
