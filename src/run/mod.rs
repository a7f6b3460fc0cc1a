//! One run's facts: typed events, the reducer that folds them into a snapshot, the journal, the outcome.

mod event;
mod ids;

pub use event::*;
pub use ids::{JobId, RunId, ServiceName, SiteName};
