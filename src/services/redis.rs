//! Redis as a service: one that is there, or one of our own with a generated configuration.
//!
//! Only an owned Redis gets a password, its own directory and the clean-up; what was there before is used as it is.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::connection::{OWN_USER, RedisConnection};
use super::environment::merge;
use super::failure::Failure;
use super::life::Role;
use super::listener::listener;
use super::port_guard::{self, PortAlarm, PortGuard};
use super::program::{Boxed, Prepared, Program, Start};
use super::redis_data;
use super::redis_decision::Decision;
use super::redis_probe::{self, Found};
use crate::atomic_file;
use crate::config::{LivenessConfig, RedisConfig};
use crate::duration_text::shown;
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::run::ServiceName;

/// One PING.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Pauses between PINGs of a server that is starting: the first answers come after some 10 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Its Unix socket, in the directory of its data: a relative path, since an absolute one may be longer than the kernel takes.
pub(super) const SOCKET: &str = "redis.sock";
/// A Redis that says it is loading its data is waited for this long: gigabytes of append-only file take minutes.
pub(super) const LOADING_PATIENCE: Duration = Duration::from_secs(600);

/// What a service may not ask of an owned Redis: what takes it away from orch or out of its directory. Everything else
/// stays: apps do use KEYS, INFO, FLUSHDB and CLIENT. All exist since Redis 6.2.
pub(super) const ADMINISTRATIVE: [&str; 13] = [
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
pub struct Redis {
    name: ServiceName,
    config: RedisConfig,
    decision: Decision,
    /// The server's binary; empty for a reused one.
    program: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    environment: Vec<(String, String)>,
    rank: u32,
    /// Keeps others from the port of an own one while it is away.
    port: Arc<PortGuard>,
    /// Damaged data are moved aside once in a run: a second time it would be something else.
    data_moved: AtomicBool,
}

impl Redis {
    /// `state_dir` gets the directory `redis` with configuration and data; `alarm` is raised when another user takes the port.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a Redis needs")]
    pub fn new(
        config: &RedisConfig,
        decision: Decision,
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

    /// Writes the configuration, private from its creation, and tells how to start the server on it.
    fn write_configuration(&self, connection: &RedisConnection) -> std::io::Result<SpawnOrder> {
        let data = self.directory.join("data");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
        let file = self.directory.join("redis.conf");
        atomic_file::replace(&file, configuration(connection, &data, &self.config).as_bytes())?;
        Ok(SpawnOrder {
            service: self.name.as_str().to_owned(),
            argv: vec![
                self.program.to_string_lossy().into_owned(),
                file.to_string_lossy().into_owned(),
            ],
            environment: self.environment.clone(),
            directory: data,
            log: self.log.clone(),
            stop: StopPlan {
                rank: self.rank,
                steps: vec![StopStep {
                    signal: nix::libc::SIGTERM,
                    grace: self.config.grace,
                }],
            },
        })
    }
}

/// The lines of `redis.conf`.
fn configuration(connection: &RedisConnection, data: &Path, config: &RedisConfig) -> String {
    let mut lines = vec![
        "# Written by orch at each start; changes are lost. Use `[redis] settings` instead.".to_owned(),
        format!("bind {}", connection.host),
        format!("port {}", connection.port),
        // For orch itself. What is around it is private.
        format!("unixsocket {SOCKET}"),
        "unixsocketperm 700".to_owned(),
        "protected-mode yes".to_owned(),
        "daemonize no".to_owned(),
        // The log goes to standard output, which the guard appends to the run's redis.log.
        "logfile \"\"".to_owned(),
        format!("dir {}", quote(&data.to_string_lossy())),
        // A second of work is what a killed Redis may lose; snapshots would fork a copy of it at night.
        "appendonly yes".to_owned(),
        "appendfsync everysec".to_owned(),
        "aof-load-truncated yes".to_owned(),
        "save \"\"".to_owned(),
        // A rewritten title would overwrite the environment, and with it the run id that marks the process as ours.
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

/// A word of redis.conf in double quotes.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Program for Redis {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> Role {
        Role::Daemon {
            restart: self.config.restart,
            liveness_failures: self.config.liveness.failures,
            ready_at_spawn: false,
        }
    }

    fn log(&self) -> &Path {
        &self.log
    }

    fn start_timeout(&self) -> Duration {
        self.config.start_timeout
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        Some(self.config.liveness)
    }

    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>> {
        Box::pin(async move {
            match &self.decision {
                Decision::Reuse(connection) => {
                    let version = server_version(connection).await.unwrap_or_else(|_| "redis".to_owned());
                    let whose = listener(&connection.host, connection.port)
                        .map_or_else(String::new, |listener| format!(" ({listener})"));
                    Ok(Prepared::Reuse(format!("{version} on {}{whose}", connection.address())))
                }
                Decision::Own(connection) => match self
                    .port
                    .open(connection, self.config.start_timeout)
                    .map(|()| self.write_configuration(connection))
                {
                    Err(failure) => Err(failure),
                    Ok(Ok(order)) => Ok(Prepared::Spawn(Box::new(order))),
                    Ok(Err(error)) => {
                        let what = format!("write the configuration of Redis in {}", self.directory.display());
                        Err(Failure::infrastructure(what).because(error.to_string()))
                    }
                },
            }
        })
    }

    fn mend_start(&self, log_offset: u64) -> Option<String> {
        let is_first = !self.data_moved.swap(true, Ordering::Relaxed);
        let mended = is_first.then(|| redis_data::move_damaged_aside(&self.directory, &self.log, log_offset));
        mended.flatten()
    }

    fn ready(self: Arc<Self>, start: Start) -> Boxed<Result<String, Failure>> {
        Box::pin(async move {
            let connection = self.decision.connection();
            let (mut deadline, mut pause) = (start.deadline, FIRST_PAUSE);
            loop {
                let found = redis_probe::probe(connection, PATIENCE).await;
                let answer = match found {
                    Found::Redis => {
                        self.port.close();
                        let version = server_version(connection).await?;
                        redis_data::rewrite_long_file(connection, &self.directory).await;
                        return Ok(format!("{version} on {}", connection.address()));
                    }
                    Found::Loading => {
                        deadline = start.spawned + LOADING_PATIENCE;
                        "it is loading its data".to_owned()
                    }
                    Found::Nothing => "the connection is refused".to_owned(),
                    Found::Strangers(whose) => {
                        let reason = format!("it is held by {whose}, who was sent no password");
                        return Err(port_guard::taken(connection, reason).with_log(&self.log));
                    }
                    Found::Silent => format!("no answer within {}", shown(PATIENCE)),
                    Found::Locked(words) | Found::Foreign(words) => {
                        let what = format!("what was started as Redis on {} answers as none", connection.address());
                        return Err(Failure::infrastructure(what).because(words).with_log(&self.log));
                    }
                    Found::Unreachable(error) => error,
                };
                if Instant::now() >= deadline {
                    let what = format!("Redis is not ready after {}", shown(start.spawned.elapsed()));
                    return Err(Failure::infrastructure(what)
                        .because(answer)
                        .with_log(&self.log)
                        .hint("`[redis] start_timeout` sets how long it may take"));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move {
            let connection = self.decision.connection();
            let found = redis_probe::probe(connection, self.config.liveness.timeout).await;
            match found {
                // Loading is work, not death.
                Found::Redis | Found::Loading => Ok(()),
                Found::Nothing => Err(format!("nothing listens on {}", connection.address())),
                Found::Strangers(whose) => Err(format!("what listens on {} is {whose}", connection.address())),
                Found::Silent => Err(format!(
                    "no answer to PING within {}",
                    shown(self.config.liveness.timeout)
                )),
                Found::Locked(words) | Found::Foreign(words) | Found::Unreachable(words) => Err(words),
            }
        })
    }
}

/// `redis 7.0.15`, once it is known to be recent enough.
async fn server_version(connection: &RedisConnection) -> Result<String, Failure> {
    let failed = |error: String| {
        Failure::infrastructure(format!("ask the Redis on {} for its version", connection.address())).because(error)
    };
    let client = super::connection::client(connection)?;
    let info = client.server_info().await.map_err(|error| failed(error.to_string()))?;
    let version = match &info.valkey_version {
        Some(version) => format!("valkey {version}"),
        None => format!("redis {}", info.redis_version),
    };
    if info.redis_major_minor().is_none_or(|numbers| numbers < (6, 2)) {
        let what = format!("the server on {} is {version}", connection.address());
        return Err(Failure::infrastructure(what).hint("orch needs Redis 6.2 or newer, or Valkey 8 or newer"));
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
