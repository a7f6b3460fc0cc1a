//! Events of tasks and workers, from the socket to the jobs they belong to.

mod body;
mod buffer;
pub(crate) mod decode;
pub(crate) mod event;
mod flat_json;
pub(crate) mod job_events;
pub(crate) mod jobs;
mod read_pacer;
mod reader_thread;
pub(crate) mod stream;
