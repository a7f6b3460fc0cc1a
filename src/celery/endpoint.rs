//! Where a broker or result backend is, as Celery's URLs say it.
//!
//! Understood: `redis://`, `rediss://`, `redis+socket://`, `unix://`, with user, password and database, lists of them
//! (`a;b`), and `sentinel://` (Celery wire, observed on 5.2 to 5.7). Not here: Cluster, which Celery does not speak to; the
//! way back to a URL (`celery_url`).

use std::fmt;
use std::path::PathBuf;

use url::Url;

use super::sentinel::{SentinelOptions, Sentinels, from_sentinel_urls};
use super::{Error, Result};
use crate::percent;
use crate::url_authority::host_and_port;

const DEFAULT_PORT: u16 = 6379;

/// A password that prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps the plain text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The plain text, for the wire and for the environment of a service only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP; `tls` is set for `rediss://`.
    Tcp { host: String, port: u16, tls: Option<Tls> },
    /// A Unix socket.
    Unix(PathBuf),
    /// The master of a name, which Sentinels know.
    Sentinel(Sentinels),
}

/// The certificate options of a `rediss://` URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `ssl_cert_reqs` is `none`: any certificate is taken.
    pub unverified: bool,
    /// `ssl_ca_certs`: PEM file of trusted authorities; `None` means those of the system.
    pub ca_certificates: Option<PathBuf>,
    /// `ssl_certfile` and `ssl_keyfile`: PEM files of our own identity.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// One Redis database: a server, who we are there, and which of its databases; with further servers to try, as a list
/// of URLs names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    /// `None` is the server's default user.
    pub username: Option<String>,
    pub password: Option<Password>,
    /// Database number.
    pub database: u32,
    /// Put before every key and channel exactly as it stands; empty for none. The broker's is `global_keyprefix` of
    /// `broker_transport_options`. A result backend's is that of `result_backend_transport_options`: Celery 5.5 and
    /// newer use it as it is, 5.3 and 5.4 add an underscore (write it here), 5.2 ignores it.
    pub key_prefix: String,
    /// How the server is reached and what must be known of it before a password is sent.
    pub access: Access,
    /// Tried in this order where the first cannot be used; each stands for itself, the key prefix excepted.
    pub alternatives: Vec<Endpoint>,
}

/// How a server that has a TCP address is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// By its address, whoever is there.
    #[default]
    Address,
    /// By its address. Where that is this machine's, nothing but a PING is sent to a process of another user than this
    /// one and root.
    OwnOrRoot,
    /// By this Unix socket of the same server. Where its file is gone, as that of a server whose directory was removed, by
    /// the address as [`Access::OwnOrRoot`].
    Socket(PathBuf),
}

/// Where tasks go to and where their results come from; often two databases of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub broker: Endpoint,
    pub backend: Endpoint,
}

impl Endpoints {
    /// Reads two URLs as Celery's `broker_url` and `result_backend` hold them.
    pub fn from_urls(broker: &str, backend: &str) -> Result<Self> {
        Self::from_urls_with(broker, backend, &SentinelOptions::default())
    }

    /// As [`Endpoints::from_urls`], with what a `sentinel://` URL needs beside it.
    pub fn from_urls_with(broker: &str, backend: &str, options: &SentinelOptions) -> Result<Self> {
        Ok(Self {
            broker: Endpoint::from_url_with(broker, options)?,
            backend: Endpoint::from_url_with(backend, options)?,
        })
    }
}

impl Endpoint {
    /// A server on TCP without credentials.
    pub fn tcp(host: impl Into<String>, port: u16, database: u32) -> Self {
        Self {
            address: Address::Tcp {
                host: host.into(),
                port,
                tls: None,
            },
            username: None,
            password: None,
            database,
            key_prefix: String::new(),
            access: Access::Address,
            alternatives: Vec::new(),
        }
    }

