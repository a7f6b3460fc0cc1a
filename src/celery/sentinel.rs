//! Sentinels: the addresses that know which server is the master of a name.

use std::fmt;

use url::Url;

use super::Result;
use super::endpoint::{Address, Endpoint, Password, Tls, unusable};
use crate::url_authority::host_and_port;

const SENTINEL_PORT: u16 = 26379;

/// Sentinels and the master that they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Host and port of each, in order of trial.
    pub servers: Vec<(String, u16)>,
    /// `master_name` of Celery's transport options.
    pub master_name: String,
    /// `sentinel_kwargs`: by what the Sentinels themselves let in.
    pub username: Option<String>,
    pub password: Option<Password>,
    /// TLS of the master; the Sentinels are spoken to without it, as Celery does.
    pub tls: Option<Tls>,
}

/// Settings that a `sentinel://` URL does not hold: Celery has them in its transport options.
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
    pub password: Option<Password>,
}

/// `master mymaster by Sentinel at 127.0.0.1:26379`.
impl fmt::Display for Sentinels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "master {} by Sentinel at ", self.master_name)?;
        for (index, (host, port)) in self.servers.iter().enumerate() {
            formatter.write_str(if index == 0 { "" } else { "," })?;
            formatter.write_str(&host_and_port(host, *port))?;
        }
        Ok(())
    }
}

/// Reads `sentinel://a;sentinel://b`: user, password, database and TLS of the master are those of the first, as Celery
/// takes them.
pub(super) fn from_sentinel_urls(text: &str, options: &SentinelOptions) -> Result<Endpoint> {
    let Some(master_name) = options.master_name.clone() else {
        return Err(unusable(
            text,
            "Sentinels are asked for a master by its name: give master_name".to_owned(),
        ));
    };
    let (mut servers, mut first): (Vec<(String, u16)>, Option<Endpoint>) = (Vec::new(), None);
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        // Celery's documentation gives the later ones without a scheme, too.
        let rest = part.strip_prefix("sentinel://").unwrap_or(part);
        if rest.contains("://") {
            return Err(unusable(
                part,
                "Sentinels and servers cannot stand in one list".to_owned(),
            ));
        }
        let is_tls = rest.contains("ssl_cert_reqs=");
        let scheme = if is_tls { "rediss" } else { "redis" };
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|error| unusable(part, error.to_string()))?;
        let one = Endpoint::from_tcp_url(&url, part)?;
        if let Address::Tcp { host, .. } = &one.address {
            servers.push((host.clone(), url.port().unwrap_or(SENTINEL_PORT)));
        }
        first.get_or_insert(one);
    }
    let Some(first) = first else {
        return Err(unusable(text, "it names no Sentinel".to_owned()));
    };
    let tls = match first.address {
        Address::Tcp { tls, .. } => tls,
        Address::Unix(_) | Address::Sentinel(_) => None,
    };
    Ok(Endpoint {
        address: Address::Sentinel(Sentinels {
            servers,
            master_name,
            username: options.username.clone(),
            password: options.password.clone(),
            tls,
        }),
        ..first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_read_with_the_user_and_database_of_the_first() {
        let options = SentinelOptions {
            master_name: Some("main".to_owned()),
            username: None,
            password: Some(Password::new("watch")),
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
            assert_eq!(endpoint.password.as_ref().map(Password::expose), Some("pw"), "{url}");
            assert!(matches!(&endpoint.address, Address::Sentinel(found) if found.password == options.password));
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
