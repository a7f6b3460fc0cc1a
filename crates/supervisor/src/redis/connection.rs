//! The connection data of the Redis that this run uses: address and credentials.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::worker::log::BrokerAddress;
use orch_base::text::secret::Secret;
use orch_base::text::url_authority;
use orch_base::text::url_authority::host_and_port;
use orch_celery::{Client, Endpoint, Endpoints, ServerAccess, ServerAddress};
use orch_config::RedisUrls;
use orch_journal::failure::ServiceFailure;

/// Name of orch's own user in a Redis that orch started.
pub const OWN_USER: &str = "orch";
/// The Unix socket, in the directory of the data: a relative path, since the kernel limits the length of a path.
pub(crate) const SOCKET: &str = "redis.sock";

/// The longest path of a Unix socket that the kernel accepts, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// Address and credentials of the Redis in use, owned or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConnection {
    /// `[redis] url` and `result_url`: orch connects with them, and services get them. The other fields describe the
    /// broker's first server, as far as they can.
    pub urls: Option<RedisUrls>,
    /// Empty if there is no host: for a Unix socket, or a master behind Sentinels.
    pub host: String,
    pub port: u16,
    /// The user name for services. Apps may not support user names, so in an owned Redis `password` is that of the
    /// `default` user.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// The password of the user `orch` in an owned Redis of this process; orch itself connects with that password.
    pub own_password: Option<Secret>,
    pub broker_db: u32,
    pub result_db: u32,
    /// orch started this Redis, or will start this Redis, which gets the password, the restrictions and the clean-up.
    pub owned: bool,
    /// The Unix socket of an owned Redis, in the private state directory. orch itself connects there, so a program that
    /// takes the port of a Redis that is down gets no password.
    pub socket: Option<PathBuf>,
    /// The Redis was found by `mode = "auto"`; orch uses it only as long as it belongs to this user or to root.
    pub requires_own_or_root: bool,
}

impl RedisConnection {
    /// Describes the external Redis at these URLs.
    pub fn of_urls(urls: &RedisUrls) -> Self {
        let broker = urls.broker_parts().unwrap_or_else(|| Endpoint::tcp("", 0, 0));
        let (host, port) = match &broker.address {
            ServerAddress::Tcp { host, port, .. } => (host.clone(), *port),
            ServerAddress::Unix(_) | ServerAddress::Sentinel(_) => (String::new(), 0),
        };
        Self {
            urls: Some(urls.clone()),
            host,
            port,
            password: broker.password.as_ref().map(|password| Secret::new(password.expose())),
            username: broker.username,
            own_password: None,
            broker_db: broker.database,
            // Only the URL contains this number.
            result_db: 0,
            owned: false,
            socket: None,
            requires_own_or_root: false,
        }
    }

    /// Returns the address for error messages: `host:port`, a path, several servers.
    pub fn address(&self) -> String {
        let Some(broker) = self.urls.as_ref().and_then(RedisUrls::broker_parts) else {
            return host_and_port(&self.host, self.port);
        };
        let servers: Vec<String> = broker.each_server().map(|server| server.address.to_string()).collect();
        servers.join(", ")
    }

    /// Lists the servers that a worker may report as the broker; empty if a worker does not report them by host and
    /// port.
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
        for server in broker.each_server() {
            match &server.address {
                ServerAddress::Tcp { host, port, .. } => addresses.push(at(host, *port, server.database)),
                ServerAddress::Sentinel(sentinels) => {
                    let servers = sentinels.servers.iter();
                    addresses.extend(servers.map(|(host, port)| at(host, *port, server.database)));
                }
                // The worker may report any port for a socket.
                ServerAddress::Unix(_) => return Vec::new(),
            }
        }
        addresses
    }

    /// Returns true if a Redis that orch started refuses apps with a wrong password or none.
    pub fn guards_password(&self) -> bool {
        self.owned && self.password.is_some()
    }

    /// Returns the settings, `name=value`, that Celery needs on the command line to use this Redis.
    pub fn celery_settings(&self) -> &[String] {
        self.urls.as_ref().map_or(&[], |urls| &urls.celery_settings)
    }

    /// Returns the way in which orch itself connects.
    pub(crate) fn access(&self) -> ServerAccess {
        match &self.socket {
            Some(socket) => ServerAccess::UnixSocket(short_path(socket)),
            None if self.requires_own_or_root => ServerAccess::TrustedOwner,
            None => ServerAccess::AnyOwner,
        }
    }

    /// Returns user name and password of orch itself.
    pub fn credentials(&self) -> (Option<&str>, Option<&Secret>) {
        match &self.own_password {
            Some(own) => (Some(OWN_USER), Some(own)),
            None => (self.username.as_deref(), self.password.as_ref()),
        }
    }

    /// Returns the URL of a database for services, credentials included: for a child's environment, never for a log.
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

    /// Returns the variables that Celery and most Redis programs read. A variable with `None` must not be set: this
    /// Redis would refuse the credentials of another one, from the caller or a file.
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
        // redis-cli sends this password without a user name, which works for the default user only.
        let for_redis_cli = password.clone().filter(|_| self.username.is_none());
        [
            ("CELERY_BROKER_URL", Some(broker)),
            // Celery would prefer these two variables.
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

/// Creates a Celery client of this Redis; the client connects at the first use.
///
/// # Errors
/// The address cannot be used by a client.
pub fn client(connection: &RedisConnection) -> Result<Client, ServiceFailure> {
    let failed = |error: orch_celery::Error| {
        ServiceFailure::configuration(format!("could not use the Redis on {}", connection.address()))
            .with_cause(error.to_string())
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

/// Returns a path of the socket that the kernel accepts: a long one goes through an open descriptor of the directory.
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
        // The directory does not exist before the first start; a later call works.
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
            requires_own_or_root: false,
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
