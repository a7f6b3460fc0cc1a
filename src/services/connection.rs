//! The Redis that this run uses: where it is and how to be let in.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use super::worker_log::BrokerAddress;
use crate::celery::{Access, Address, Client, Endpoint, Endpoints};
use crate::config::{RedisUrls, Secret};
use crate::url_authority::{self, host_and_port};

/// orch's own user in a Redis that it started.
pub const OWN_USER: &str = "orch";

/// The longest path of a Unix socket that the kernel takes, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// Address and credentials of the Redis in use, owned or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConnection {
    /// `[redis] url` and `result_url`: by these orch connects, and services are told them. What else is here says the same of
    /// the broker's first server, as far as it can be said so.
    pub urls: Option<RedisUrls>,
    /// Empty where it has none: a Unix socket, a master that Sentinels know.
    pub host: String,
    pub port: u16,
    /// What services are told; apps may know no user name, so in an owned Redis it is the `default` user's password.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// The password of the user `orch` in an owned Redis of this process, by which orch itself connects.
    pub own_password: Option<Secret>,
    pub broker_db: u32,
    pub result_db: u32,
    /// orch started it, or will: it gets the password, the restrictions and the clean-up.
    pub owned: bool,
    /// The Unix socket of an owned Redis, in the private state directory. orch itself connects there: whoever takes the
    /// port of a Redis that is away is sent no password.
    pub socket: Option<PathBuf>,
    /// Found by `mode = "auto"`, and so of use only while it is this user's or root's.
    pub must_be_ours: bool,
}

impl RedisConnection {
    /// The external Redis of these addresses.
    pub fn of_urls(urls: &RedisUrls) -> Self {
        let broker = urls.broker_parts().unwrap_or_else(|| Endpoint::tcp("", 0, 0));
        let (host, port) = match &broker.address {
            Address::Tcp { host, port, .. } => (host.clone(), *port),
            Address::Unix(_) | Address::Sentinel(_) => (String::new(), 0),
        };
        Self {
            urls: Some(urls.clone()),
            host,
            port,
            password: broker.password.as_ref().map(|password| Secret::new(password.expose())),
            username: broker.username,
            own_password: None,
            broker_db: broker.database,
            // Told by its URL alone.
            result_db: 0,
            owned: false,
            socket: None,
            must_be_ours: false,
        }
    }

    /// Where it is, as errors name it: `host:port`, a path, several servers.
    pub fn address(&self) -> String {
        let Some(broker) = self.urls.as_ref().and_then(RedisUrls::broker_parts) else {
            return host_and_port(&self.host, self.port);
        };
        let servers: Vec<String> = broker.each().map(|server| server.address.to_string()).collect();
        servers.join(", ")
    }

    /// The servers that a worker may say it is connected to; none where it does not say it by host and port.
    pub fn broker_addresses(&self) -> Vec<BrokerAddress> {
        let at = |host: &str, port: u16, db: u32| BrokerAddress {
            host: host.to_owned(),
            port,
            db,
        };
        let Some(broker) = self.urls.as_ref().and_then(RedisUrls::broker_parts) else {
            return vec![at(&self.host, self.port, self.broker_db)];
        };
        let mut addresses = Vec::new();
        for server in broker.each() {
            match &server.address {
                Address::Tcp { host, port, .. } => addresses.push(at(host, *port, server.database)),
                Address::Sentinel(sentinels) => {
                    let servers = sentinels.servers.iter();
                    addresses.extend(servers.map(|(host, port)| at(host, *port, server.database)));
                }
                // It may be known by any port.
                Address::Unix(_) => return Vec::new(),
            }
        }
        addresses
    }

    /// Whether an app that gives no password, or another one, is refused by a Redis that orch started.
    pub fn guards_password(&self) -> bool {
        self.owned && self.password.is_some()
    }

    /// What Celery must be told on its command line to use it, `name=value`.
    pub fn celery_settings(&self) -> &[String] {
        self.urls.as_ref().map_or(&[], |urls| &urls.celery_settings)
    }

    /// How orch itself connects.
    pub(super) fn access(&self) -> Access {
        match &self.socket {
            Some(socket) => Access::Socket(short_path(socket)),
            None if self.must_be_ours => Access::OwnOrRoot,
            None => Access::Address,
        }
    }

    /// By what orch itself is let in: user name and password.
    pub fn credentials(&self) -> (Option<&str>, Option<&Secret>) {
        match &self.own_password {
            Some(own) => (Some(OWN_USER), Some(own)),
            None => (self.username.as_deref(), self.password.as_ref()),
        }
    }

    /// The URL of a database as services are told it, credentials included: for a child's environment, never for a log.
    pub fn url(&self, db: u32) -> Secret {
        self.url_for((self.username.as_deref(), self.password.as_ref()), db)
    }

    fn url_for(&self, (user, password): (Option<&str>, Option<&Secret>), db: u32) -> Secret {
        let credentials = url_authority::credentials(user, password.map(Secret::expose));
        Secret::new(format!(
            "redis://{credentials}{}/{db}",
            host_and_port(&self.host, self.port)
        ))
    }

