//! One server that can be connected to, and the ways to do so.

use std::path::Path;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, RedisConnectionInfo,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::connection::{Connection, Driver};
use super::endpoint::{Access, Address, Tls};
use super::reply_limit::{Excess, Limited};
use super::{Endpoint, Error, Result};
use crate::regular_file;
use crate::socket_owner::{self, Peer};

/// A bundle of all that the world trusts has a fortieth of it. Bytes.
const LARGEST_CERTIFICATES: u64 = 8 << 20;
/// Of the answer to a PING, in bytes.
const LONGEST_ANSWER: usize = 256;

/// A socket without TLS.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A connected socket without TLS, by its kind.
pub(super) enum PlainSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A server by its own address, and a client of the library for it.
pub(super) struct Candidate {
    endpoint: Endpoint,
    client: redis::Client,
}

impl Candidate {
    /// Connects to nothing yet, but reads the certificate files that the endpoint names.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self> {
        let client = redis_client(&endpoint)?;
        Ok(Self { endpoint, client })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A connection of its own for commands. The caller bounds the time.
    pub(super) async fn open(&self, action: &str) -> Result<Connection> {
        self.open_with(action, self.client.clone(), AsyncConnectionConfig::new())
            .await?
            .map_err(|error| self.error(&error, action))
    }

    /// The inner error is the library's, for whoever wants to know its kind.
    async fn open_with(
        &self,
        action: &str,
        client: redis::Client,
        config: AsyncConnectionConfig,
    ) -> Result<redis::RedisResult<Connection>> {
        // The callers' deadlines rule: a limit in here would cut short a blocking command.
        let config = config.set_connection_timeout(None).set_response_timeout(None);
        let Some(socket) = self.socket(action).await? else {
            let opened = client.get_multiplexed_async_connection_with_config(&config).await;
            return Ok(opened.map(|inner| Connection {
                inner,
                excess: Excess::default(),
                _driver: None,
            }));
        };
        let (socket, excess) = Limited::new(socket);
        let settings = client.get_connection_info().redis_settings();
        let opened = MultiplexedConnection::new_with_config(settings, socket, config).await;
        if let Some(error) = opened.as_ref().err().and_then(|_| self.excess_error(&excess, action)) {
            return Err(error);
        }
        Ok(opened.map(|(inner, driver)| Connection {
            inner,
            excess,
            _driver: Some(Arc::new(Driver(tokio::spawn(driver).abort_handle()))),
        }))
    }

    /// A connected socket to a server that may be sent the password; `None` where the library must make it, for TLS.
    async fn socket(&self, action: &str) -> Result<Option<Box<dyn Socket>>> {
        Ok(self.plain_socket(action).await?.map(|socket| match socket {
            PlainSocket::Tcp(socket) => Box::new(socket) as Box<dyn Socket>,
            PlainSocket::Unix(socket) => Box::new(socket),
        }))
    }

