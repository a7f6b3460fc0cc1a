//! `<state>/instance.json`: how to use the instance that is up, for `orch run` and `orch exec` beside it.
//!
//! Private from its creation (it holds the password of an owned Redis), written whole, there only while it is true.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::celery::{Password, SentinelOptions, Transport};
use crate::config::{RedisUrls, Secret};
use crate::duration_text::shown;
use crate::free_port;
use crate::guard::{self, Holder};
use crate::run::{RunId, ServiceName};
use crate::services::{Failure, RedisConnection};
use crate::{redaction, regular_file};

/// More than a configuration can have of ports: what is larger was not written by orch. Bytes.
const LARGEST: u64 = 8 << 20;
/// How often the file is looked for while an instance comes up.
const PAUSE: Duration = Duration::from_millis(50);

/// What another command must know of a running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFile {
    pub run_id: RunId,
    /// Of orch.
    pub pid: i32,
    /// Of that process, in clock ticks since boot: a pid alone may be a stranger's by now. 0: not known.
    pub start_time: u64,
    /// None: the instance has no Redis.
    pub redis: Option<RedisConnection>,
    /// The transport settings of the app.
    pub transport: Transport,
    /// `[ports]` as chosen.
    pub ports: BTreeMap<String, u16>,
    /// Services that it does not restart any more.
    pub given_up: Vec<ServiceName>,
}

impl InstanceFile {
    /// Whether the orch that wrote it lives.
    pub fn is_alive(&self) -> bool {
        guard::is_the_same_alive(self.pid, self.start_time)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    run_id: RunId,
    pid: i32,
    #[serde(default)]
    start_time: u64,
    redis: Option<StoredRedis>,
    #[serde(default)]
    transport: Transport,
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

/// `[redis] url` and what belongs to it.
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
        redaction::hide_url(&self.broker);
        redaction::hide_url(&self.results);
        RedisUrls {
            broker: Secret::new(self.broker),
            results: Secret::new(self.results),
            sentinel: SentinelOptions {
                master_name: self.master_name,
                username: self.sentinel_username,
                password: self.sentinel_password.map(|password| {
                    redaction::hide(&password);
                    Password::new(password)
                }),
            },
            celery_settings: self.celery_settings,
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("instance.json")
}

/// Writes the file, replacing it whole.
///
/// # Errors
/// The directory cannot be written.
pub fn write(state_dir: &Path, file: &InstanceFile) -> io::Result<()> {
    let stored = Stored {
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
            must_be_ours: redis.must_be_ours,
        }),
        transport: file.transport.clone(),
        ports: file.ports.clone(),
        given_up: file.given_up.clone(),
    };
    atomic_file::replace(&path(state_dir), &serde_json::to_vec(&stored)?)
}

/// Removes the file if it is this run's.
///
/// # Errors
/// The directory cannot be written; the text names the file.
pub fn remove(state_dir: &Path, run_id: &RunId) -> io::Result<()> {
    if !read(state_dir).is_ok_and(|file| file.is_some_and(|file| file.run_id == *run_id)) {
        return Ok(());
    }
    let path = path(state_dir);
    fs::remove_file(&path).map_err(|error| io::Error::new(error.kind(), format!("remove {}: {error}", path.display())))
}

/// The file of an instance whose orch is alive; `None` when there is none.
///
/// # Errors
/// It cannot be read, or is not of this version's form.
pub fn read(state_dir: &Path) -> io::Result<Option<InstanceFile>> {
    let text = match regular_file::read(&path(state_dir), LARGEST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stored: Stored = serde_json::from_slice(&text)?;
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
                redaction::hide(&password);
                Secret::new(password)
            }),
            // Whoever reads the file is a service or a user, and gets what services get.
            own_password: None,
            broker_db: redis.broker_db,
            result_db: redis.result_db,
            owned: redis.owned,
            socket: redis.socket,
            must_be_ours: redis.must_be_ours,
        }),
        transport: stored.transport,
        ports: stored.ports,
        given_up: stored.given_up,
    }))
}

