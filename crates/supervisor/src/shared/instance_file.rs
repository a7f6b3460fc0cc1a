//! `<state>/instance.json`: the data with which `orch run` and `orch exec` use an instance that is up.
//!
//! The file is private from the beginning (it contains the password of an owned Redis), is replaced as a whole, and
//! exists only while the data is valid.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::redis::connection::RedisConnection;
use orch_base::files::atomic;
use orch_base::files::regular;
use orch_base::net::free_port;
use orch_base::text::duration_text::shown;
use orch_base::text::redaction;
use orch_base::text::secret::Secret;
use orch_celery::{RedisPassword, SentinelOptions, TransportSettings};
use orch_config::RedisUrls;
use orch_guard::LockHolder;
use orch_journal::failure::ServiceFailure;
use orch_journal::{RunId, ServiceName};

/// Limit in bytes. The ports of any configuration fit, so orch did not write a larger file.
const LARGEST: u64 = 8 << 20;
/// Interval of the reads while an instance comes up.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The data of a running instance that other commands need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFile {
    pub run_id: RunId,
    /// Pid of orch.
    pub pid: i32,
    /// Start time of that process, in clock ticks since boot: the pid alone may have been reused. 0 means unknown.
    pub start_time: u64,
    /// `None`: the instance has no Redis.
    pub redis: Option<RedisConnection>,
    /// The transport settings of the app.
    pub transport: TransportSettings,
    /// The ports of `[ports]`, as chosen.
    pub ports: BTreeMap<String, u16>,
    /// Services that the instance does not restart any more.
    pub given_up: Vec<ServiceName>,
}

