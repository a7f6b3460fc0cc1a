//! Connections to one Redis database: opened late, replaced when they break, every wait bounded.
//!
//! Not the library's `ConnectionManager`: it keeps the error of a connection attempt that failed for another reason
//! than I/O (such as `LOADING`) for ever, and repeats nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    RedisConnectionInfo,
};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

use super::endpoint::{Address, Tls};
use super::{Endpoint, Error, Result};
use crate::regular_file;

/// A bundle of all that the world trusts has a fortieth of it. Bytes.
const LARGEST_CERTIFICATES: u64 = 8 << 20;
/// Between two attempts of one call; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The pause before attempt `number` (the first repetition is 1).
pub(super) fn pause_before(number: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(number.saturating_sub(1)))
        .min(LONGEST_PAUSE)
}

/// Opens connections to one endpoint.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Arc<Endpoint>,
    client: redis::Client,
}

impl Connector {
    /// Connects to nothing yet, but reads the certificate files that the endpoint names.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self> {
        let client = redis_client(&endpoint)?;
        Ok(Self {
            endpoint: Arc::new(endpoint),
            client,
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A connection of its own for commands. The caller bounds the time.
    pub(super) async fn open(&self, action: &str) -> Result<MultiplexedConnection> {
        // The callers' deadlines rule: a limit in here would cut short a blocking command.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| self.error(&error, action))
    }

    /// A connection of its own that hears when what it read has changed; the caller reads with its own commands. Without
    /// the receiver where the server tells nothing of the kind. The caller bounds the time.
    pub(super) async fn open_tracking(
        &self,
        action: &str,
    ) -> Result<(MultiplexedConnection, Option<mpsc::UnboundedReceiver<PushInfo>>)> {
        let info = self.client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client =
            redis::Client::open(info.set_redis_settings(settings)).map_err(|error| self.error(&error, action))?;
        let (pushes, told) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        let mut connection = match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => connection,
            Err(error) if error.kind() == redis::ErrorKind::RESP3NotSupported => {
                return Ok((self.open(action).await?, None));
            }
            Err(error) => return Err(self.error(&error, action)),
        };
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("NOLOOP");
        match track.exec_async(&mut connection).await {
            Ok(()) => Ok((connection, Some(told))),
            Err(error) if error.is_io_error() => Err(self.error(&error, action)),
            Err(error) => {
                tracing::debug!(%error, "the server does not track reads");
                Ok((connection, None))
            }
        }
    }

    /// A connection of its own for subscriptions. The caller bounds the time.
    pub(super) async fn open_pubsub(&self, action: &str) -> Result<redis::aio::PubSub> {
        self.client
            .get_async_pubsub()
            .await
            .map_err(|error| self.error(&error, action))
    }

    pub(super) fn error(&self, error: &redis::RedisError, action: &str) -> Error {
        Error::from_redis(error, action, self.endpoint.as_ref())
    }

    pub(super) fn deadline_error(&self, action: &str, after: Duration) -> Error {
        Error::Deadline {
            action: action.to_owned(),
            endpoint: self.endpoint.to_string(),
            after,
        }
    }
}

/// One connection shared by all commands that do not block; replaced when it breaks.
pub(super) struct Commands {
    connector: Connector,
    current: Mutex<Option<MultiplexedConnection>>,
    /// Waits for an answer so far, for whoever wonders what a run asks of Redis.
    round_trips: AtomicU64,
}

impl Drop for Commands {
    fn drop(&mut self) {
        let round_trips = self.round_trips.load(Ordering::Relaxed);
        tracing::debug!(redis = %self.connector.endpoint(), round_trips, "connection for commands ends");
    }
}

impl Commands {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            connector,
            current: Mutex::new(None),
            round_trips: AtomicU64::new(0),
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Sends commands that may be sent twice without harm: repeated over new connections until the deadline.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut attempts = 0;
        loop {
            let error = match self.once_until(action, commands, deadline, within).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            attempts += 1;
            let pause = pause_before(attempts);
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Sends commands that must not be sent twice.
    pub(super) async fn query_once<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        self.once_until(action, commands, Instant::now() + within, within).await
    }

    /// Sends commands that may be sent twice, without waiting for a server that is away: only a connection that was
    /// closed unnoticed is replaced.
    pub(super) async fn probe<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let was_open = self.current.try_lock().is_ok_and(|current| current.is_some());
        match self.once_until(action, commands, deadline, within).await {
            Err(Error::Unreachable { .. }) if was_open => self.once_until(action, commands, deadline, within).await,
            outcome => outcome,
        }
    }

    async fn once_until<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        deadline: Instant,
        within: Duration,
    ) -> Result<T> {
        let answer = match timeout_at(deadline, self.attempt(action, commands)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.connector.deadline_error(action, within)),
        };
        if answer.as_ref().is_err_and(Error::breaks_connection) {
            // Held only while a new connection is being opened; then there is nothing to discard.
            if let Ok(mut current) = self.current.try_lock() {
                *current = None;
            }
        }
        answer
    }

    async fn attempt<T: FromRedisValue>(&self, action: &str, commands: &Pipeline) -> Result<T> {
        let (mut connection, is_new) = self.connection(action).await?;
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        let error = match commands.query_async(&mut connection).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if is_new
            && error.is_io_error()
            && let Some(other) = self.what_else_listens(action).await
        {
            return Err(other);
        }
        Err(self.connector.error(&error, action))
    }

    /// Whether it is no Redis that broke a new connection: the library tells what it could not read to a single command
    /// only, and to a pipeline that the connection broke.
    async fn what_else_listens(&self, action: &str) -> Option<Error> {
        let mut connection = self.connector.open(action).await.ok()?;
        let error = redis::cmd("PING").exec_async(&mut connection).await.err()?;
        let error = self.connector.error(&error, action);
        matches!(error, Error::NotRedis { .. }).then_some(error)
    }

    /// The connection, and whether it was opened for this.
    async fn connection(&self, action: &str) -> Result<(MultiplexedConnection, bool)> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref() {
            return Ok((connection.clone(), false));
        }
        let connection = self.connector.open(action).await?;
        *current = Some(connection.clone());
        Ok((connection, true))
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
                insecure: false,
                tls_params: None,
            };
            (address, Some(tls))
        }
        Address::Unix(path) => (ConnectionAddr::Unix(path.clone()), None),
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

fn certificates(tls: &Tls, endpoint: &Endpoint) -> Result<redis::TlsCertificates> {
    let read = |path: &std::path::Path| {
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
