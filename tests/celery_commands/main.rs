//! `orch celery ...` with a real broker and a real worker, called as by a probe or by an operator.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../support/mod.rs"]
mod support;

mod command;
mod connection;
mod ping;
mod publish;
mod queues;
mod views;
mod workers;
