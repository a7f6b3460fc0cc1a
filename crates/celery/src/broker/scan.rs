//! Walks over the messages of the broker, page by page: over one list of a queue, and over the unacknowledged messages.

use crate::client::Client;
use crate::error::Result;

/// Items per read. The number is small because a queue may hold large messages.
pub(crate) const PAGE: usize = 50;
/// Maximum number of messages that are read in one place.
pub(crate) const SCAN_LIMIT: usize = 200_000;

/// Delivery tag and value of an unacknowledged message.
pub(crate) type TaggedMessage = (Vec<u8>, Vec<u8>);

/// End of a list at which a walk begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListEnd {
    /// End where new messages are pushed. A new message makes the walk read an item twice, but never miss one. A
    /// message that is taken from the other end shifts no item.
    Newest,
    /// End where workers take messages. A new message at the other end shifts no item. A message that is taken during
    /// the walk makes the walk miss one.
    Oldest,
}

/// Walk over one list of a queue.
pub(crate) struct ListWalk<'a> {
    client: &'a Client,
    list: &'a str,
    begin: ListEnd,
    /// Number of items before the next page.
    passed: usize,
    is_over: bool,
}

impl ListWalk<'_> {
    /// Reads the next page; `None` after the last page and above the limit.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        if self.is_over || self.is_truncated() {
            return Ok(None);
        }
        let first = self.passed.cast_signed();
        let last = first + PAGE.cast_signed() - 1;
        let mut page = redis::pipe();
        page.cmd("LRANGE").arg(self.list);
        match self.begin {
            ListEnd::Newest => page.arg(first).arg(last),
            ListEnd::Oldest => page.arg(-1 - last).arg(-1 - first),
        };
        let (mut items,): (Vec<Vec<u8>>,) = self.client.broker_query("read a queue", &page).await?;
        if self.begin == ListEnd::Oldest {
            items.reverse();
        }
        self.passed += PAGE;
        self.is_over = items.len() < PAGE;
        Ok(Some(items))
    }

    /// Continues with items that moved up because the caller has removed items of the last page.
    pub(crate) fn step_back(&mut self, removed: usize) {
        self.passed -= removed;
    }

    /// Returns the reason why messages of this queue are missing in the walk, if so.
    pub(crate) fn unseen(&self, queue: &str) -> Option<String> {
        self.is_truncated()
            .then(|| format!("queue `{queue}` holds more than {SCAN_LIMIT} messages"))
    }

    /// Returns true when the list is longer than the limit.
    pub(crate) fn is_truncated(&self) -> bool {
        !self.is_over && self.passed >= SCAN_LIMIT
    }
}

/// Walk over the unacknowledged messages, in no particular order. A message can be read twice.
pub(crate) struct UnackedWalk<'a> {
    client: &'a Client,
    key: String,
    /// Position of the next page; `None` after the last page.
    cursor: Option<u64>,
    seen: usize,
    limit: usize,
}

impl UnackedWalk<'_> {
    /// Reads the next page; `None` after the last page and above the limit.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<TaggedMessage>>> {
        let Some(cursor) = self.cursor.filter(|_| self.seen < self.limit) else {
            return Ok(None);
        };
        let mut page = redis::pipe();
        page.cmd("HSCAN").arg(&self.key).arg(cursor).arg("COUNT").arg(PAGE);
        let ((next, entries),): ((u64, Vec<TaggedMessage>),) =
            self.client.broker_query("read unacknowledged messages", &page).await?;
        self.seen += entries.len();
        self.cursor = (next != 0).then_some(next);
        Ok(Some(entries))
    }

    /// Returns the reason why messages are missing in the walk, if so.
    pub(crate) fn unseen(&self) -> Option<String> {
        self.is_truncated()
            .then(|| format!("more than {} messages are unacknowledged", self.limit))
    }

    /// Returns true when there are more messages than the limit.
    pub(crate) fn is_truncated(&self) -> bool {
        self.cursor.is_some() && self.seen >= self.limit
    }
}

impl Client {
    /// Begins a walk over one list of a queue.
    pub(crate) fn walk_list<'a>(&'a self, list: &'a str, begin: ListEnd) -> ListWalk<'a> {
        ListWalk {
            client: self,
            list,
            begin,
            passed: 0,
            is_over: false,
        }
    }

    /// Begins a walk over the unacknowledged messages that ends after the page with number `limit` of them.
    pub(crate) fn walk_unacked(&self, limit: usize) -> UnackedWalk<'_> {
        UnackedWalk {
            client: self,
            key: self.broker_keys().unacked(),
            cursor: Some(0),
            seen: 0,
            limit,
        }
    }
}
