//! Whether a site that runs is well: a pure judgement of its signs of life against the limits of its configuration.
//!
//! Not here: where the signs come from (`follow`), and what is done about a verdict (`attempt`).

mod judge;
#[cfg(test)]
mod judge_tests;
mod window;

pub(super) use judge::{Change, Health, Limits};
