//! Redis as a service: one that is already running, or an own one with a generated configuration.
//!
//! Only an owned Redis gets a password, a directory and the clean-up; a running one is used without changes.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::connection::{OWN_USER, RedisConnection, SOCKET};
use super::data;
use super::decision::RedisDecision;
use super::probe;
use super::probe::{LOADING_TIMEOUT, MAX_POLL_INTERVAL, PING_TIMEOUT, RedisProbeResult};
use crate::environment::merge;
use crate::port_guard;
use crate::port_guard::{PortAlarm, PortGuard};
use crate::service_kind::{BoxedFuture, PreparedStart, ServiceKind, ServiceStart, not_ready};
use crate::states::ServiceRole;
use orch_base::files::atomic;
use orch_base::files::log_bound::LogBound;
use orch_base::net::listener::listener;
use orch_base::text::duration_text::shown;
use orch_config::{LivenessConfig, RedisConfig};
use orch_guard::{SpawnOrder, StopPlan};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, ServiceName};

/// First interval between PINGs of a server that starts: the first answers come after about 10 ms.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Commands that services may not use in an owned Redis: they would take it away from orch or out of the directory. All
/// other commands are allowed, since apps use KEYS, INFO, FLUSHDB and CLIENT. All of these exist since Redis 6.2.
pub(crate) const ADMINISTRATIVE: [&str; 13] = [
    "acl",
    "bgrewriteaof",
    "bgsave",
    "cluster",
    "config",
    "debug",
    "failover",
    "module",
    "psync",
    "replicaof",
    "shutdown",
    "slaveof",
    "sync",
];

/// The Redis of this run as a service.
pub struct RedisService {
    name: ServiceName,
    config: RedisConfig,
    decision: RedisDecision,
    /// The server's binary; empty for a reused server.
    program: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    environment: Vec<(String, String)>,
    rank: u32,
    /// Keeps other programs from the port of an own Redis while that Redis is down.
    port: Arc<PortGuard>,
    /// Damaged data is moved aside once per run: a second failure has another cause.
    data_moved: AtomicBool,
}

impl RedisService {
    /// Creates the service. `state_dir` gets the directory `redis` with configuration and data; `alarm` is raised when
    /// another user takes the port.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a Redis needs")]
    pub fn new(
        config: &RedisConfig,
        decision: RedisDecision,
        program: PathBuf,
        state_dir: &Path,
        log: PathBuf,
        base: &[(String, String)],
        rank: u32,
        alarm: Arc<PortAlarm>,
    ) -> Self {
        Self {
            name: "redis".into(),
            config: config.clone(),
            decision,
            program,
            directory: state_dir.join("redis"),
            log,
            environment: merge(base, &std::collections::BTreeMap::new(), &[]),
            rank,
            port: Arc::new(PortGuard::new(alarm)),
            data_moved: AtomicBool::new(false),
        }
    }

    /// Writes the configuration, private from the beginning, and returns the order to start the server.
    fn write_configuration(&self, connection: &RedisConnection) -> std::io::Result<SpawnOrder> {
        let data = self.directory.join("data");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
        let file = self.directory.join("redis.conf");
        atomic::replace(&file, configuration(connection, &data, &self.config).as_bytes())?;
        Ok(SpawnOrder {
            service: self.name.as_str().to_owned(),
            argv: vec![
                self.program.to_string_lossy().into_owned(),
                file.to_string_lossy().into_owned(),
            ],
            environment: self.environment.clone(),
            directory: data,
            log: self.log.clone(),
            stop: StopPlan::new(self.rank, [(nix::libc::SIGTERM, self.config.grace)]),
        })
    }
}

/// Builds the lines of `redis.conf`.
fn configuration(connection: &RedisConnection, data: &Path, config: &RedisConfig) -> String {
    let mut lines = vec![
        "# Written by orch at each start; changes are lost. Use `[redis] settings` instead.".to_owned(),
        format!("bind {}", connection.host),
        format!("port {}", connection.port),
        // orch itself uses the socket. The directory around the socket is private.
        format!("unixsocket {SOCKET}"),
        "unixsocketperm 700".to_owned(),
        "protected-mode yes".to_owned(),
        "daemonize no".to_owned(),
        // The log goes to standard output, which the guard appends to the run's redis.log.
        "logfile \"\"".to_owned(),
        format!("dir {}", quote(&data.to_string_lossy())),
        // A killed Redis may lose one second of work. Snapshots would fork a copy of the process at night.
        "appendonly yes".to_owned(),
        "appendfsync everysec".to_owned(),
        "aof-load-truncated yes".to_owned(),
        "save \"\"".to_owned(),
        // A rewritten title would overwrite the environment, and with that the run id that marks the process.
        "set-proc-title no".to_owned(),
        format!(
            "databases {}",
            connection.broker_db.max(connection.result_db).max(15) + 1
        ),
    ];
    let app = match &connection.password {
        Some(password) => format!(">{}", password.expose()),
        None => "nopass".to_owned(),
    };
    let refused = ADMINISTRATIVE.map(|command| format!("-{command}")).join(" ");
    lines.push(format!("user default reset on {app} ~* &* +@all {refused}"));
    if let Some(password) = &connection.own_password {
        lines.push(format!("user {OWN_USER} reset on >{} ~* &* +@all", password.expose()));
    }
    lines.extend(config.settings.iter().map(|(name, value)| format!("{name} {value}")));
    lines.join("\n") + "\n"
}

