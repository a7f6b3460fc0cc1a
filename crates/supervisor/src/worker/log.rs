//! The broker that a starting worker names in the log.
//!
//! An app with a hard-coded URL starts normally, but never answers on orch's Redis; only the banner in the log shows
//! the reason.

use std::path::Path;

use orch_base::files::log_stream;
use orch_base::text::percent;
use orch_base::text::url_authority::host_and_port;

/// Number of bytes of a start that are searched: the banner is within the first lines.
const WINDOW: u64 = 256 * 1024;

/// Host, port and database of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    pub host: String,
    pub port: u16,
    pub db: u32,
}

impl std::fmt::Display for BrokerAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "redis://{}/{}",
            host_and_port(&self.host, self.port),
            self.db
        )
    }
}

impl BrokerAddress {
    /// Returns true if both are one server and database; loopback has several names.
    pub fn is_same_database(&self, other: &Self) -> bool {
        self.db == other.db && self.is_same_server(other)
    }

    /// Returns true if both are one server.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.port == other.port && canonical(&self.host) == canonical(&other.host)
    }

    /// Parses the part of a URL after the scheme.
    pub fn read(rest: &str) -> Option<Self> {
        redis_address(rest)
    }
}

fn canonical(host: &str) -> &str {
    match host {
        "localhost" | "127.0.0.1" | "::1" | "0.0.0.0" => "127.0.0.1",
        other => other,
    }
}

/// The broker that a banner names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnouncedBroker {
    /// A Redis with host and port.
    Redis(BrokerAddress),
    /// Another broker, as written in the banner.
    Other(String),
}

/// Returns the broker that the banner names (`.> transport:   redis://...`), if the log from `offset` on contains a
/// banner.
pub fn announced_broker(log: &Path, offset: u64) -> Option<AnnouncedBroker> {
    let bytes = log_stream::bytes_from(log, offset, WINDOW).ok()?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Option<AnnouncedBroker> {
    let (_, url) = text.lines().find_map(|line| line.split_once(".> transport:"))?;
    let url = url.split_whitespace().next()?;
    let (scheme, rest) = url.split_once("://")?;
    match scheme {
        "redis" | "rediss" => redis_address(rest).map(AnnouncedBroker::Redis),
        // Another kind of Redis address, which may be that of orch's Redis: the answer to a ping decides.
        scheme if scheme.starts_with("redis") || scheme.starts_with("sentinel") => None,
        _ => Some(AnnouncedBroker::Other(url.to_owned())),
    }
}

fn redis_address(rest: &str) -> Option<BrokerAddress> {
    let (authority, db) = rest.split_once('/').unwrap_or((rest, "0"));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("6379")),
        None => authority.rsplit_once(':').unwrap_or((authority, "6379")),
    };
    let db = db.split(['/', '?']).next().filter(|db| !db.is_empty()).unwrap_or("0");
    Some(BrokerAddress {
        // kombu encodes the colons of an IPv6 address and writes no brackets.
        host: percent::decoded(host).ok()?,
        port: port.parse().ok()?,
        db: db.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_is_parsed() {
        let banner = "- ** ---------- [config]\n- ** ---------- .> app:         shop:0x7f\n- ** ---------- .> transport:   redis://:**@127.0.0.1:6390/2\n- ** ---------- .> results:     redis://127.0.0.1:6390/1\n";
        assert_eq!(
            parse(banner),
            Some(AnnouncedBroker::Redis(BrokerAddress {
                host: "127.0.0.1".into(),
                port: 6390,
                db: 2
            }))
        );
        assert_eq!(
            parse(".> transport: redis://localhost:6379//"),
            Some(AnnouncedBroker::Redis(BrokerAddress {
                host: "localhost".into(),
                port: 6379,
                db: 0
            }))
        );
        for written in [
            ".> transport: redis://:**@%3A%3A1:6390/2",
            ".> transport: redis://[::1]:6390/2",
        ] {
            let there = BrokerAddress {
                host: "::1".into(),
                port: 6390,
                db: 2,
            };
            assert_eq!(there.to_string(), "redis://[::1]:6390/2");
            assert_eq!(parse(written), Some(AnnouncedBroker::Redis(there)), "{written}");
        }
        let other = "amqp://guest:**@localhost:5672//";
        assert_eq!(
            parse(&format!(".> transport:   {other}\n")),
            Some(AnnouncedBroker::Other(other.to_owned()))
        );
        for unknown in [
            "nothing yet",
            ".> transport: redis+socket:///run/redis.sock",
            ".> transport: sentinel://a:1;b:2",
        ] {
            assert_eq!(parse(unknown), None, "{unknown}");
        }
        let (one, other) = ("localhost", "127.0.0.1");
        let at = |host: &str| BrokerAddress {
            host: host.into(),
            port: 1,
            db: 0,
        };
        assert!(at(one).is_same_database(&at(other)));
        assert!(!at("10.0.0.1").is_same_database(&at(other)));
    }
}
