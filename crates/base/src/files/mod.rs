//! File access: atomic replacement, regular files, watches, tails of logs.

pub mod atomic;
pub mod inotify;
pub mod lines_from_end;
pub mod log_reader;
pub mod path_watch;
pub mod private_directory;
pub mod regular;
pub mod tail;
pub mod watch;
