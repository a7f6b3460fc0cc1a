//! Ways to look at a run: each folds the events for itself and renders the state; none can hold the run up.

mod json;
mod plain;
mod summary;
mod text;
mod view;

pub use view::{Format, ViewHandle, ViewOptions, start};
