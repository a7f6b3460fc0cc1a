//! Requests of other commands to an active run: lines in a file of the run's directory, which the run watches. The
//! answers are events of the run's journal.
//!
//! A file has advantages over a socket or a key in Redis: the state directory is private, so a user with write
//! permission there may do all that orch may do; the file needs no answering Redis, no port and no thread; each line is
//! appended by one write, so that concurrent requests are not lost; and a request that comes before the run watches the
//! file is handled later. The file reaches only the run of its own state directory, by intention: on another host the
//! command must run there.

mod receiver;
mod request_file;
pub(crate) mod request_line;
mod request_reader;

pub(crate) use receiver::RequestReceiver;
pub(crate) use request_file::{append_request, this_process};
pub(crate) use request_reader::RequestReader;
