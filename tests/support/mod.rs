//! What integration tests share: orch under test, real servers, real Python, each owned by the test that started it.

#![allow(dead_code, reason = "each test crate uses a part of it")]

pub mod bookshop;
pub mod celery;
pub mod orch;
pub mod process;
pub mod python;
pub mod redis;
pub mod sentinel;
pub mod server;
pub mod skip;
