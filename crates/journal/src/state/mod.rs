//! State of a run, folded from the events.

mod error_fold;
pub(crate) mod error_view;
mod fold;
#[cfg(test)]
mod fold_tests;
pub(crate) mod model;
pub(crate) mod totals;
pub(crate) mod views;