/// Quotes a word of redis.conf.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl ServiceKind for RedisService {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> ServiceRole {
        ServiceRole::probed_daemon(self.config.restart, self.config.liveness.failures)
    }

    fn log(&self) -> &Path {
        &self.log
    }

    fn log_bound(&self) -> LogBound {
        self.config.log
    }

    fn start_timeout(&self) -> Duration {
        self.config.start_timeout
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        Some(self.config.liveness)
    }

    fn prepare(self: Arc<Self>) -> BoxedFuture<Result<PreparedStart, ServiceFailure>> {
        Box::pin(async move {
            match &self.decision {
                RedisDecision::Reuse(connection) => {
                    let version = server_version(connection).await.unwrap_or_else(|_| "redis".to_owned());
                    let listener_note = listener(&connection.host, connection.port)
                        .map_or_else(String::new, |listener| format!(" ({listener})"));
                    Ok(PreparedStart::Reuse(format!(
                        "{version} on {}{listener_note}",
                        connection.address()
                    )))
                }
                RedisDecision::Own(connection) => match self
                    .port
                    .open(connection, self.config.start_timeout)
                    .map(|()| self.write_configuration(connection))
                {
                    Err(failure) => Err(failure),
                    Ok(Ok(order)) => Ok(PreparedStart::Spawn(Box::new(order))),
                    Ok(Err(error)) => {
                        let what = format!(
                            "could not write the configuration of Redis in {}",
                            self.directory.display()
                        );
                        Err(ServiceFailure::infrastructure(what).with_cause(error.to_string()))
                    }
                },
            }
        })
    }

    fn repair_start(&self, log_offset: u64) -> Option<EventKind> {
        let is_first = !self.data_moved.swap(true, Ordering::Relaxed);
        let mended = is_first.then(|| data::move_damaged_aside(&self.directory, &self.log, log_offset));
        let problem = mended.flatten()?;
        Some(EventKind::RedisProblemFound { problem })
    }

    fn ready(self: Arc<Self>, start: ServiceStart) -> BoxedFuture<Result<String, ServiceFailure>> {
        Box::pin(async move {
            let connection = self.decision.connection();
            let (mut deadline, mut interval) = (start.deadline, MIN_POLL_INTERVAL);
            loop {
                let found = probe::probe(connection, PING_TIMEOUT).await;
                let answer = match found {
                    RedisProbeResult::Redis => {
                        self.port.close();
                        let version = server_version(connection).await?;
                        data::rewrite_long_file(connection, &self.directory).await;
                        return Ok(format!("{version} on {}", connection.address()));
                    }
                    RedisProbeResult::Loading => {
                        deadline = start.spawned + LOADING_TIMEOUT;
                        "it is loading its data".to_owned()
                    }
                    RedisProbeResult::NotListening => "the connection is refused".to_owned(),
                    RedisProbeResult::OtherUser(owner) => {
                        let reason = format!("it is held by {owner}, to whom no password was sent");
                        return Err(port_guard::taken(connection, reason).with_log(&self.log));
                    }
                    RedisProbeResult::NoAnswer => format!("no answer within {}", shown(PING_TIMEOUT)),
                    RedisProbeResult::AccessDenied(words) | RedisProbeResult::NotRedis(words) => {
                        let what = format!(
                            "the server that orch started on {} does not answer as Redis",
                            connection.address()
                        );
                        return Err(ServiceFailure::infrastructure(what)
                            .with_cause(words)
                            .with_log(&self.log));
                    }
                    RedisProbeResult::Unreachable(error) => error,
                };
                if Instant::now() >= deadline {
                    let failure = not_ready("Redis", start.spawned.elapsed(), answer, &self.log);
                    return Err(failure.hint("`[redis] start_timeout` sets how long it may take"));
                }
                tokio::time::sleep(interval).await;
                interval = (interval * 2).min(MAX_POLL_INTERVAL);
            }
        })
    }

    fn alive(self: Arc<Self>) -> BoxedFuture<Result<(), String>> {
        Box::pin(async move {
            let connection = self.decision.connection();
            let found = probe::probe(connection, self.config.liveness.timeout).await;
            match found {
                // A Redis that loads its data is alive.
                RedisProbeResult::Redis | RedisProbeResult::Loading => Ok(()),
                RedisProbeResult::NotListening => Err(format!("nothing listens on {}", connection.address())),
                RedisProbeResult::OtherUser(owner) => Err(format!("the server on {} is {owner}", connection.address())),
                RedisProbeResult::NoAnswer => Err(format!(
                    "no answer to PING within {}",
                    shown(self.config.liveness.timeout)
                )),
                RedisProbeResult::AccessDenied(words)
                | RedisProbeResult::NotRedis(words)
                | RedisProbeResult::Unreachable(words) => Err(words),
            }
        })
    }
}

/// Returns the name and version, such as `redis 7.0.15`, if the version is recent enough.
async fn server_version(connection: &RedisConnection) -> Result<String, ServiceFailure> {
    let failed = |error: String| {
        ServiceFailure::infrastructure(format!(
            "could not ask the Redis on {} for its version",
            connection.address()
        ))
        .with_cause(error)
    };
    let client = super::connection::client(connection)?;
    let info = client.server_info().await.map_err(|error| failed(error.to_string()))?;
    let version = match &info.valkey_version {
        Some(version) => format!("valkey {version}"),
        None => format!("redis {}", info.redis_version),
    };
    if info.redis_major_minor().is_none_or(|numbers| numbers < (6, 2)) {
        let what = format!("the server on {} is {version}", connection.address());
        return Err(ServiceFailure::infrastructure(what).hint("orch needs Redis 6.2 or newer, or Valkey 8 or newer"));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_spaces_and_quotes_are_one_word() {
        assert_eq!(quote("/a b/\"c\"\\"), "\"/a b/\\\"c\\\"\\\\\"");
    }
}
