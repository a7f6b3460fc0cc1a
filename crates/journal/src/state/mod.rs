//! State of a run, folded from the events.

mod fold;
#[cfg(test)]
mod fold_tests;
pub(crate) mod model;
pub(crate) mod totals;
pub(crate) mod views;
