//! Common parts of the integration tests: orch under test, real servers, real Python; each process belongs to the test
//! that started it.

#![allow(dead_code, reason = "each test crate uses a part of it")]

pub mod bookshop;
pub mod celery;
pub mod orch;
pub mod process;
pub mod python;
pub mod redis;
pub mod schedule;
pub mod sentinel;
pub mod server;
pub mod silent_files;
pub mod skip;
pub mod wait;
pub mod watch;
