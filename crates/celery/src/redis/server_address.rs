//! Addresses of Redis servers: a TCP address, a Unix socket, or Sentinels that name the master.

use std::fmt;
use std::path::PathBuf;

pub use orch_base::text::secret::Secret as RedisPassword;
use orch_base::text::url_authority::host_and_port;

/// Address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// TCP address; `tls` is set for `rediss://`.
    Tcp {
        host: String,
        port: u16,
        tls: Option<TlsOptions>,
    },
    /// Path of a Unix socket.
    Unix(PathBuf),
    /// Master that Sentinels find by its name.
    Sentinel(Sentinels),
}

/// Certificate options of a `rediss://` URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// True if `ssl_cert_reqs` is `none`: any certificate is accepted.
    pub unverified: bool,
    /// `ssl_ca_certs`: PEM file of trusted authorities; `None` means the authorities of the system.
    pub ca_certificates: Option<PathBuf>,
    /// `ssl_certfile` and `ssl_keyfile`: PEM files of the client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Sentinels and the name of the master that they monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Host and port of each Sentinel, in the order in which they are asked.
    pub servers: Vec<(String, u16)>,
    /// `master_name` of Celery's transport options.
    pub master_name: String,
    /// `username` and `password` of `sentinel_kwargs`: credentials for the Sentinels themselves.
    pub username: Option<String>,
    pub password: Option<RedisPassword>,
    /// TLS options of the master; connections to the Sentinels do not use TLS, as in Celery.
    pub tls: Option<TlsOptions>,
}

/// Name of the server: `127.0.0.1:6379`, `[::1]:6379`, a path, `master mymaster by Sentinel at 127.0.0.1:26379`.
impl fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => formatter.write_str(&host_and_port(host, *port)),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
            Self::Sentinel(sentinels) => write!(formatter, "{sentinels}"),
        }
    }
}

/// Name of the master and its Sentinels: `master mymaster by Sentinel at 127.0.0.1:26379`.
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
