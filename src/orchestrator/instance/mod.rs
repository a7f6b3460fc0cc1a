//! The state directory of an instance, and the files and locks in it.

pub(crate) mod living_runs;
pub(crate) mod locks;
pub(crate) mod resume;
mod safe_path;
#[cfg(test)]
mod safe_path_tests;
pub(crate) mod stale_files;
pub(crate) mod state_directory;