    /// The same endpoint with a password.
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password::new(password));
        self
    }

    /// Reads one URL as Celery writes it, or a list of them (`a;b`).
    pub fn from_url(text: &str) -> Result<Self> {
        Self::from_url_with(text, &SentinelOptions::default())
    }

    /// As [`Endpoint::from_url`], with what a `sentinel://` URL needs beside it.
    pub fn from_url_with(text: &str, options: &SentinelOptions) -> Result<Self> {
        if text.starts_with("sentinel://") {
            return from_sentinel_urls(text, options);
        }
        let mut urls = text.split(';').filter(|url| !url.trim().is_empty());
        let mut first = Self::from_one_url(urls.next().unwrap_or_default().trim())?;
        for url in urls {
            let other = Self::from_one_url(url.trim())?;
            if other.database != first.database {
                return Err(unusable(
                    text,
                    format!(
                        "its servers have different database numbers ({} and {}), which stand in the names of channels",
                        first.database, other.database
                    ),
                ));
            }
            first.alternatives.push(other);
        }
        Ok(first)
    }

    fn from_one_url(text: &str) -> Result<Self> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if matches!(scheme, Some("redis+socket" | "unix" | "socket")) {
            return Self::from_socket_url(text);
        }
        let url = Url::parse(text).map_err(|error| unusable(text, error.to_string()))?;
        match url.scheme() {
            "redis" | "rediss" => Self::from_tcp_url(&url, text),
            "sentinel" => Err(unusable(
                text,
                "Sentinels and servers cannot stand in one list".to_owned(),
            )),
            other => Err(unusable(
                text,
                format!("the scheme `{other}` is none of redis, rediss, redis+socket, unix, sentinel"),
            )),
        }
    }

    /// Gives each server that may be connected to, with what is the same for all of them.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        let first = Self {
            alternatives: Vec::new(),
            ..self.clone()
        };
        std::iter::once(first).chain(self.alternatives.iter().cloned())
    }

    pub(super) fn from_tcp_url(url: &Url, text: &str) -> Result<Self> {
        let host = match url.host() {
            Some(url::Host::Domain("")) | None => "127.0.0.1".to_owned(),
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
        };
        let tls = if url.scheme() == "rediss" {
            Some(tls_options(url, text)?)
        } else {
            None
        };
        let path = url.path().trim_matches('/').to_owned();
        // The query is stronger than the rest, as in Celery's result backend.
        let database = match query(url, "db").unwrap_or(path).as_str() {
            "" => 0,
            number => database_number(number.trim_matches('/'), text)?,
        };
        Ok(Self {
            address: Address::Tcp {
                host,
                port: url.port().unwrap_or(DEFAULT_PORT),
                tls,
            },
            username: query(url, "username").map_or_else(|| username(url, text), |name| Ok(Some(name)))?,
            password: match query(url, "password") {
                Some(password) => Some(Password(password)),
                None => password(url, text)?,
            },
            database,
            key_prefix: String::new(),
            access: Access::Address,
            alternatives: Vec::new(),
        })
    }

    /// Celery writes user and password before the path and no host, which is no URL of the standard.
    fn from_socket_url(text: &str) -> Result<Self> {
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        let before_query = rest.split_once('?').map_or(rest, |(path, _)| path);
        let slash = before_query.find('/').unwrap_or(before_query.len());
        // A host says nothing: the path is the whole address.
        let with_host = match rest.split_at(slash) {
            (authority, path) if authority.is_empty() || authority.ends_with('@') => {
                format!("socket://{authority}localhost{path}")
            }
            _ => format!("socket://{rest}"),
        };
        let url = &Url::parse(&with_host).map_err(|error| unusable(text, error.to_string()))?;
        let path = percent_decoded(url.path(), text)?;
        if path.trim_matches('/').is_empty() {
            return Err(unusable(text, "the path of the socket is missing".to_owned()));
        }
        let database = match query(url, "virtual_host").or_else(|| query(url, "db")) {
            Some(number) => database_number(number.trim_matches('/'), text)?,
            None => 0,
        };
        Ok(Self {
            address: Address::Unix(PathBuf::from(path)),
            username: username(url, text)?,
            password: password(url, text)?,
            database,
            key_prefix: String::new(),
            access: Access::Address,
            alternatives: Vec::new(),
        })
    }
}

/// Names the database without credentials: `127.0.0.1:6379/0`.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.database)?;
        self.alternatives
            .iter()
            .try_for_each(|other| write!(formatter, ", {other}"))
    }
}

/// Names the server: `127.0.0.1:6379`, `[::1]:6379`, a path, `master mymaster by Sentinel at 127.0.0.1:26379`.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => formatter.write_str(&host_and_port(host, *port)),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
            Self::Sentinel(sentinels) => write!(formatter, "{sentinels}"),
        }
    }
}

pub(super) fn unusable(url: &str, reason: String) -> Error {
    Error::Url {
        url: without_credentials(url),
        reason,
    }
}

/// Replaces everything between the scheme and the last `@` of the authority, also in text that is no URL.
fn without_credentials(text: &str) -> String {
    if text.contains(';') {
        let parts: Vec<String> = text.split(';').map(without_credentials).collect();
        return parts.join(";");
    }
    let text = text.split_once('?').map_or(text, |(address, _)| address);
    let Some((scheme, rest)) = text.split_once("://") else {
        // Nothing is known about the shape, so nothing of it is shown where a password could be.
        return if text.contains('@') {
            "[redacted]".to_owned()
        } else {
            text.to_owned()
        };
    };
    match rest.rsplit_once('@') {
        Some((_, server)) => format!("{scheme}://[redacted]@{server}"),
        None => text.to_owned(),
    }
}

fn percent_decoded(text: &str, url: &str) -> Result<String> {
    percent::decoded(text).map_err(|reason| unusable(url, reason.to_owned()))
}

fn username(url: &Url, text: &str) -> Result<Option<String>> {
    match url.username() {
        "" => Ok(None),
        name => percent_decoded(name, text).map(Some),
    }
}

