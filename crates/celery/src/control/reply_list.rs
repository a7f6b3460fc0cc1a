//! Redis list that receives the replies to one control command at a time and always expires.
//!
//! The list has its expiry before the command is sent: a marker item at the end keeps the list, and its expiry, while
//! replies arrive and are read. A blocking pop would remove this marker, and a worker that replies afterwards would
//! create a list that never expires. For this reason the list is read without removing items, and client tracking
//! (Redis 6 and newer) reports when the list has grown. Without tracking in the server or proxy, the list is polled
//! with growing intervals.

use std::sync::Arc;
use std::time::Duration;

use redis::{PushInfo, PushKind};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::redis::connection::CommandConnection;
use crate::redis::limited_connection::Connection;
use crate::wire::keys::Keys;

/// Seconds for which Redis keeps replies after the deadline of their command.
const LATE_REPLIES_EXPIRE: u64 = 60;
/// Additional time after the deadline for a reply from Redis that is already on the way.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);
/// Interval between two polls without client tracking. The interval doubles up to the maximum.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(1);
const LONGEST_POLL_INTERVAL: Duration = Duration::from_millis(50);

const READ: &str = "read control replies";

/// Connection with its reply list, used by one command at a time.
pub(crate) struct ReplyList {
    broker: Arc<CommandConnection>,
    connection: Connection,
    /// Name of the list that workers receive.
    queue: String,
    /// Name of the list in the broker.
    list: String,
    arrivals: ReplyArrival,
    /// Number of items that have been read, counted from the end and including the marker.
    seen: usize,
    /// Items that have been read and not yet returned, the oldest item last.
    unread: Vec<Vec<u8>>,
}

/// Source of the information that new replies have arrived.
enum ReplyArrival {
    /// Client tracking of the server. At most one notification is pending, because the server sends one per read.
    Pushed(UnboundedReceiver<PushInfo>),
    /// Polling, because the server does not support tracking.
    Polled { interval: Duration },
}

impl ReplyList {
    /// Opens the connection. The caller limits the time.
    pub(crate) async fn open(broker: Arc<CommandConnection>, keys: &Keys) -> Result<Self> {
        let action = "open a connection for control replies";
        let (connection, pushes) = broker.connector().open_tracking(action).await?;
        let queue = keys.reply_queue(&Uuid::new_v4().to_string());
        Ok(Self {
            broker,
            connection,
            list: keys.reply_list(&queue),
            queue,
            arrivals: match pushes {
                Some(pushes) => ReplyArrival::Pushed(pushes),
                None => ReplyArrival::Polled {
                    interval: FIRST_POLL_INTERVAL,
                },
            },
            seen: 0,
            unread: Vec::new(),
        })
    }

    /// Returns the list name that a command contains for its replies.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// Publishes a command and prepares the list for replies within a time. Returns the number of listeners.
    pub(crate) async fn publish(&mut self, channel: &str, message: &[u8], within: Duration) -> Result<u64> {
        // All or nothing: there must never be a list without an expiry. Existing items are late replies to an earlier
        // command.
        let mut publish = redis::pipe();
        publish.atomic().cmd("DEL").arg(&self.list).ignore();
        publish.cmd("RPUSH").arg(&self.list).arg("").ignore();
        let expiry = within.as_secs().saturating_add(1).saturating_add(LATE_REPLIES_EXPIRE);
        publish.cmd("EXPIRE").arg(&self.list).arg(expiry).ignore();
        publish.cmd("LRANGE").arg(&self.list).arg(0).arg(-1);
        publish.cmd("PUBLISH").arg(channel).arg(message);
        let (items, listeners): (Vec<Vec<u8>>, u64) = publish
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.broker.connector().error(&error, "publish a control command"))?;
        self.seen = items.len();
        self.unread.clear();
        Ok(listeners)
    }

    /// Returns the next message, or `None` after the deadline. Not cancel safe, unless the list is dropped afterwards.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(item) = self.unread.pop() {
                return Ok(Some(item));
            }
            let arrived = self.wait_for_items(deadline).await?;
            self.read(deadline).await?;
            // Replies that arrived just before the deadline count.
            if arrived.is_none() && self.unread.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Waits until there may be new items. Returns `None` after the deadline.
    async fn wait_for_items(&mut self, deadline: Instant) -> Result<Option<()>> {
        match &mut self.arrivals {
            ReplyArrival::Pushed(pushes) => match timeout_at(deadline, pushes.recv()).await {
                Ok(Some(push)) if push.kind != PushKind::Disconnection => Ok(Some(())),
                Ok(_) => {
                    let endpoint = self.broker.connector().endpoint();
                    Err(Error::unreachable(READ, endpoint, "the connection was lost"))
                }
                Err(_) => Ok(None),
            },
            ReplyArrival::Polled { interval } => {
                let now = Instant::now();
                if now >= deadline {
                    return Ok(None);
                }
                sleep_until((now + *interval).min(deadline)).await;
                *interval = (*interval * 2).min(LONGEST_POLL_INTERVAL);
                Ok(Some(()))
            }
        }
    }

    /// Reads the new items at the front of the list. Each read restarts the tracking.
    async fn read(&mut self, deadline: Instant) -> Result<()> {
        let mut read = redis::cmd("LRANGE");
        let known = i64::try_from(self.seen).unwrap_or(i64::MAX);
        read.arg(&self.list).arg(0).arg(-1 - known);
        let limit = deadline.max(Instant::now()) + DEADLINE_GRACE;
        let items: Vec<Vec<u8>> = timeout_at(limit, read.query_async(&mut self.connection))
            .await
            .map_err(|_| self.broker.connector().deadline_error(READ, DEADLINE_GRACE))?
            .map_err(|error| self.broker.connector().error(&error, READ))?;
        self.seen += items.len();
        if let (ReplyArrival::Polled { interval }, false) = (&mut self.arrivals, items.is_empty()) {
            *interval = FIRST_POLL_INTERVAL;
        }
        self.unread = items;
        Ok(())
    }

    /// Deletes the list when no more replies are expected. If the deletion fails, the list expires.
    pub(crate) async fn clear(&mut self) {
        let mut delete = redis::cmd("DEL");
        delete.arg(&self.list);
        let deleted = timeout_at(Instant::now() + DEADLINE_GRACE, delete.exec_async(&mut self.connection)).await;
        if !matches!(deleted, Ok(Ok(()))) {
            tracing::debug!(
                list = self.list,
                "could not delete a list of control replies; the list expires"
            );
        }
    }
}
