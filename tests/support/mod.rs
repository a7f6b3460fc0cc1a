//! What integration tests share: real servers, real Python, each owned by the test that started it.

#![allow(dead_code, reason = "each test crate uses a part of it")]

pub mod celery;
pub mod process;
pub mod python;
pub mod redis;