fn password(url: &Url, text: &str) -> Result<Option<Password>> {
    match url.password() {
        None | Some("") => Ok(None),
        Some(password) => percent_decoded(password, text).map(|password| Some(Password(password))),
    }
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn database_number(text: &str, url: &str) -> Result<u32> {
    text.parse()
        .map_err(|_| unusable(url, format!("`{text}` is not a database number")))
}

/// Celery refuses `rediss://` without `ssl_cert_reqs`; the same rule here keeps one URL usable for both.
fn tls_options(url: &Url, text: &str) -> Result<Tls> {
    let unverified = match query(url, "ssl_cert_reqs").as_deref() {
        // A client has no optional look at a certificate: Python looks at it, too.
        Some("CERT_REQUIRED" | "required" | "CERT_OPTIONAL" | "optional") => false,
        Some("CERT_NONE" | "none") => true,
        Some(other) => return Err(unusable(text, format!("`{other}` is not a value of ssl_cert_reqs"))),
        None => {
            return Err(unusable(
                text,
                "rediss:// needs `?ssl_cert_reqs=required` (or `optional`, `none`), as Celery does".to_owned(),
            ));
        }
    };
    let identity = match (query(url, "ssl_certfile"), query(url, "ssl_keyfile")) {
        (Some(certificate), Some(key)) => Some((PathBuf::from(certificate), PathBuf::from(key))),
        (None, None) => None,
        _ => return Err(unusable(text, "ssl_certfile and ssl_keyfile go together".to_owned())),
    };
    Ok(Tls {
        unverified,
        ca_certificates: query(url, "ssl_ca_certs").map(PathBuf::from),
        identity,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_celery_reads_them() {
        let cases: [(&str, &str, Option<&str>, Option<&str>); 14] = [
            ("redis://", "127.0.0.1:6379/0", None, None),
            ("redis://localhost", "localhost:6379/0", None, None),
            ("redis://localhost:7000/", "localhost:7000/0", None, None),
            (
                "redis://:p%40ss%2Fword@10.0.0.1:7000/3",
                "10.0.0.1:7000/3",
                None,
                Some("p@ss/word"),
            ),
            (
                "redis://user:secret@[::1]:7000/15",
                "[::1]:7000/15",
                Some("user"),
                Some("secret"),
            ),
            (
                "redis+socket:///run/redis.sock?virtual_host=3",
                "/run/redis.sock/3",
                None,
                None,
            ),
            ("unix:///run/redis.sock?db=2", "/run/redis.sock/2", None, None),
            (
                "rediss://h:1/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.pem",
                "h:1/0",
                None,
                None,
            ),
            ("rediss://h:1/0?ssl_cert_reqs=none", "h:1/0", None, None),
            ("redis://h:1/2?db=5", "h:1/5", None, None),
            ("redis://h:1?db=5&password=pw", "h:1/5", None, Some("pw")),
            (
                "redis+socket://:p%40w@/run/redis.sock?virtual_host=3",
                "/run/redis.sock/3",
                None,
                Some("p@w"),
            ),
            (
                "unix://user:pw@/run/redis.sock?db=2",
                "/run/redis.sock/2",
                Some("user"),
                Some("pw"),
            ),
            ("redis://h:1/3;redis://:pw@i:2/3", "h:1/3, i:2/3", None, None),
        ];
        for (url, shown, username, password) in cases {
            let endpoint = Endpoint::from_url(url).expect(url);
            assert_eq!(endpoint.to_string(), shown, "{url}");
            assert_eq!(endpoint.username.as_deref(), username, "{url}");
            assert_eq!(endpoint.password.as_ref().map(Password::expose), password, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why_and_never_shows_the_password() {
        for (url, why) in [
            ("redis://:hunter2@host:99999/0", "port"),
            ("redis://:hunter2@host/zero", "`zero` is not a database number"),
            ("redis://:hunter2%zz@host/0", "hexadecimal"),
            ("amqp://guest:hunter2@host//", "scheme `amqp`"),
            ("sentinel://:hunter2@host:26379", "master_name"),
            ("redis://h/0;sentinel://:hunter2@host:26379", "one list"),
            ("redis://:hunter2@host/0;redis://:hunter2@host/zero", "`zero`"),
            ("redis://:hunter2@host/0;redis://:hunter2@host/1", "(0 and 1)"),
            ("redis://host/zero?password=hunter2", "`zero`"),
            ("rediss://:hunter2@host/0", "ssl_cert_reqs"),
            ("redis+socket://:hunter2@/", "socket"),
            (":hunter2@host", "relative URL"),
        ] {
            let error = Endpoint::from_url(url).expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let endpoint = Endpoint::from_url("redis://:hunter2@host/0").expect("a good URL");
        assert!(!format!("{endpoint:?} {endpoint}").contains("hunter2"));
    }
}
