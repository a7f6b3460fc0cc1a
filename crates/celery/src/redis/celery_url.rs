//! Conversion of addresses to URLs, for the settings of Celery and for `REDIS_URL`.
//!
//! orch accepts more forms than the programs that read these URLs: Celery's broker accepts neither `?db=` nor
//! `unix://`, Celery's result backend accepts no list of servers, and other programs accept only `unix://` for sockets.

use std::fmt::Write as _;
use std::path::Path;

use url::form_urlencoded;

use super::endpoint::Endpoint;
use super::endpoint_url::{SentinelOptions, unusable};
use super::server_address::{RedisPassword, ServerAddress};
use crate::error::Result;
use orch_base::text::percent;
use orch_base::text::url_authority;
use orch_base::text::url_authority::host_and_port;

/// Parameters of a URL that an [`Endpoint`] contains.
const ENDPOINT_PARAMETERS: [&str; 4] = ["db", "virtual_host", "username", "password"];

/// Celery setting that a URL is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlPurpose {
    /// `broker_url`.
    Broker,
    /// `result_backend`.
    ResultBackend,
}

/// Converts an address that [`Endpoint::from_url_with`] can read into the form that Celery reads.
///
/// # Errors
/// The address cannot be read, or Celery has no form of the address for this purpose.
pub fn celery_url(text: &str, options: &SentinelOptions, purpose: UrlPurpose) -> Result<String> {
    let endpoint = Endpoint::from_url_with(text, options)?;
    let texts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    if let ServerAddress::Sentinel(sentinels) = &endpoint.address {
        // Celery reads the database and the password only from the first Sentinel.
        let query = further_query(texts.into_iter().next().unwrap_or_default(), purpose)?;
        let urls = sentinels.servers.iter().map(|(host, port)| {
            let place = host_and_port(host, *port);
            format!(
                "sentinel://{}{place}/{}{query}",
                credentials(&endpoint),
                endpoint.database
            )
        });
        return Ok(urls.collect::<Vec<_>>().join(";"));
    }
    if purpose == UrlPurpose::ResultBackend && !endpoint.alternatives.is_empty() {
        let reason = "Celery's result backend accepts one server, not a list";
        return Err(unusable(text, reason.to_owned()));
    }
    let mut urls = Vec::new();
    for (server, text) in endpoint.each_server().zip(texts) {
        let query = further_query(text, purpose)?;
        urls.push(match &server.address {
            ServerAddress::Unix(path) => {
                let (credentials, path) = (credentials(&server), encoded_path(path));
                let mut url = format!("redis+socket://{credentials}{path}?virtual_host={}", server.database);
                if let Some(further) = query.strip_prefix('?') {
                    // Writing to a `String` cannot fail.
                    let _ = write!(url, "&{further}");
                }
                url
            }
            ServerAddress::Tcp { .. } | ServerAddress::Sentinel(_) => tcp_url(&server, &query),
        });
    }
    Ok(urls.join(";"))
}

/// Returns the value of `REDIS_URL` for an address: the first server of a list; `None` for Sentinels, which such a URL
/// cannot name.
pub fn redis_url(endpoint: &Endpoint, celery_url: &str) -> Option<String> {
    match &endpoint.address {
        ServerAddress::Sentinel(_) => None,
        ServerAddress::Unix(path) => Some(format!(
            "unix://{}{}?db={}",
            credentials(endpoint),
            encoded_path(path),
            endpoint.database
        )),
        ServerAddress::Tcp { .. } => celery_url.split(';').next().map(str::to_owned),
    }
}

fn tcp_url(server: &Endpoint, query: &str) -> String {
    let (scheme, place) = match &server.address {
        ServerAddress::Tcp { host, port, tls } => {
            let scheme = if tls.is_some() { "rediss" } else { "redis" };
            (scheme, host_and_port(host, *port))
        }
        ServerAddress::Unix(_) | ServerAddress::Sentinel(_) => ("redis", String::new()),
    };
    format!("{scheme}://{}{place}/{}{query}", credentials(server), server.database)
}

