//! Where a broker or result backend is, as Celery's URLs say it.
//!
//! Understood: `redis://`, `rediss://`, `redis+socket://`, `unix://`, with user, password and database
//! (Celery wire, observed on 5.2 to 5.7). Not here: Sentinel and Cluster.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use super::{Error, Result};

const DEFAULT_PORT: u16 = 6379;

/// A password that prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps the plain text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The plain text, for the wire only.
    pub(super) fn expose(&self) -> &str {
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
}

/// The certificate options of a `rediss://` URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `ssl_ca_certs`: PEM file of trusted authorities; `None` means those of the system.
    pub ca_certificates: Option<PathBuf>,
    /// `ssl_certfile` and `ssl_keyfile`: PEM files of our own identity.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// One Redis database: a server, who we are there, and which of its databases.
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
        Ok(Self {
            broker: Endpoint::from_url(broker)?,
            backend: Endpoint::from_url(backend)?,
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
        }
    }

    /// The same endpoint with a password.
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password::new(password));
        self
    }

    /// Reads one URL as Celery writes it.
    pub fn from_url(text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|error| unusable(text, error.to_string()))?;
        match url.scheme() {
            "redis" | "rediss" => Self::from_tcp_url(&url, text),
            "redis+socket" | "unix" => Self::from_socket_url(&url, text),
            "sentinel" => Err(unusable(
                text,
                "Sentinel is not supported; give the master's address".to_owned(),
            )),
            other => Err(unusable(
                text,
                format!("the scheme `{other}` is none of redis, rediss, redis+socket, unix"),
            )),
        }
    }

    fn from_tcp_url(url: &Url, text: &str) -> Result<Self> {
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
        let path = url.path().trim_matches('/');
        let database = if path.is_empty() {
            0
        } else {
            database_number(path, text)?
        };
        Ok(Self {
            address: Address::Tcp {
                host,
                port: url.port().unwrap_or(DEFAULT_PORT),
                tls,
            },
            username: username(url, text)?,
            password: password(url, text)?,
            database,
            key_prefix: String::new(),
            access: Access::Address,
        })
    }

    fn from_socket_url(url: &Url, text: &str) -> Result<Self> {
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
        })
    }
}

/// Names the database without credentials: `127.0.0.1:6379/0`.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port, .. } if host.contains(':') => write!(formatter, "[{host}]:{port}")?,
            Address::Tcp { host, port, .. } => write!(formatter, "{host}:{port}")?,
            Address::Unix(path) => write!(formatter, "{}", path.display())?,
        }
        write!(formatter, "/{}", self.database)
    }
}

fn unusable(url: &str, reason: String) -> Error {
    Error::Url {
        url: without_credentials(url),
        reason,
    }
}

/// Replaces everything between the scheme and the last `@` of the authority, also in text that is no URL.
fn without_credentials(text: &str) -> String {
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
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            // Two hexadecimal digits are at most 255.
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => {
                return Err(unusable(
                    url,
                    "a `%` is not followed by two hexadecimal digits".to_owned(),
                ));
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| unusable(url, "its percent-encoding is not UTF-8".to_owned()))
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
    match query(url, "ssl_cert_reqs").as_deref() {
        Some("CERT_REQUIRED" | "required") => {}
        Some("CERT_NONE" | "none" | "CERT_OPTIONAL" | "optional") => {
            return Err(unusable(
                text,
                "unverified certificates (ssl_cert_reqs) are not supported".to_owned(),
            ));
        }
        Some(other) => return Err(unusable(text, format!("`{other}` is not a value of ssl_cert_reqs"))),
        None => {
            return Err(unusable(
                text,
                "rediss:// needs `?ssl_cert_reqs=required`, as Celery does".to_owned(),
            ));
        }
    }
    let identity = match (query(url, "ssl_certfile"), query(url, "ssl_keyfile")) {
        (Some(certificate), Some(key)) => Some((PathBuf::from(certificate), PathBuf::from(key))),
        (None, None) => None,
        _ => return Err(unusable(text, "ssl_certfile and ssl_keyfile go together".to_owned())),
    };
    Ok(Tls {
        ca_certificates: query(url, "ssl_ca_certs").map(PathBuf::from),
        identity,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_celery_reads_them() {
        let cases: [(&str, &str, Option<&str>, Option<&str>); 8] = [
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
            ("sentinel://:hunter2@host:26379", "Sentinel"),
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
