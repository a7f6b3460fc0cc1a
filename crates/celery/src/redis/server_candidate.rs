//! Server with one address, and the kinds of connections to this server.

use std::path::Path;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, RedisConnectionInfo,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::endpoint::{Endpoint, ServerAccess};
use super::limited_connection::{Connection, ConnectionDriver};
use super::reply_limit::{LimitViolation, LimitedSocket, excess_error};
use super::server_address::{ServerAddress, TlsOptions};
use crate::error::{Error, Result};
use orch_base::files::regular;
use orch_base::net::socket_owner;
use orch_base::net::socket_owner::ConnectionPeer;

/// Largest size of a certificate file in bytes: forty times the size of a bundle of all public authorities.
const MAX_CERTIFICATE_SIZE: u64 = 8 << 20;
/// Largest length of the answer to a PING, in bytes.
const MAX_ANSWER_LENGTH: usize = 256;

/// Socket without TLS.
trait AsyncSocket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> AsyncSocket for S {}

/// Connected socket without TLS.
pub(crate) enum PlainSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Server with one address, and the Redis library's client for this server.
pub(crate) struct ServerCandidate {
    endpoint: Endpoint,
    client: redis::Client,
}

impl ServerCandidate {
    /// Creates the client without connecting; reads the certificate files that the endpoint names.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self> {
        let client = redis_client(&endpoint)?;
        Ok(Self { endpoint, client })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Opens a dedicated connection for commands. The caller limits the time.
    pub(crate) async fn open(&self, action: &str) -> Result<Connection> {
        self.open_with(action, self.client.clone(), AsyncConnectionConfig::new())
            .await?
            .map_err(|error| self.error(&error, action))
    }

    /// Opens a connection. The inner error is the error of the library, for callers that check the error's kind.
    async fn open_with(
        &self,
        action: &str,
        client: redis::Client,
        config: AsyncConnectionConfig,
    ) -> Result<redis::RedisResult<Connection>> {
        // The callers set the deadlines; a timeout of the library would interrupt a blocking command.
        let config = config.set_connection_timeout(None).set_response_timeout(None);
        let Some(socket) = self.socket(action).await? else {
            let opened = client.get_multiplexed_async_connection_with_config(&config).await;
            return Ok(opened.map(|inner| Connection {
                inner,
                excess: LimitViolation::default(),
                _driver: None,
            }));
        };
        let (socket, excess) = LimitedSocket::new(socket);
        let settings = client.get_connection_info().redis_settings();
        let opened = MultiplexedConnection::new_with_config(settings, socket, config).await;
        if let Some(error) = opened
            .as_ref()
            .err()
            .and_then(|_| excess_error(&excess, action, &self.endpoint))
        {
            return Err(error);
        }
        Ok(opened.map(|(inner, driver)| Connection {
            inner,
            excess,
            _driver: Some(Arc::new(ConnectionDriver(tokio::spawn(driver).abort_handle()))),
        }))
    }

    /// Opens a socket to a server that may receive the password; `None` if the library must open the socket, for TLS.
    async fn socket(&self, action: &str) -> Result<Option<Box<dyn AsyncSocket>>> {
        Ok(self.plain_socket(action).await?.map(|socket| match socket {
            PlainSocket::Tcp(socket) => Box::new(socket) as Box<dyn AsyncSocket>,
            PlainSocket::Unix(socket) => Box::new(socket),
        }))
    }

