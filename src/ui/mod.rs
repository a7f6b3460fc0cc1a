//! Ways to look at a run: each folds the events for itself and renders the state; none can hold the run up.

mod frame;
mod json;
mod mark;
mod overall;
mod paint;
mod plain;
#[cfg(test)]
mod replay_tests;
mod screen;
mod summary;
mod terminal;
mod text;
mod view;
mod waiting;

pub use crate::counted::plural;
pub use paint::{Line, Tone};
pub use screen::{Screen, release};
pub use summary::status as site_word;
pub use text::{coarse_span, span};
pub use view::{Format, ViewHandle, ViewOptions, show_afterwards, start};
