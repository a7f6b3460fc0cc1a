//! Rules that decide about one site.

pub(crate) mod circuit_breaker;
pub(crate) mod min_results;
pub(crate) mod retry;
pub(crate) mod standing;
