//! A list in the broker that takes the replies to one control request at a time, and that outlives nobody.
//!
//! It has its expiry before the request is sent: a mark at its end keeps it, and the expiry with it, while replies come
//! and are read. A blocking pop would take that mark, and a worker that answers after us would make a list that stays
//! for ever; so the list is read without taking anything, and client tracking (Redis 6 and newer) tells when it grew.
//! A server or proxy without tracking is asked again and again, with growing pauses.

use std::sync::Arc;
use std::time::Duration;

use redis::{PushInfo, PushKind};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::connection::{Commands, Connection};
use super::keys::Keys;
use super::{Error, Result};

/// How long replies are kept after the deadline of their request before Redis throws them away, in seconds.
const LATE_REPLIES_EXPIRE: u64 = 60;
/// How much longer than the deadline we wait for an answer that is on its way.
const SLACK: Duration = Duration::from_millis(500);
/// Between two looks where nobody tells; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

const READ: &str = "read control replies";

/// A connection with its list; used by one request at a time.
pub(super) struct ReplyList {
    broker: Arc<Commands>,
    connection: Connection,
    /// Its name as a worker is told it.
    queue: String,
    /// Its name in the broker.
    list: String,
    news: News,
    /// How many items from the end have been read, the mark among them.
    seen: usize,
    /// Read and still to be looked at, the oldest last.
    fresh: Vec<Vec<u8>>,
}

/// How it is known that there is something to read.
enum News {
    /// The server says so. At most one word is under way: it speaks once for each read.
    Told(UnboundedReceiver<PushInfo>),
    /// Nobody says so.
    Unheard { pause: Duration },
}

impl ReplyList {
    /// Connects. The caller bounds the time.
    pub(super) async fn open(broker: Arc<Commands>, keys: &Keys) -> Result<Self> {
        let action = "open a connection for control replies";
        let (connection, told) = broker.connector().open_tracking(action).await?;
        let queue = keys.reply_queue(&Uuid::new_v4().to_string());
        Ok(Self {
            broker,
            connection,
            list: keys.reply_list(&queue),
            queue,
            news: match told {
                Some(told) => News::Told(told),
                None => News::Unheard { pause: FIRST_PAUSE },
            },
            seen: 0,
            fresh: Vec::new(),
        })
    }

    /// The name that a request gives for its replies.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Publishes a request whose replies come here within a time; gives the number of its listeners.
    pub(super) async fn publish(&mut self, channel: &str, message: &[u8], within: Duration) -> Result<u64> {
        // All or nothing: a list without expiry is what must not be. What is there is late for an earlier request.
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
            .map_err(|error| self.broker.connector().error(&error, "publish a control request"))?;
        self.seen = items.len();
        self.fresh.clear();
        Ok(listeners)
    }

    /// The next message, `None` after the deadline. Not safe to cancel, but for giving it up.
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(item) = self.fresh.pop() {
                return Ok(Some(item));
            }
            let until = self.until_news(deadline).await?;
            self.read(deadline).await?;
            // What came just before the deadline counts.
            if until.is_none() && self.fresh.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Waits until there may be something to read; `None` after the deadline.
    async fn until_news(&mut self, deadline: Instant) -> Result<Option<()>> {
        match &mut self.news {
            News::Told(told) => match timeout_at(deadline, told.recv()).await {
                Ok(
                    Some(PushInfo {
                        kind: PushKind::Disconnection,
                        ..
                    })
                    | None,
                ) => Err(Error::Unreachable {
                    action: READ.to_owned(),
                    endpoint: self.broker.connector().endpoint().to_string(),
                    reason: "the connection was lost".to_owned(),
                }),
                Ok(Some(_)) => Ok(Some(())),
                Err(_) => Ok(None),
            },
            News::Unheard { pause } => {
                let now = Instant::now();
                if now >= deadline {
                    return Ok(None);
                }
                sleep_until((now + *pause).min(deadline)).await;
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                Ok(Some(()))
            }
        }
    }

    /// Reads what has come in front of what is known; tracking begins anew with it.
    async fn read(&mut self, deadline: Instant) -> Result<()> {
        let mut read = redis::cmd("LRANGE");
        let known = i64::try_from(self.seen).unwrap_or(i64::MAX);
        read.arg(&self.list).arg(0).arg(-1 - known);
        let limit = deadline.max(Instant::now()) + SLACK;
        let items: Vec<Vec<u8>> = timeout_at(limit, read.query_async(&mut self.connection))
            .await
            .map_err(|_| self.broker.connector().deadline_error(READ, SLACK))?
            .map_err(|error| self.broker.connector().error(&error, READ))?;
        self.seen += items.len();
        if let (News::Unheard { pause }, false) = (&mut self.news, items.is_empty()) {
            *pause = FIRST_PAUSE;
        }
        self.fresh = items;
        Ok(())
    }

    /// Removes the list once nothing more will come; if that fails it expires.
    pub(super) async fn clear(&mut self) {
        let mut delete = redis::cmd("DEL");
        delete.arg(&self.list);
        let deleted = timeout_at(Instant::now() + SLACK, delete.exec_async(&mut self.connection)).await;
        if !matches!(deleted, Ok(Ok(()))) {
            tracing::debug!(list = self.list, "a list of control replies is left to its expiry");
        }
    }
}