impl InstanceFile {
    /// Returns true if the orch that wrote the file is alive.
    pub fn is_alive(&self) -> bool {
        orch_base::system::processes::is_alive_with_start_time(self.pid, self.start_time)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredInstance {
    run_id: RunId,
    pid: i32,
    #[serde(default)]
    start_time: u64,
    redis: Option<StoredRedis>,
    #[serde(default)]
    transport: TransportSettings,
    ports: BTreeMap<String, u16>,
    #[serde(default)]
    given_up: Vec<ServiceName>,
}

#[derive(Serialize, Deserialize)]
struct StoredRedis {
    #[serde(default)]
    urls: Option<StoredUrls>,
    host: String,
    port: u16,
    username: Option<String>,
    password: Option<String>,
    broker_db: u32,
    result_db: u32,
    owned: bool,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    must_be_ours: bool,
}

/// The values of `[redis] url` and the settings that belong to the URL.
#[derive(Serialize, Deserialize)]
struct StoredUrls {
    broker: String,
    results: String,
    master_name: Option<String>,
    sentinel_username: Option<String>,
    sentinel_password: Option<String>,
    #[serde(default)]
    celery_settings: Vec<String>,
}

impl StoredUrls {
    fn of(urls: &RedisUrls) -> Self {
        let sentinel = &urls.sentinel;
        Self {
            broker: urls.broker.expose().to_owned(),
            results: urls.results.expose().to_owned(),
            master_name: sentinel.master_name.clone(),
            sentinel_username: sentinel.username.clone(),
            sentinel_password: sentinel.password.as_ref().map(|password| password.expose().to_owned()),
            celery_settings: urls.celery_settings.clone(),
        }
    }

    fn read(self) -> RedisUrls {
        redaction::register_url_passwords(&self.broker);
        redaction::register_url_passwords(&self.results);
        RedisUrls {
            broker: Secret::new(self.broker),
            results: Secret::new(self.results),
            sentinel: SentinelOptions {
                master_name: self.master_name,
                username: self.sentinel_username,
                password: self.sentinel_password.map(|password| {
                    redaction::register_secret(&password);
                    RedisPassword::new(password)
                }),
            },
            celery_settings: self.celery_settings,
        }
    }
}

/// Returns the path of the file.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("instance.json")
}

/// Replaces the file as a whole.
///
/// # Errors
/// The directory cannot be written.
pub fn write(state_dir: &Path, file: &InstanceFile) -> io::Result<()> {
    let stored = StoredInstance {
        run_id: file.run_id.clone(),
        pid: file.pid,
        start_time: file.start_time,
        redis: file.redis.as_ref().map(|redis| StoredRedis {
            urls: redis.urls.as_ref().map(StoredUrls::of),
            host: redis.host.clone(),
            port: redis.port,
            username: redis.username.clone(),
            password: redis.password.as_ref().map(|password| password.expose().to_owned()),
            broker_db: redis.broker_db,
            result_db: redis.result_db,
            owned: redis.owned,
            socket: redis.socket.clone(),
            must_be_ours: redis.requires_own_or_root,
        }),
        transport: file.transport.clone(),
        ports: file.ports.clone(),
        given_up: file.given_up.clone(),
    };
    atomic::replace(&path(state_dir), &serde_json::to_vec(&stored)?)
}

/// Removes the file if the file is that of this run.
///
/// # Errors
/// The directory cannot be written; the text names the file.
pub fn remove(state_dir: &Path, run_id: &RunId) -> io::Result<()> {
    if !read(state_dir).is_ok_and(|file| file.is_some_and(|file| file.run_id == *run_id)) {
        return Ok(());
    }
    fs::remove_file(path(state_dir))
}

/// Reads the file of an instance; returns `None` if there is none.
///
/// # Errors
/// The file cannot be read, or has another version's form.
pub fn read(state_dir: &Path) -> io::Result<Option<InstanceFile>> {
    let text = match regular::read(&path(state_dir), LARGEST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stored: StoredInstance = serde_json::from_slice(&text)?;
    Ok(Some(InstanceFile {
        run_id: stored.run_id,
        pid: stored.pid,
        start_time: stored.start_time,
        redis: stored.redis.map(|redis| RedisConnection {
            urls: redis.urls.map(StoredUrls::read),
            host: redis.host,
            port: redis.port,
            username: redis.username,
            password: redis.password.map(|password| {
                redaction::register_secret(&password);
                Secret::new(password)
            }),
            // The file's readers are services or users, and get the credentials of services.
            own_password: None,
            broker_db: redis.broker_db,
            result_db: redis.result_db,
            owned: redis.owned,
            socket: redis.socket,
            requires_own_or_root: redis.must_be_ours,
        }),
        transport: stored.transport,
        ports: stored.ports,
        given_up: stored.given_up,
    }))
}

/// Saves the chosen ports, so that the next run of the state directory can choose the same ones.
///
/// # Errors
/// The directory cannot be written.
pub fn remember_ports(state_dir: &Path, ports: &BTreeMap<String, u16>) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    atomic::replace(&state_dir.join("ports.json"), &serde_json::to_vec(ports)?)
}

/// Returns the ports of the last run that are free now: data that a run keeps about ports (a pool of proxies) stays
/// valid.
pub fn remembered_ports(state_dir: &Path) -> BTreeMap<String, u16> {
    let text = regular::read(&state_dir.join("ports.json"), LARGEST).unwrap_or_default();
    let ports: BTreeMap<String, u16> = serde_json::from_slice(&text).unwrap_or_default();
    ports
        .into_iter()
        .filter(|(_, port)| *port != 0 && free_port::claim("127.0.0.1", *port))
        .collect()
}

/// Waits until the instance of the living orch that holds the lock has written the file.
///
/// # Errors
/// The orch ends, or the instance is not up within `timeout`.
pub fn wait_until_up(state_dir: &Path, holder: &LockHolder, timeout: Duration) -> Result<InstanceFile, ServiceFailure> {
    let pid = holder.pid;
    let deadline = Instant::now() + timeout;
    loop {
        match read(state_dir) {
            // A file that an earlier orch with this pid left is not accepted.
            Ok(Some(file)) if file.pid == pid && file.is_alive() => return Ok(file),
            Ok(_) => {}
            Err(error) => {
                let what = format!("could not read {}", path(state_dir).display());
                return Err(ServiceFailure::infrastructure(what).with_source(&error));
            }
        }
        let what = || format!("the instance that `orch up` (pid {pid}) brings up did not become ready");
        if !holder.is_alive() {
            return Err(ServiceFailure::infrastructure(what()).with_cause("it ended during its start"));
        }
        if Instant::now() >= deadline {
            return Err(
                ServiceFailure::infrastructure(what()).with_cause(format!("no result within {}", shown(timeout)))
            );
        }
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use orch_guard::HolderCommand;

    #[test]
    fn ports_are_remembered_while_they_are_free() {
        let directory = tempfile::tempdir().unwrap();
        assert!(remembered_ports(directory.path()).is_empty());
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        remember_ports(directory.path(), &BTreeMap::from([("web".to_owned(), port)])).unwrap();
        assert!(remembered_ports(directory.path()).is_empty());
        drop(taken);
        // A program that another test starts at this moment inherits the listener until the exec.
        let deadline = Instant::now() + Duration::from_secs(10);
        while remembered_ports(directory.path()).get("web") != Some(&port) {
            assert!(Instant::now() < deadline);
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_process_with_the_reused_pid_of_a_dead_orch_is_no_instance() {
        let file = |start_time| InstanceFile {
            run_id: RunId::random(),
            pid: std::process::id().cast_signed(),
            start_time,
            redis: None,
            transport: TransportSettings::default(),
            ports: BTreeMap::new(),
            given_up: Vec::new(),
        };
        let own = orch_base::system::processes::own_start_time();
        assert!(file(own).is_alive() && file(0).is_alive() && !file(own + 1).is_alive());
        let directory = tempfile::tempdir().unwrap();
        let holder = LockHolder::of_this_process("a1", HolderCommand::Up, None, Duration::ZERO);
        let wait = |holder: &LockHolder, timeout| wait_until_up(directory.path(), holder, timeout);
        write(directory.path(), &file(own + 1)).unwrap();
        assert!(wait(&holder, Duration::ZERO).is_err());
        write(directory.path(), &file(own)).unwrap();
        assert_eq!(wait(&holder, Duration::ZERO).unwrap().start_time, own);
        // If the orch of the instance has ended, the wait ends at once, even if the pid was reused.
        fs::remove_file(path(directory.path())).unwrap();
        let ended = LockHolder {
            start_time: own + 1,
            ..holder.clone()
        };
        let started = Instant::now();
        let error = wait(&ended, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("ended during its start"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_file_is_read_back_as_written_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let file = InstanceFile {
            run_id: RunId::random(),
            pid: 7,
            start_time: 11,
            redis: Some(RedisConnection {
                urls: Some(RedisUrls {
                    broker: Secret::new("sentinel://default:s3cret@h:26379/0"),
                    results: Secret::new("redis://h:6379/1"),
                    sentinel: SentinelOptions {
                        master_name: Some("main".to_owned()),
                        username: None,
                        password: Some(RedisPassword::new("watch")),
                    },
                    celery_settings: vec!["broker.transport_options=(dict){}".to_owned()],
                }),
                host: "127.0.0.1".into(),
                port: 6379,
                username: None,
                password: Some(Secret::new("s3cret")),
                own_password: None,
                broker_db: 0,
                result_db: 1,
                owned: true,
                socket: Some("/state/redis/data/redis.sock".into()),
                requires_own_or_root: false,
            }),
            transport: TransportSettings {
                separator: ":".to_owned(),
                ..TransportSettings::default()
            },
            ports: BTreeMap::from([("web".to_owned(), 8080)]),
            given_up: vec!["celery".into()],
        };
        write(directory.path(), &file).unwrap();
        assert_eq!(read(directory.path()).unwrap().as_ref(), Some(&file));
        let mode = fs::metadata(path(directory.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        remove(directory.path(), &RunId::random()).unwrap();
        assert!(
            read(directory.path()).unwrap().is_some(),
            "another run's file must stay"
        );
        remove(directory.path(), &file.run_id).unwrap();
        assert!(read(directory.path()).unwrap().is_none());
    }
}