    /// What services are told: the variables that Celery and most Redis programs read. `None` must not be set: the
    /// credentials of another Redis, from the caller or a file, would be refused by this one.
    pub fn environment(&self) -> Vec<(String, Option<String>)> {
        let (broker, backend, redis) = match &self.urls {
            Some(urls) => (urls.broker.clone(), urls.results.clone(), urls.redis_url()),
            None => {
                let broker = self.url(self.broker_db);
                let redis = broker.expose().to_owned();
                (broker, self.url(self.result_db), Some(redis))
            }
        };
        let (broker, backend) = (broker.expose().to_owned(), backend.expose().to_owned());
        let has_host = !self.host.is_empty();
        let password = self.password.as_ref().map(|password| password.expose().to_owned());
        // redis-cli gives this password without a name, which is right for the default user only.
        let for_redis_cli = password.clone().filter(|_| self.username.is_none());
        [
            ("CELERY_BROKER_URL", Some(broker)),
            // Celery would read them before that.
            ("CELERY_BROKER_READ_URL", None),
            ("CELERY_BROKER_WRITE_URL", None),
            ("CELERY_RESULT_BACKEND", Some(backend)),
            ("REDIS_URL", redis),
            ("REDIS_HOST", has_host.then(|| self.host.clone())),
            ("REDIS_PORT", has_host.then(|| self.port.to_string())),
            ("REDIS_PASSWORD", password),
            ("REDIS_USERNAME", self.username.clone()),
            ("REDISCLI_AUTH", for_redis_cli),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// A Celery client of this Redis; it connects when it is first used.
///
/// # Errors
/// The address cannot be put into a client.
pub fn client(connection: &RedisConnection) -> Result<Client, Failure> {
    let failed = |error: crate::celery::Error| {
        Failure::configuration(format!("use the Redis on {}", connection.address())).because(error.to_string())
    };
    let mut endpoints = match &connection.urls {
        Some(urls) => urls.endpoints(),
        None => {
            let url = |db| connection.url_for(connection.credentials(), db);
            Endpoints::from_urls(url(connection.broker_db).expose(), url(connection.result_db).expose())
        }
    }
    .map_err(failed)?;
    endpoints.broker.access = connection.access();
    endpoints.backend.access = connection.access();
    Client::connect(endpoints).map_err(failed)
}

/// A path of the socket that the kernel takes: a long one leads through a descriptor of its directory, which is kept open.
fn short_path(socket: &Path) -> PathBuf {
    static DIRECTORIES: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return socket.to_owned();
    };
    if socket.as_os_str().as_bytes().len() <= LONGEST_SOCKET_PATH {
        return socket.to_owned();
    }
    let mut directories = DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner);
    if !directories.contains_key(directory) {
        // Not there before the first start: the next call finds it.
        let Ok(opened) = File::open(directory) else {
            return socket.to_owned();
        };
        directories.insert(directory.to_owned(), opened);
    }
    match directories.get(directory) {
        Some(opened) => Path::new("/proc/self/fd")
            .join(opened.as_raw_fd().to_string())
            .join(name),
        None => socket.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_carry_encoded_credentials_and_debug_does_not() {
        let connection = RedisConnection {
            urls: None,
            host: "127.0.0.1".into(),
            port: 6379,
            username: None,
            password: Some(Secret::new("p@ss/1")),
            own_password: Some(Secret::new("orch's")),
            broker_db: 0,
            result_db: 1,
            owned: true,
            socket: None,
            must_be_ours: false,
        };
        assert_eq!(
            connection.url(1).expose(),
            "redis://default:p%40ss%2F1@127.0.0.1:6379/1"
        );
        assert!(!format!("{connection:?}").contains("p@ss"));
        assert!(!format!("{connection:?}").contains("orch's"));
        assert_eq!(connection.credentials().0, Some("orch"));
        let variables: std::collections::BTreeMap<_, _> = connection.environment().into_iter().collect();
        assert_eq!(variables["REDIS_PASSWORD"].as_deref(), Some("p@ss/1"));
        assert_eq!(variables["REDIS_USERNAME"], None);
        assert_eq!(variables["REDISCLI_AUTH"].as_deref(), Some("p@ss/1"));
        let named = RedisConnection {
            username: Some("app".into()),
            ..connection
        };
        assert_eq!(named.url(1).expose(), "redis://app:p%40ss%2F1@127.0.0.1:6379/1");
        let variables: std::collections::BTreeMap<_, _> = named.environment().into_iter().collect();
        assert_eq!(variables["REDIS_USERNAME"].as_deref(), Some("app"));
        assert_eq!(variables["REDISCLI_AUTH"], None, "it would log in as another user");
    }

    #[test]
    fn a_socket_below_a_long_path_is_reached() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("long".repeat(40));
        std::fs::create_dir(&directory).unwrap();
        let socket = directory.join("redis.sock");
        let short = short_path(&socket);
        assert!(short.as_os_str().len() <= LONGEST_SOCKET_PATH, "{}", short.display());
        let listener = std::os::unix::net::UnixListener::bind(&short).unwrap();
        assert!(socket.exists());
        std::os::unix::net::UnixStream::connect(short_path(&socket)).unwrap();
        drop(listener);
        assert_eq!(short_path(Path::new("/run/redis.sock")), Path::new("/run/redis.sock"));
    }
}
