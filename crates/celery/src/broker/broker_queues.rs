//! Discovery of all queues of a broker from the keys in Redis, including queues that the configuration does not name.
//!
//! kombu keeps each binding in a set `_kombu.binding.<exchange>` and the messages of a queue in lists. A list without a
//! binding counts as a queue only if it holds tasks, because apps have lists of their own and results may be in the
//! same database.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::error::Result;
use crate::wire::message::QueuedTask;

/// Keys per SCAN call.
const SCAN_PAGE: usize = 1_000;
/// Limits of one search through all keys of a database.
const SCAN_PAGES: usize = 2_000;
const SCAN_DEADLINE: Duration = Duration::from_secs(2);
/// Maximum number of members that are read from one set of bindings.
const BINDINGS_LIMIT: u64 = 10_000;
/// Maximum number of lists without a binding that are sampled.
const UNBOUND_LISTS_LIMIT: usize = 5_000;
/// Number of items that are sampled at each end of such a list, and number of lists per request. Both are small because
/// an item can be large.
const SAMPLE_SIZE: isize = 2;
const LISTS_PER_SAMPLE: usize = 20;
/// Number of list lengths per request.
const LENGTHS_AT_ONCE: usize = 500;

/// Queues of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerQueues {
    /// Number of messages at all priorities, by queue name. A known queue can be empty.
    pub messages: BTreeMap<String, u64>,
    /// Reason why the search is incomplete, if so. There may be more queues.
    pub unseen: Option<String>,
}

/// Names of keys that were found in the database.
#[derive(Default)]
struct FoundKeys {
    lists: BTreeSet<String>,
    bindings: BTreeSet<String>,
    unseen: Option<String>,
}

impl Client {
    /// Finds all queues of the broker. The search ends after two seconds or two million keys; `unseen` then contains
    /// the reason.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline, or refuses a command.
    pub async fn broker_queues(&self) -> Result<BrokerQueues> {
        let FoundKeys {
            lists,
            bindings,
            mut unseen,
        } = self.find_keys().await?;
        let keys = self.broker_keys();
        let mut messages: BTreeMap<String, u64> = BTreeMap::new();
        for set in bindings.iter().filter(|set| !keys.is_control_bindings(set)) {
            match self.bound_queues(set).await? {
                Some(queues) => messages.extend(queues.into_iter().map(|queue| (queue, 0))),
                None => unseen = Some(format!("`{set}` holds more than {BINDINGS_LIMIT} bindings")),
            }
        }
        // The lists of a queue are adjacent in this order.
        let lists: Vec<(String, String)> = lists
            .into_iter()
            .filter_map(|list| Some((keys.queue_of_list(&list)?.to_owned(), list)))
            .collect();
        let (bound, unbound): (Vec<_>, Vec<_>) = lists.into_iter().partition(|(queue, _)| messages.contains_key(queue));
        if unbound.len() > UNBOUND_LISTS_LIMIT {
            unseen = Some(format!(
                "the broker's database holds more than {UNBOUND_LISTS_LIMIT} lists"
            ));
        }
        let mut queues = bound;
        for lists in unbound[..unbound.len().min(UNBOUND_LISTS_LIMIT)].chunks(LISTS_PER_SAMPLE) {
            queues.extend(self.lists_of_tasks(lists).await?);
        }
        for lists in queues.chunks(LENGTHS_AT_ONCE) {
            let mut lengths = redis::pipe();
            lists.iter().for_each(|(_, list)| {
                lengths.cmd("LLEN").arg(list);
            });
            let lengths: Vec<u64> = self.broker_query("read the depths of queues", &lengths).await?;
            for ((queue, _), length) in lists.iter().zip(lengths) {
                let messages = messages.entry(queue.clone()).or_default();
                *messages = messages.saturating_add(length);
            }
        }
        Ok(BrokerQueues { messages, unseen })
    }

    /// Searches the broker's database for lists and for sets of bindings, both in one pass of requests.
    async fn find_keys(&self) -> Result<FoundKeys> {
        let mut found = FoundKeys::default();
        let started = Instant::now();
        let (mut lists, mut bindings) = (Some(0u64), Some(0u64));
        for _ in 0..SCAN_PAGES {
            if started.elapsed() > SCAN_DEADLINE {
                break;
            }
            let mut page = redis::pipe();
            let wanted = [
                (lists, self.broker_keys().all_keys_pattern(), "list"),
                (bindings, self.broker_keys().all_bindings_pattern(), "set"),
            ];
            for (cursor, pattern, kind) in &wanted {
                let Some(cursor) = cursor else { continue };
                page.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern);
                page.arg("COUNT").arg(SCAN_PAGE).arg("TYPE").arg(*kind);
            }
            type Page = (u64, Vec<Vec<u8>>);
            let pages: Vec<Page> = self.broker_query("search for queues", &page).await?;
            let mut pages = pages.into_iter();
            for (cursor, names) in [(&mut lists, &mut found.lists), (&mut bindings, &mut found.bindings)] {
                let Some(page) = cursor.and_then(|_| pages.next()) else {
                    continue;
                };
                // Names of queues are text, in Celery and here.
                names.extend(page.1.into_iter().filter_map(|name| String::from_utf8(name).ok()));
                *cursor = (page.0 != 0).then_some(page.0);
            }
            if lists.is_none() && bindings.is_none() {
                return Ok(found);
            }
        }
        found.unseen = Some("the broker's database holds too many keys to search all of them".to_owned());
        Ok(found)
    }

    /// Returns the queues of a set of bindings, or `None` when the set is too large.
    async fn bound_queues(&self, set: &str) -> Result<Option<Vec<String>>> {
        let mut size = redis::pipe();
        size.cmd("SCARD").arg(set);
        let (size,): (u64,) = self.broker_query("count bindings", &size).await?;
        if size > BINDINGS_LIMIT {
            return Ok(None);
        }
        let mut read = redis::pipe();
        read.cmd("SMEMBERS").arg(set);
        let (members,): (Vec<Vec<u8>>,) = self.broker_query("read bindings", &read).await?;
        let names = members
            .into_iter()
            .filter_map(|member| String::from_utf8(member).ok())
            .filter_map(|member| self.broker_keys().bound_queue(&member).map(str::to_owned));
        Ok(Some(names.collect()))
    }

    /// Returns the lists that hold a task at one of their ends.
    async fn lists_of_tasks(&self, lists: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let mut samples = redis::pipe();
        for (_, list) in lists {
            samples.cmd("LRANGE").arg(list).arg(0).arg(SAMPLE_SIZE - 1);
            samples.cmd("LRANGE").arg(list).arg(-SAMPLE_SIZE).arg(-1);
        }
        let samples: Vec<Vec<Vec<u8>>> = self.broker_query("sample lists", &samples).await?;
        let is_task = |item: &Vec<u8>| matches!(QueuedTask::decode(item), Ok(Some(_)));
        let holds_tasks = |ends: &[Vec<Vec<u8>>]| ends.iter().flatten().any(is_task);
        Ok(lists
            .iter()
            .zip(samples.chunks(2))
            .filter(|(_, ends)| holds_tasks(ends))
            .map(|(list, _)| list.clone())
            .collect())
    }
}