/// Returns the query with the parameters that an [`Endpoint`] does not contain completely, including the `?`. The
/// result backend passes these parameters to the Redis library; the broker fails with a TypeError on parameters other
/// than those of TLS.
fn further_query(text: &str, purpose: UrlPurpose) -> Result<String> {
    let (_, query) = text.split_once('?').unwrap_or_default();
    let mut written = form_urlencoded::Serializer::new(String::new());
    let mut is_empty = true;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if ENDPOINT_PARAMETERS.contains(&&*name) {
            continue;
        }
        if purpose == UrlPurpose::Broker && !name.starts_with("ssl_") {
            let reason =
                format!("Celery's broker URL accepts no `{name}`: the app sets it in `broker_transport_options`");
            return Err(unusable(text, reason));
        }
        written.append_pair(&name, &value);
        is_empty = false;
    }
    Ok(if is_empty {
        String::new()
    } else {
        // Form encoding writes a space as a plus sign, which Celery would decode twice.
        format!("?{}", written.finish().replace('+', "%20"))
    })
}

/// Returns the part `user:password@` of a server's URL.
fn credentials(server: &Endpoint) -> String {
    let password = server.password.as_ref().map(RedisPassword::expose);
    url_authority::credentials(server.username.as_deref(), password)
}

fn encoded_path(path: &Path) -> String {
    let parts = path.to_string_lossy();
    parts.split('/').map(percent::encoded).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> SentinelOptions {
        SentinelOptions {
            master_name: Some("main".to_owned()),
            ..SentinelOptions::default()
        }
    }

    #[test]
    fn each_form_is_written_as_celery_reads_it() {
        for (text, written, for_others) in [
            ("redis://h", "redis://h:6379/0", Some("redis://h:6379/0")),
            ("redis://h:1/2?db=5", "redis://h:1/5", Some("redis://h:1/5")),
            (
                "redis://[::1]:1/2?password=p%40",
                "redis://default:p%40@[::1]:1/2",
                Some("redis://default:p%40@[::1]:1/2"),
            ),
            (
                "rediss://u:p%2Fw@h:1/2?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.pem",
                "rediss://u:p%2Fw@h:1/2?ssl_cert_reqs=required&ssl_ca_certs=%2Fetc%2Fca.pem",
                Some("rediss://u:p%2Fw@h:1/2?ssl_cert_reqs=required&ssl_ca_certs=%2Fetc%2Fca.pem"),
            ),
            (
                "unix://u:p@/run/a%20b.sock?db=3",
                "redis+socket://u:p@/run/a%20b.sock?virtual_host=3",
                Some("unix://u:p@/run/a%20b.sock?db=3"),
            ),
            (
                "redis+socket:///run/redis.sock",
                "redis+socket:///run/redis.sock?virtual_host=0",
                Some("unix:///run/redis.sock?db=0"),
            ),
            (
                "redis://:a@h:1/2; redis://i:3/2",
                "redis://default:a@h:1/2;redis://i:3/2",
                Some("redis://default:a@h:1/2"),
            ),
            (
                "sentinel://:a@h:1/2;i",
                "sentinel://default:a@h:1/2;sentinel://default:a@i:26379/2",
                None,
            ),
        ] {
            let url = celery_url(text, &options(), UrlPurpose::Broker).expect(text);
            assert_eq!(url, written, "{text}");
            let (one, other) = (
                Endpoint::from_url_with(text, &options()).expect(text),
                Endpoint::from_url_with(&url, &options()).expect(text),
            );
            assert_eq!(one.to_string(), other.to_string(), "{text}");
            assert_eq!(redis_url(&one, &url).as_deref(), for_others, "{text}");
        }
    }

    #[test]
    fn forms_that_celery_does_not_accept_are_refused() {
        let written = |text: &str, purpose| celery_url(text, &options(), purpose);
        let timeout = "redis://:hunter2@h/0?socket_timeout=3";
        assert_eq!(
            written(timeout, UrlPurpose::ResultBackend).expect(timeout),
            "redis://default:hunter2@h:6379/0?socket_timeout=3"
        );
        for (text, purpose, why) in [
            (timeout, UrlPurpose::Broker, "accepts no `socket_timeout`"),
            ("redis://:hunter2@h;redis://i", UrlPurpose::ResultBackend, "not a list"),
        ] {
            let error = written(text, purpose).expect_err(text).to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }
}
