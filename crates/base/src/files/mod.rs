//! File access: atomic replacement, regular files, watches, bounded logs.

pub mod atomic;
pub mod inotify;
pub mod lines_from_end;
pub mod log_bound;
pub mod log_cut;
mod log_origin;
pub mod log_pieces;
pub mod log_reader;
pub mod log_stream;
pub mod path_watch;
pub mod private_directory;
pub mod regular;
pub mod tail;
pub mod watch;
