//! A service of an instance that is up already: used as it is, looked after by the `orch up` that started it.
//!
//! Its Redis is asked like one's own, so that an outage is reported when it begins. Its workers and its `orch up` are watched by
//! `shared_services`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::connection::RedisConnection;
use super::failure::Failure;
use super::life::Role;
use super::program::{Boxed, Prepared, Program, Start};
use super::redis_probe::{self, Found};
use crate::config::LivenessConfig;
use crate::duration_text::shown;
use crate::run::ServiceName;

/// One such service.
pub struct Joined {
    name: ServiceName,
    detail: String,
    log: PathBuf,
    /// Redis: where it is, and how often it is asked.
    redis: Option<(RedisConnection, LivenessConfig)>,
}

impl Joined {
    /// `detail` says whose it is.
    pub fn new(name: ServiceName, detail: String) -> Self {
        Self {
            name,
            detail,
            log: PathBuf::new(),
            redis: None,
        }
    }

    /// The Redis of the instance.
    pub fn redis(name: ServiceName, detail: String, connection: RedisConnection, liveness: LivenessConfig) -> Self {
        Self {
            redis: Some((connection, liveness)),
            ..Self::new(name, detail)
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
        self.redis.as_ref().map(|(_, liveness)| *liveness)
    }

    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>> {
        Box::pin(async move { Ok(Prepared::Reuse(self.detail.clone())) })
    }

    fn ready(self: Arc<Self>, _start: Start) -> Boxed<Result<String, Failure>> {
        Box::pin(async move { Ok(self.detail.clone()) })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move {
            let Some((connection, liveness)) = &self.redis else {
                return Ok(());
            };
            let found = redis_probe::probe(connection, liveness.timeout).await;
            match found {
                // Loading is work, not death.
                Found::Redis | Found::Loading => Ok(()),
                Found::Nothing => Err(format!("nothing listens on {}", connection.address())),
                Found::Silent => Err(format!("no answer to PING within {}", shown(liveness.timeout))),
                Found::Strangers(whose) => Err(format!("what listens on {} is {whose}", connection.address())),
                Found::Locked(words) | Found::Foreign(words) | Found::Unreachable(words) => Err(words),
            }
        })
    }
}
