//! Connections to one Redis database: opened late, replaced when they break, every wait bounded.
//!
//! Not the library's `ConnectionManager`: it keeps the error of a connection attempt that failed for another reason
//! than I/O (such as `LOADING`) for ever, and repeats nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, FromRedisValue, Pipeline, PushInfo, RedisFuture, Value};
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::candidate::{Candidate, PlainSocket};
use super::reply_limit::Excess;
use super::resolver::Resolver;
use super::{Endpoint, Error, Result};

/// Between two attempts of one call; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The pause before attempt `number` (the first repetition is 1).
pub(super) fn pause_before(number: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(number.saturating_sub(1)))
        .min(LONGEST_PAUSE)
}

/// A connection of the library over a socket with a limit on each reply. It ends with its last clone, also where the
/// server still owes an answer.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) inner: MultiplexedConnection,
    /// Why a reply was too large; never set over TLS, where the library has its own socket.
    pub(super) excess: Excess,
    pub(super) _driver: Option<Arc<Driver>>,
}

/// The task that moves the bytes of a connection.
pub(super) struct Driver(pub(super) AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

/// The future of a connection, its own type hidden: the futures around it nest as deep as the compiler follows.
type Opening<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Opens connections to one endpoint, wherever that is at the moment.
#[derive(Clone)]
pub(super) struct Connector {
    resolver: Arc<Resolver>,
}

impl Connector {
    /// Connects to nothing yet, but reads the certificate files that the endpoint names.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self> {
        Ok(Self {
            resolver: Arc::new(Resolver::new(endpoint)?),
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        self.resolver.endpoint()
    }

    /// Looks for another server next time: this one takes no writes, or is away.
    pub(super) fn distrust(&self) {
        self.resolver.distrust();
    }

    /// A connection of its own for commands. The caller bounds the time.
    pub(super) fn open<'a>(&'a self, action: &'a str) -> Opening<'a, Connection> {
        Box::pin(async move {
            let mut trial = self.resolver.trial(action).await?;
            loop {
                let candidate = trial.next()?;
                if let Some(opened) = trial.judge(trial.bounded(candidate.open(action)).await)? {
                    return Ok(opened);
                }
            }
        })
    }

    /// A connection of its own that hears when what it read has changed; the caller reads with its own commands. Without
    /// the receiver where the server tells nothing of the kind. The caller bounds the time.
    pub(super) fn open_tracking<'a>(
        &'a self,
        action: &'a str,
    ) -> Opening<'a, (Connection, Option<mpsc::UnboundedReceiver<PushInfo>>)> {
        Box::pin(async move {
            let mut trial = self.resolver.trial(action).await?;
            loop {
                let candidate = trial.next()?;
                if let Some(opened) = trial.judge(trial.bounded(candidate.open_tracking(action)).await)? {
                    return Ok(opened);
                }
            }
        })
    }

    /// A connection of its own for subscriptions. The caller bounds the time.
    pub(super) fn open_pubsub<'a>(&'a self, action: &'a str) -> Opening<'a, redis::aio::PubSub> {
        Box::pin(async move {
            let mut trial = self.resolver.trial(action).await?;
            loop {
                let candidate = trial.next()?;
                if let Some(opened) = trial.judge(trial.bounded(candidate.open_pubsub(action)).await)? {
                    return Ok(opened);
                }
            }
        })
    }

    /// A connected socket to a server that may be sent the password, and who we are there; no socket where the library
    /// must make it, for TLS. The caller bounds the time.
    pub(super) fn open_socket<'a>(&'a self, action: &'a str) -> Opening<'a, (Arc<Candidate>, Option<PlainSocket>)> {
        Box::pin(async move {
            let mut trial = self.resolver.trial(action).await?;
            loop {
                let candidate = trial.next()?;
                if let Some(socket) = trial.judge(trial.bounded(candidate.plain_socket(action)).await)? {
                    return Ok((candidate, socket));
                }
            }
        })
    }

    /// The error of a connection whose server sent too much.
    fn excess_error(&self, excess: &Excess, action: &str) -> Option<Error> {
        Some(Error::NotRedis {
            action: action.to_owned(),
            endpoint: self.endpoint().to_string(),
            reason: excess.get()?.clone(),
        })
    }

    pub(super) fn error(&self, error: &redis::RedisError, action: &str) -> Error {
        Error::from_redis(error, action, self.endpoint())
    }

    pub(super) fn deadline_error(&self, action: &str, after: Duration) -> Error {
        Error::Deadline {
            action: action.to_owned(),
            endpoint: self.endpoint().to_string(),
            after,
        }
    }
}

/// One connection shared by all commands that do not block; replaced when it breaks.
pub(super) struct Commands {
    connector: Connector,
    current: Mutex<Option<Connection>>,
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

    /// Sends commands that must not be executed twice. A single one that the server has refused to execute is sent again,
    /// to the server that the address means now.
    pub(super) async fn query_once<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut attempts = 0;
        let mut refused = None;
        loop {
            // Nothing is sent before there is a connection: until then the refusal is all that has happened.
            if let Some(error) = refused.take()
                && timeout_at(deadline, self.connection(action)).await.is_err()
            {
                return Err(error);
            }
            let error = match self.once_until(action, commands, deadline, within).await {
                // Of several commands a part may have been executed before.
                Err(error @ Error::NotMaster { .. }) if commands.len() == 1 => error,
                outcome => return outcome,
            };
            attempts += 1;
            let pause = pause_before(attempts);
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            refused = Some(error);
        }
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
            if matches!(&answer, Err(Error::NotMaster { .. })) {
                self.connector.distrust();
            }
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
        if let Some(excess) = self.connector.excess_error(&connection.excess, action) {
            return Err(excess);
        }
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
    async fn connection(&self, action: &str) -> Result<(Connection, bool)> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref() {
            return Ok((connection.clone(), false));
        }
        let connection = self.connector.open(action).await?;
        *current = Some(connection.clone());
        Ok((connection, true))
    }
}
