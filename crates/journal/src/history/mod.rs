//! Earlier runs, read from their journals.

pub(crate) mod baseline;
pub(crate) mod kept_runs;
pub(crate) mod past_runs;
pub(crate) mod past_site;
pub(crate) mod trend;
