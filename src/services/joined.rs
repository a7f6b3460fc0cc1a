//! A service of an instance that is up already: used as it is, looked after by the `orch up` that started it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::life::Role;
use super::program::{Boxed, Prepared, Program, Start};
use crate::config::LivenessConfig;
use crate::run::ServiceName;

/// One such service.
pub struct Joined {
    name: ServiceName,
    detail: String,
    log: PathBuf,
}

impl Joined {
    /// `detail` says whose it is.
    pub fn new(name: ServiceName, detail: String) -> Self {
        Self {
            name,
            detail,
            log: PathBuf::new(),
        }
    }
}

impl Program for Joined {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> Role {
        Role::Oneshot
    }

    fn log(&self) -> &Path {
        &self.log
    }

    fn start_timeout(&self) -> Duration {
        Duration::ZERO
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        None
    }

    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>> {
        Box::pin(async move { Ok(Prepared::Reuse(self.detail.clone())) })
    }

    fn ready(self: Arc<Self>, _start: Start) -> Boxed<Result<String, Failure>> {
        Box::pin(async move { Ok(self.detail.clone()) })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move { Ok(()) })
    }
}