    /// A connected socket as [`Candidate::socket`] gives it, by its kind.
    pub(super) async fn plain_socket(&self, action: &str) -> Result<Option<PlainSocket>> {
        let failed = |error: std::io::Error| self.error(&error.into(), action);
        let mut check = self.endpoint.access == Access::OwnOrRoot;
        if let Access::Socket(path) = &self.endpoint.access {
            match UnixStream::connect(path).await {
                Ok(socket) => return Ok(Some(PlainSocket::Unix(socket))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => check = true,
                Err(error) => return Err(failed(error)),
            }
        }
        let (host, port) = match &self.endpoint.address {
            Address::Tcp { tls: Some(_), .. } => return Ok(None),
            Address::Tcp { host, port, tls: None } => (host.as_str(), *port),
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(failed)?;
                return Ok(Some(PlainSocket::Unix(socket)));
            }
            Address::Sentinel(_) => return Err(unresolved(&self.endpoint)),
        };
        let mut socket = TcpStream::connect((host, port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        if check {
            let peer = accepted_peer(&mut socket).await.map_err(failed)?;
            refuse_strangers(peer).map_err(|reason| Error::Stranger {
                action: action.to_owned(),
                endpoint: self.endpoint.to_string(),
                reason,
            })?;
        }
        Ok(Some(PlainSocket::Tcp(socket)))
    }

    /// The error of a connection whose server sent too much.
    fn excess_error(&self, excess: &Excess, action: &str) -> Option<Error> {
        Some(Error::NotRedis {
            action: action.to_owned(),
            endpoint: self.endpoint.to_string(),
            reason: excess.get()?.clone(),
        })
    }

    /// A connection of its own that hears when what it read has changed; the caller reads with its own commands. Without
    /// the receiver where the server does not report changes. The caller bounds the time.
    pub(super) async fn open_tracking(
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

    /// A connection of its own for subscriptions. The caller bounds the time.
    pub(super) async fn open_pubsub(&self, action: &str) -> Result<redis::aio::PubSub> {
        let opened = match self.socket(action).await? {
            None => self.client.get_async_pubsub().await,
            Some(socket) => {
                let (socket, _excess) = Limited::new(socket);
                redis::aio::PubSub::new(self.client.get_connection_info().redis_settings(), socket).await
            }
        };
        opened.map_err(|error| self.error(&error, action))
    }

    pub(super) fn error(&self, error: &redis::RedisError, action: &str) -> Error {
        Error::from_redis(error, action, &self.endpoint)
    }
}

/// Who has accepted the connection. A PING is all that is sent before: its answer proves that it was accepted, and until
/// then the kernel shows root as the owner, whoever listens. The caller bounds the time.
async fn accepted_peer(stream: &mut TcpStream) -> std::io::Result<Peer> {
    let ends = (stream.local_addr()?, stream.peer_addr()?);
    if socket_owner::peer(ends.0, ends.1) == Peer::Remote {
        return Ok(Peer::Remote);
    }
    stream.write_all(b"PING\r\n").await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        // `+PONG`, or the error of a server that wants a password first.
        if line.len() > LONGEST_ANSWER {
            let error = "the answer to PING has no end";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        }
        line.push(stream.read_u8().await?);
    }
    Ok(socket_owner::peer(ends.0, ends.1))
}

/// The text says whose a server is that must not be sent a password.
fn refuse_strangers(peer: Peer) -> std::result::Result<(), String> {
    match peer {
        Peer::Remote => Ok(()),
        Peer::Local(owner) if owner.is_trusted() => Ok(()),
        Peer::Local(owner) => Err(format!("it belongs to another user (uid {})", owner.uid)),
        Peer::NotAccepted | Peer::Unknown => Err("the kernel does not show which user it belongs to".to_owned()),
    }
}

fn redis_client(endpoint: &Endpoint) -> Result<redis::Client> {
    let mut settings = RedisConnectionInfo::default()
        .set_db(i64::from(endpoint.database))
        // It would cost each connection a round trip, and old servers answer it with errors that they count.
        .set_skip_set_lib_name();
    if let Some(username) = &endpoint.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &endpoint.password {
        settings = settings.set_password(password.expose());
    }
    let refused = |error: redis::RedisError| Error::from_redis(&error, "use the address", endpoint);
    let (address, tls) = match &endpoint.address {
        Address::Tcp { host, port, tls: None } => (ConnectionAddr::Tcp(host.clone(), *port), None),
        Address::Tcp {
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
        Address::Unix(path) => (ConnectionAddr::Unix(path.clone()), None),
        Address::Sentinel(_) => return Err(unresolved(endpoint)),
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

/// The error of an address that must be resolved before.
fn unresolved(endpoint: &Endpoint) -> Error {
    Error::Url {
        url: endpoint.to_string(),
        reason: "no master is known".to_owned(),
    }
}

fn certificates(tls: &Tls, endpoint: &Endpoint) -> Result<redis::TlsCertificates> {
    let read = |path: &Path| {
        regular_file::read(path, LARGEST_CERTIFICATES).map_err(|error| Error::Url {
            url: format!("rediss://{endpoint}"),
            reason: format!("cannot read {}: {error}", path.display()),
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
