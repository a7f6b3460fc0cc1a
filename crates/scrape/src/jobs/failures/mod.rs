//! Failed tasks of a job: their exceptions, counted by signature, with the first failure of each signature.

pub(crate) mod exception_text;
pub(crate) mod failure_log;
pub(crate) mod log_excerpt;
pub(crate) mod signature;
pub(crate) mod site_failures;
pub(crate) mod stored_failures;
pub(crate) mod task_end_kind;
pub(crate) mod task_names;
