//! Parser of Celery's URLs for the broker and the result backend.
//!
//! Supported URLs: `redis://`, `rediss://`, `redis+socket://`, `unix://`, with user, password and database, lists of
//! these (`a;b`), and `sentinel://` (Celery wire, observed on 5.2 to 5.7).

use std::path::PathBuf;

use url::Url;

use super::endpoint::{Endpoint, Endpoints};
use super::server_address::{RedisPassword, Sentinels, ServerAddress, TlsOptions};
use crate::error::{Error, Result};
use orch_base::text::percent;

const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Settings that a `sentinel://` URL does not contain: Celery reads them from its transport options.
///
/// ```python
/// app.conf.broker_transport_options = {"master_name": "mymaster", "sentinel_kwargs": {"password": "secret"}}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentinelOptions {
    /// `master_name`.
    pub master_name: Option<String>,
    /// `username` and `password` of `sentinel_kwargs`.
    pub username: Option<String>,
    pub password: Option<RedisPassword>,
}

impl Endpoints {
    /// Parses two URLs in the form of Celery's `broker_url` and `result_backend`.
    pub fn from_urls(broker: &str, backend: &str) -> Result<Self> {
        Self::from_urls_with(broker, backend, &SentinelOptions::default())
    }

    /// Parses like [`Endpoints::from_urls`], with the additional options of `sentinel://` URLs.
    pub fn from_urls_with(broker: &str, backend: &str, options: &SentinelOptions) -> Result<Self> {
        Ok(Self {
            broker: Endpoint::from_url_with(broker, options)?,
            backend: Endpoint::from_url_with(backend, options)?,
        })
    }
}

impl Endpoint {
    /// Parses one URL in Celery's form or a list of URLs (`a;b`).
    pub fn from_url(text: &str) -> Result<Self> {
        Self::from_url_with(text, &SentinelOptions::default())
    }

    /// Parses like [`Endpoint::from_url`], with the additional options of `sentinel://` URLs.
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
                        "its servers have different database numbers ({} and {}), but channel names contain the number",
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
            "sentinel" => Err(unusable(text, "Sentinels and servers cannot be in one list".to_owned())),
            other => Err(unusable(
                text,
                format!("the scheme `{other}` is not one of redis, rediss, redis+socket, unix, sentinel"),
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
        let path = url.path().trim_matches('/').to_owned();
        // The query takes precedence over the other parts, as in Celery's result backend.
        let database = match query(url, "db").unwrap_or(path).as_str() {
            "" => 0,
            number => database_number(number.trim_matches('/'), text)?,
        };
        let address = ServerAddress::Tcp {
            host,
            port: url.port().unwrap_or(DEFAULT_PORT),
            tls,
        };
        Ok(Self {
            username: query(url, "username").map_or_else(|| username(url, text), |name| Ok(Some(name)))?,
            password: match query(url, "password") {
                Some(password) => Some(RedisPassword::new(password)),
                None => password(url, text)?,
            },
            ..Self::new(address, database)
        })
    }

    /// Parses the URL of a Unix socket. Celery writes user and password before the path and no host, which is not a
    /// standard URL.
    fn from_socket_url(text: &str) -> Result<Self> {
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        let before_query = rest.split_once('?').map_or(rest, |(path, _)| path);
        let slash = before_query.find('/').unwrap_or(before_query.len());
        // A host has no meaning here: the path is the complete address.
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
            username: username(url, text)?,
            password: password(url, text)?,
            ..Self::new(ServerAddress::Unix(PathBuf::from(path)), database)
        })
    }
}

/// Parses `sentinel://a;sentinel://b`. User, password, database and TLS options of the master come from the first URL,
/// as in Celery.
fn from_sentinel_urls(text: &str, options: &SentinelOptions) -> Result<Endpoint> {
    let Some(master_name) = options.master_name.clone() else {
        return Err(unusable(
            text,
            "Sentinels need the name of the master: set master_name".to_owned(),
        ));
    };
    let (mut servers, mut first): (Vec<(String, u16)>, Option<Endpoint>) = (Vec::new(), None);
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        // Celery's documentation also shows the later URLs without a scheme.
        let rest = part.strip_prefix("sentinel://").unwrap_or(part);
        if rest.contains("://") {
            return Err(unusable(part, "Sentinels and servers cannot be in one list".to_owned()));
        }
        let is_tls = rest.contains("ssl_cert_reqs=");
        let scheme = if is_tls { "rediss" } else { "redis" };
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|error| unusable(part, error.to_string()))?;
        let one = Endpoint::from_tcp_url(&url, part)?;
        if let ServerAddress::Tcp { host, .. } = &one.address {
            servers.push((host.clone(), url.port().unwrap_or(SENTINEL_PORT)));
        }
        first.get_or_insert(one);
    }
    let Some(first) = first else {
        return Err(unusable(text, "it names no Sentinel".to_owned()));
    };
    let tls = match first.address {
        ServerAddress::Tcp { tls, .. } => tls,
        ServerAddress::Unix(_) | ServerAddress::Sentinel(_) => None,
    };
    Ok(Endpoint {
        address: ServerAddress::Sentinel(Sentinels {
            servers,
            master_name,
            username: options.username.clone(),
            password: options.password.clone(),
            tls,
        }),
        ..first
    })
}