    /// Opens a socket like [`Self::socket`] and keeps the type of the socket.
    pub(crate) async fn plain_socket(&self, action: &str) -> Result<Option<PlainSocket>> {
        let failed = |error: std::io::Error| self.error(&error.into(), action);
        let mut check_owner = self.endpoint.access == ServerAccess::TrustedOwner;
        if let ServerAccess::UnixSocket(path) = &self.endpoint.access {
            match UnixStream::connect(path).await {
                Ok(socket) => return Ok(Some(PlainSocket::Unix(socket))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => check_owner = true,
                Err(error) => return Err(failed(error)),
            }
        }
        let (host, port) = match &self.endpoint.address {
            ServerAddress::Tcp { tls: Some(_), .. } => return Ok(None),
            ServerAddress::Tcp { host, port, tls: None } => (host.as_str(), *port),
            ServerAddress::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(failed)?;
                return Ok(Some(PlainSocket::Unix(socket)));
            }
            ServerAddress::Sentinel(_) => return Err(unresolved(&self.endpoint)),
        };
        let mut socket = TcpStream::connect((host, port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        if check_owner {
            let peer = accepted_peer(&mut socket).await.map_err(failed)?;
            check_owner_is_trusted(peer).map_err(|reason| Error::UntrustedServer {
                action: action.to_owned(),
                endpoint: self.endpoint.to_string(),
                reason,
            })?;
        }
        Ok(Some(PlainSocket::Tcp(socket)))
    }

    /// Opens a dedicated connection with `CLIENT TRACKING`: the receiver reports when another client changes a key that
    /// the caller has read over this connection. The receiver is `None` if the server does not report changes. The
    /// caller limits the time.
    pub(crate) async fn open_tracking(
        &self,
        action: &str,
    ) -> Result<(Connection, Option<mpsc::UnboundedReceiver<PushInfo>>)> {
        let info = self.client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client =
            redis::Client::open(info.set_redis_settings(settings)).map_err(|error| self.error(&error, action))?;
        let (pushes, changes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new().set_push_sender(pushes);
        let mut connection = match self.open_with(action, client, config).await? {
            Ok(connection) => connection,
            Err(error) if error.kind() == redis::ErrorKind::RESP3NotSupported => {
                return Ok((self.open(action).await?, None));
            }
            Err(error) => return Err(self.error(&error, action)),
        };
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("NOLOOP");
        match track.exec_async(&mut connection).await {
            Ok(()) => Ok((connection, Some(changes))),
            Err(error) if error.is_io_error() => Err(self.error(&error, action)),
            Err(error) => {
                tracing::debug!(%error, "the server does not track reads");
                Ok((connection, None))
            }
        }
    }

    /// Opens a dedicated connection for subscriptions. The caller limits the time.
    pub(crate) async fn open_pubsub(&self, action: &str) -> Result<redis::aio::PubSub> {
        let opened = match self.socket(action).await? {
            None => self.client.get_async_pubsub().await,
            Some(socket) => {
                let (socket, _excess) = LimitedSocket::new(socket);
                redis::aio::PubSub::new(self.client.get_connection_info().redis_settings(), socket).await
            }
        };
        opened.map_err(|error| self.error(&error, action))
    }

    pub(crate) fn error(&self, error: &redis::RedisError, action: &str) -> Error {
        Error::from_redis(error, action, &self.endpoint)
    }
}

/// Finds out which process has accepted the connection. The only data sent before is a PING. The answer proves that a
/// process has accepted the connection; until then the kernel shows root as the owner, whichever user listens. The
/// caller limits the time.
async fn accepted_peer(stream: &mut TcpStream) -> std::io::Result<ConnectionPeer> {
    let ends = (stream.local_addr()?, stream.peer_addr()?);
    if socket_owner::peer(ends.0, ends.1) == ConnectionPeer::Remote {
        return Ok(ConnectionPeer::Remote);
    }
    stream.write_all(b"PING\r\n").await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        // The answer is `+PONG`, or the error of a server that requires a password first.
        if line.len() > MAX_ANSWER_LENGTH {
            let error = "the answer to PING is too long";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        }
        line.push(stream.read_u8().await?);
    }
    Ok(socket_owner::peer(ends.0, ends.1))
}

/// Checks that the server may receive a password. The error text describes the owner of the server process.
fn check_owner_is_trusted(peer: ConnectionPeer) -> std::result::Result<(), String> {
    match peer {
        ConnectionPeer::Remote => Ok(()),
        ConnectionPeer::Local(owner) if owner.is_trusted() => Ok(()),
        ConnectionPeer::Local(owner) => Err(format!("the server belongs to another user (uid {})", owner.uid)),
        ConnectionPeer::NotAccepted | ConnectionPeer::Unknown => {
            Err("the kernel does not show which user the server belongs to".to_owned())
        }
    }
}

fn redis_client(endpoint: &Endpoint) -> Result<redis::Client> {
    let mut settings = RedisConnectionInfo::default()
        .set_db(i64::from(endpoint.database))
        // Setting the library name would cost one round trip per connection, and old servers answer with errors that
        // they count.
        .set_skip_set_lib_name();
    if let Some(username) = &endpoint.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &endpoint.password {
        settings = settings.set_password(password.expose());
    }
    let refused = |error: redis::RedisError| Error::from_redis(&error, "use the address", endpoint);
    let (address, tls) = match &endpoint.address {
        ServerAddress::Tcp { host, port, tls: None } => (ConnectionAddr::Tcp(host.clone(), *port), None),
        ServerAddress::Tcp {
            host,
            port,
            tls: Some(tls),
        } => {
            let address = ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: tls.unverified,
                tls_params: None,
            };
            (address, Some(tls))
        }
        ServerAddress::Unix(path) => (ConnectionAddr::Unix(path.clone()), None),
        ServerAddress::Sentinel(_) => return Err(unresolved(endpoint)),
    };
    let info = address
        .into_connection_info()
        .map_err(refused)?
        .set_redis_settings(settings)
        .set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
    match tls {
        None => redis::Client::open(info),
        Some(tls) => redis::Client::build_with_tls(info, certificates(tls, endpoint)?),
    }
    .map_err(refused)
}

/// Returns the error of an address of Sentinels, which must be resolved first.
fn unresolved(endpoint: &Endpoint) -> Error {
    Error::InvalidUrl {
        url: endpoint.to_string(),
        reason: "no master is known".to_owned(),
    }
}

fn certificates(tls: &TlsOptions, endpoint: &Endpoint) -> Result<redis::TlsCertificates> {
    let read = |path: &Path| {
        regular::read(path, MAX_CERTIFICATE_SIZE).map_err(|error| Error::InvalidUrl {
            url: format!("rediss://{endpoint}"),
            reason: format!("could not read {}: {error}", path.display()),
        })
    };
    let client_tls = match &tls.identity {
        Some((certificate, key)) => Some(redis::ClientTlsConfig {
            client_cert: read(certificate)?,
            client_key: read(key)?,
        }),
        None => None,
    };
    Ok(redis::TlsCertificates {
        client_tls,
        root_cert: tls.ca_certificates.as_deref().map(read).transpose()?,
    })
}
