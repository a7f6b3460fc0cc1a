//! A service of an instance that another `orch up` runs: this run uses the service without changes, and that `orch up`
//! keeps it running.
//!
//! The Redis of that instance is probed like an own one, so that an outage is reported at once. The workers and that
//! `orch up` are watched by [`shared`](crate::shared).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::redis::connection::RedisConnection;
use crate::redis::probe;
use crate::redis::probe::RedisProbeResult;
use crate::service_kind::{BoxedFuture, PreparedStart, ServiceKind, ServiceStart};
use crate::states::ServiceRole;
use orch_base::text::duration_text::shown;
use orch_config::LivenessConfig;
use orch_journal::ServiceName;
use orch_journal::failure::ServiceFailure;

/// A service that another `orch up` runs.
pub struct SharedService {
    name: ServiceName,
    detail: String,
    log: PathBuf,
    /// For Redis: address, and interval of the probes.
    redis: Option<(RedisConnection, LivenessConfig)>,
}

impl SharedService {
    /// Describes a service; `detail` names the owner.
    pub fn new(name: ServiceName, detail: String) -> Self {
        Self {
            name,
            detail,
            log: PathBuf::new(),
            redis: None,
        }
    }

    /// Describes the Redis of the instance.
    pub fn redis(name: ServiceName, detail: String, connection: RedisConnection, liveness: LivenessConfig) -> Self {
        Self {
            redis: Some((connection, liveness)),
            ..Self::new(name, detail)
        }
    }
}

impl ServiceKind for SharedService {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> ServiceRole {
        ServiceRole::Oneshot
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

    fn prepare(self: Arc<Self>) -> BoxedFuture<Result<PreparedStart, ServiceFailure>> {
        Box::pin(async move { Ok(PreparedStart::Reuse(self.detail.clone())) })
    }

    fn ready(self: Arc<Self>, _start: ServiceStart) -> BoxedFuture<Result<String, ServiceFailure>> {
        Box::pin(async move { Ok(self.detail.clone()) })
    }

    fn alive(self: Arc<Self>) -> BoxedFuture<Result<(), String>> {
        Box::pin(async move {
            let Some((connection, liveness)) = &self.redis else {
                return Ok(());
            };
            let found = probe::probe(connection, liveness.timeout).await;
            match found {
                // A Redis that loads its data is alive.
                RedisProbeResult::Redis | RedisProbeResult::Loading => Ok(()),
                RedisProbeResult::NotListening => Err(format!("nothing listens on {}", connection.address())),
                RedisProbeResult::NoAnswer => Err(format!("no answer to PING within {}", shown(liveness.timeout))),
                RedisProbeResult::OtherUser(whose) => Err(format!("the server on {} is {whose}", connection.address())),
                RedisProbeResult::AccessDenied(words)
                | RedisProbeResult::NotRedis(words)
                | RedisProbeResult::Unreachable(words) => Err(words),
            }
        })
    }
}
