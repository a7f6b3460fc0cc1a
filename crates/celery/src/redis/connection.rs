//! Connection for commands to one Redis database. The connection is opened when needed and replaced when it breaks;
//! every wait has a deadline.
//!
//! The library's `ConnectionManager` is not used: if a connection attempt fails for another reason than I/O (such as
//! `LOADING`), the manager returns this error for ever; and the manager repeats no commands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{FromRedisValue, Pipeline};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::connector::RedisConnector;
use super::limited_connection::Connection;
use super::reply_limit::excess_error;
use crate::error::{Error, Result};

/// Delay before the second attempt of a call; doubles with each further attempt up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// Returns the delay before a repeated attempt; `number` is 1 for the first repetition.
pub(crate) fn backoff_before(number: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(2u32.saturating_pow(number.saturating_sub(1)))
        .min(MAX_BACKOFF)
}

/// Rule that decides after which errors commands are sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RepeatRule {
    /// For commands that are safe to execute twice.
    AfterTransientError,
    /// For commands that must not be executed twice.
    AfterRefusal,
}

impl RepeatRule {
    fn accepts(self, error: &Error, commands: &Pipeline) -> bool {
        match self {
            Self::AfterTransientError => error.is_transient(),
            // If there are several commands, the server may have executed some of them.
            Self::AfterRefusal => matches!(error, Error::NotServing { .. }) && commands.len() == 1,
        }
    }
}

/// Connection that all non-blocking commands share; replaced when broken.
pub(crate) struct CommandConnection {
    connector: RedisConnector,
    current: Mutex<Option<Connection>>,
    /// Number of round trips so far, for the debug log: shows the load that a run puts on Redis.
    round_trips: AtomicU64,
}

impl Drop for CommandConnection {
    fn drop(&mut self) {
        let round_trips = self.round_trips.load(Ordering::Relaxed);
        tracing::debug!(redis = %self.connector.endpoint(), round_trips, "connection for commands closed");
    }
}

impl CommandConnection {
    pub(crate) fn new(connector: RedisConnector) -> Self {
        Self {
            connector,
            current: Mutex::new(None),
            round_trips: AtomicU64::new(0),
        }
    }

    pub(crate) fn connector(&self) -> &RedisConnector {
        &self.connector
    }

    /// Sends commands that are safe to execute twice. Repeats them over new connections until the deadline.
    pub(crate) async fn query<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        self.repeat_until_deadline(action, commands, within, RepeatRule::AfterTransientError)
            .await
    }

    /// Sends commands that must not be executed twice. A single command that the server has refused to execute is sent
    /// again, to the current server of the endpoint.
    pub(crate) async fn query_once<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        self.repeat_until_deadline(action, commands, within, RepeatRule::AfterRefusal)
            .await
    }

    /// Sends commands again after each error that the rule accepts, until the deadline.
    async fn repeat_until_deadline<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
        rule: RepeatRule,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut attempts = 0;
        let mut refused = None;
        loop {
            // Nothing is sent without a connection, so until one is open the refusal remains the result of the call.
            if let Some(error) = refused.take()
                && timeout_at(deadline, self.connection(action)).await.is_err()
            {
                return Err(error);
            }
            let error = match self.attempt_until(action, commands, deadline, within).await {
                Err(error) if rule.accepts(&error, commands) => error,
                outcome => return outcome,
            };
            attempts += 1;
            let pause = backoff_before(attempts);
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            refused = (rule == RepeatRule::AfterRefusal).then_some(error);
        }
    }

    /// Sends commands that are safe to execute twice, without waiting for a server that is unreachable. Only a
    /// connection that was already open and broke is replaced, once.
    pub(crate) async fn query_if_reachable<T: FromRedisValue>(
        &self,
        action: &str,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let was_open = self.current.try_lock().is_ok_and(|current| current.is_some());
        match self.attempt_until(action, commands, deadline, within).await {
            Err(Error::Unreachable { .. }) if was_open => self.attempt_until(action, commands, deadline, within).await,
            outcome => outcome,
        }
    }

    async fn attempt_until<T: FromRedisValue>(
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
            if matches!(&answer, Err(Error::NotServing { .. })) {
                self.connector.prefer_next_server();
            }
            // Another call holds this lock only while opening a new connection; then there is no connection to discard.
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
        if let Some(excess) = excess_error(&connection.excess, action, self.connector.endpoint()) {
            return Err(excess);
        }
        if is_new
            && error.is_io_error()
            && let Some(other) = self.detect_other_protocol(action).await
        {
            return Err(other);
        }
        Err(self.connector.error(&error, action))
    }

    /// Detects whether a new connection broke because the server does not speak the Redis protocol. The library reports
    /// unreadable data only to a single command; to a pipeline it reports a broken connection.
    async fn detect_other_protocol(&self, action: &str) -> Option<Error> {
        let mut connection = self.connector.open(action).await.ok()?;
        let error = redis::cmd("PING").exec_async(&mut connection).await.err()?;
        let error = self.connector.error(&error, action);
        matches!(error, Error::NotRedis { .. }).then_some(error)
    }

    /// Returns the shared connection, and whether this call has opened it.
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
