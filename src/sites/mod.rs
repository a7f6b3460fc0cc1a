//! The sites of a run: their jobs, retries, limits, and the registry of their progress.

mod attempt;
mod cancel;
mod registry;
mod retry;
mod scheduler;
mod values;

pub use crate::follow::Context;
pub use cancel::cancel;
pub use registry::{Registry, RegistryStatus};
pub use scheduler::{SiteReport, run_all};
pub use values::{key_prefixes, values};