/// Remembers the chosen ports, so that the next run of the state directory can choose the same.
///
/// # Errors
/// The directory cannot be written.
pub fn remember_ports(state_dir: &Path, ports: &BTreeMap<String, u16>) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    atomic_file::replace(&state_dir.join("ports.json"), &serde_json::to_vec(ports)?)
}

/// The ports of the last run that are free now: what a run keeps about them (a pool of proxies) stays true.
pub fn remembered_ports(state_dir: &Path) -> BTreeMap<String, u16> {
    let text = regular_file::read(&state_dir.join("ports.json"), LARGEST).unwrap_or_default();
    let ports: BTreeMap<String, u16> = serde_json::from_slice(&text).unwrap_or_default();
    ports
        .into_iter()
        .filter(|(_, port)| *port != 0 && free_port::claim("127.0.0.1", *port))
        .collect()
}

/// Waits until the instance of the living orch that holds the lock has published how to use it.
///
/// # Errors
/// It ends, or is not up within `patience`.
pub fn wait_until_up(state_dir: &Path, holder: &Holder, patience: Duration) -> Result<InstanceFile, Failure> {
    let pid = holder.pid;
    let deadline = Instant::now() + patience;
    loop {
        match read(state_dir) {
            // One that an earlier orch of this pid has left is not alive.
            Ok(Some(file)) if file.pid == pid && file.is_alive() => return Ok(file),
            Ok(_) => {}
            Err(error) => {
                let what = format!("read {}", path(state_dir).display());
                return Err(Failure::infrastructure(what).caused_by(&error));
            }
        }
        let what = || format!("the instance that `orch up` (pid {pid}) brings up did not get ready");
        if !holder.lives() {
            return Err(Failure::infrastructure(what()).because("it has ended meanwhile"));
        }
        if Instant::now() >= deadline {
            return Err(Failure::infrastructure(what()).because(format!("nothing for {}", shown(patience))));
        }
        std::thread::park_timeout(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn ports_are_remembered_while_they_are_free() {
        let directory = tempfile::tempdir().unwrap();
        assert!(remembered_ports(directory.path()).is_empty());
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        remember_ports(directory.path(), &BTreeMap::from([("web".to_owned(), port)])).unwrap();
        assert!(remembered_ports(directory.path()).is_empty());
        drop(taken);
        // A program that another test starts just now has the listener until its exec.
        let deadline = Instant::now() + Duration::from_secs(10);
        while remembered_ports(directory.path()).get("web") != Some(&port) {
            assert!(Instant::now() < deadline);
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_stranger_with_the_pid_of_a_dead_orch_is_no_instance() {
        let file = |start_time| InstanceFile {
            run_id: RunId::random(),
            pid: std::process::id().cast_signed(),
            start_time,
            redis: None,
            transport: Transport::default(),
            ports: BTreeMap::new(),
            given_up: Vec::new(),
        };
        let own = guard::own_start_time();
        assert!(file(own).is_alive() && file(0).is_alive() && !file(own + 1).is_alive());
        let directory = tempfile::tempdir().unwrap();
        let holder = Holder::of_this_process("a1", "up", None, Duration::ZERO);
        let wait = |holder: &Holder, patience| wait_until_up(directory.path(), holder, patience);
        write(directory.path(), &file(own + 1)).unwrap();
        assert!(wait(&holder, Duration::ZERO).is_err());
        write(directory.path(), &file(own)).unwrap();
        assert_eq!(wait(&holder, Duration::ZERO).unwrap().start_time, own);
        // Of one that has ended nobody waits for the file, whoever has its pid now.
        fs::remove_file(path(directory.path())).unwrap();
        let ended = Holder {
            start_time: own + 1,
            ..holder.clone()
        };
        let asked = Instant::now();
        let error = wait(&ended, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("ended meanwhile"), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_is_written_is_read_back_and_private() {
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
                        password: Some(Password::new("watch")),
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
                must_be_ours: false,
            }),
            transport: Transport {
                separator: ":".to_owned(),
                ..Transport::default()
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