pub(crate) fn unusable(url: &str, reason: String) -> Error {
    Error::InvalidUrl {
        url: without_credentials(url),
        reason,
    }
}

/// Replaces everything between the scheme and the last `@` of the authority, also in text that is not a URL.
fn without_credentials(text: &str) -> String {
    if text.contains(';') {
        let parts: Vec<String> = text.split(';').map(without_credentials).collect();
        return parts.join(";");
    }
    let text = text.split_once('?').map_or(text, |(address, _)| address);
    let Some((scheme, rest)) = text.split_once("://") else {
        // The structure of the text is unknown, so text that may contain a password is not shown at all.
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

fn password(url: &Url, text: &str) -> Result<Option<RedisPassword>> {
    match url.password() {
        None | Some("") => Ok(None),
        Some(password) => percent_decoded(password, text).map(|password| Some(RedisPassword::new(password))),
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

/// Reads the certificate options of a `rediss://` URL. Celery refuses `rediss://` without `ssl_cert_reqs`; the same
/// rule here ensures that a URL is valid for both programs.
fn tls_options(url: &Url, text: &str) -> Result<TlsOptions> {
    let unverified = match query(url, "ssl_cert_reqs").as_deref() {
        // A client always verifies the certificate: Python treats "optional" like "required", too.
        Some("CERT_REQUIRED" | "required" | "CERT_OPTIONAL" | "optional") => false,
        Some("CERT_NONE" | "none") => true,
        Some(other) => return Err(unusable(text, format!("`{other}` is not a value of ssl_cert_reqs"))),
        None => {
            return Err(unusable(
                text,
                "rediss:// needs `?ssl_cert_reqs=required` (or `optional`, `none`), as in Celery".to_owned(),
            ));
        }
    };
    let identity = match (query(url, "ssl_certfile"), query(url, "ssl_keyfile")) {
        (Some(certificate), Some(key)) => Some((PathBuf::from(certificate), PathBuf::from(key))),
        (None, None) => None,
        _ => {
            return Err(unusable(
                text,
                "ssl_certfile and ssl_keyfile must be given together".to_owned(),
            ));
        }
    };
    Ok(TlsOptions {
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
            assert_eq!(endpoint.password.as_ref().map(RedisPassword::expose), password, "{url}");
        }
    }

    #[test]
    fn the_error_of_an_unusable_url_has_a_reason_and_no_password() {
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

    #[test]
    fn sentinels_are_read_with_the_user_and_database_of_the_first() {
        let options = SentinelOptions {
            master_name: Some("main".to_owned()),
            username: None,
            password: Some(RedisPassword::new("watch")),
        };
        for url in [
            "sentinel://:pw@a:1/4;sentinel://b",
            "sentinel://:pw@a:1/4;b:26379",
            "sentinel://:pw@a:1/4;sentinel://:other@b:26379/5",
        ] {
            let endpoint = Endpoint::from_url_with(url, &options).expect(url);
            assert_eq!(
                endpoint.to_string(),
                "master main by Sentinel at a:1,b:26379/4",
                "{url}"
            );
            assert_eq!(
                endpoint.password.as_ref().map(RedisPassword::expose),
                Some("pw"),
                "{url}"
            );
            assert!(matches!(&endpoint.address, ServerAddress::Sentinel(found) if found.password == options.password));
        }
    }

    #[test]
    fn servers_and_sentinels_are_not_mixed() {
        let options = SentinelOptions {
            master_name: Some("m".to_owned()),
            ..SentinelOptions::default()
        };
        let error =
            Endpoint::from_url_with("sentinel://:hunter2@a;redis://:hunter2@b", &options).expect_err("a mixed list");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
