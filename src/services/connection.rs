//! The Redis that this run uses: where it is and how to be let in.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use crate::celery::{Access, Client, Endpoints};
use crate::config::Secret;

/// orch's own user in a Redis that it started.
pub const OWN_USER: &str = "orch";
/// The user of whoever gives a password and no name. URLs name it: redis-cli takes the empty name of `redis://:password@`
/// for a user's, and is refused.
const DEFAULT_USER: &str = "default";

/// The longest path of a Unix socket that the kernel takes, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// Address and credentials of the Redis in use, owned or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConnection {
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
    /// `host:port`, as errors name it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether an app that gives no password, or another one, is refused by a Redis that orch started.
    pub fn guards_password(&self) -> bool {
        self.owned && self.password.is_some()
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
        let credentials = match (user, password) {
            (user, Some(password)) => {
                format!(
                    "{}:{}@",
                    percent_encode(user.unwrap_or(DEFAULT_USER)),
                    percent_encode(password.expose())
                )
            }
            (Some(user), None) => format!("{}@", percent_encode(user)),
            (None, None) => String::new(),
        };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        Secret::new(format!("redis://{credentials}{host}:{}/{db}", self.port))
    }

    /// What services are told: the variables that Celery and most Redis programs read. `None` must not be set: the
    /// credentials of another Redis, from the caller or a file, would be refused by this one.
    pub fn environment(&self) -> Vec<(String, Option<String>)> {
        let broker = self.url(self.broker_db).expose().to_owned();
        let backend = self.url(self.result_db).expose().to_owned();
        let password = self.password.as_ref().map(|password| password.expose().to_owned());
        // redis-cli gives this password without a name, which is right for the default user only.
        let for_redis_cli = password.clone().filter(|_| self.username.is_none());
        [
            ("CELERY_BROKER_URL", Some(broker.clone())),
            ("CELERY_RESULT_BACKEND", Some(backend)),
            ("REDIS_URL", Some(broker)),
            ("REDIS_HOST", Some(self.host.clone())),
            ("REDIS_PORT", Some(self.port.to_string())),
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
    let (broker, backend) = (
        connection.url_for(connection.credentials(), connection.broker_db),
        connection.url_for(connection.credentials(), connection.result_db),
    );
    let mut endpoints = Endpoints::from_urls(broker.expose(), backend.expose()).map_err(failed)?;
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

/// Everything but RFC 3986's unreserved characters is encoded: Celery decodes user and password of its URLs.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_carry_encoded_credentials_and_debug_does_not() {
        let connection = RedisConnection {
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
