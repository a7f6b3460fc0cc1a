//! All queues of a broker, also those that nobody has named: found by the broker's own keys.
//!
//! kombu keeps each binding in a set `_kombu.binding.<exchange>` and the messages of a queue in lists. A list that no binding
//! names is a queue if it holds tasks: apps keep lists of their own, and results may be in the same database.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::client::Client;
use super::message::QueuedTask;
use super::queues::{PAGE, SCAN_LIMIT};
use super::{Result, TaskId};

/// Keys that one SCAN handles.
const SCAN_PAGE: usize = 1_000;
/// Limits of one search through all keys of a database.
const SCAN_PAGES: usize = 2_000;
const SCAN_DEADLINE: Duration = Duration::from_secs(2);
/// Members of one set of bindings that are read.
const MOST_BINDINGS: u64 = 10_000;
/// Lists without a binding whose content is looked at.
const MOST_UNBOUND: usize = 5_000;
/// Items at each end of such a list, and lists in one request: an item may be large.
const SAMPLE: isize = 2;
const SAMPLED_AT_ONCE: usize = 20;
/// Lists whose lengths are read in one request.
const LENGTHS_AT_ONCE: usize = 500;

/// The queues of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerQueues {
    /// By name, with the number of messages at all priorities; a queue may be known and empty.
    pub messages: BTreeMap<String, u64>,
    /// What could not be looked at: there may be more queues.
    pub unseen: Option<String>,
}

/// Messages of some jobs that wait in some queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// By queue and by the first task of the job; queues without any are absent.
    pub by_queue: BTreeMap<String, HashMap<TaskId, u64>>,
    /// What could not be looked at.
    pub unseen: Option<String>,
}

/// Names of keys, as a search through the database gives them.
#[derive(Default)]
struct Found {
    lists: BTreeSet<String>,
    bindings: BTreeSet<String>,
    unseen: Option<String>,
}

impl Client {
    /// Finds all queues of the broker. The search ends after two seconds or two million keys; then `unseen` says so.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline, or refuses a command.
    pub async fn broker_queues(&self) -> Result<BrokerQueues> {
        let Found {
            lists,
            bindings,
            mut unseen,
        } = self.find_keys().await?;
        let keys = self.broker_keys();
        let mut messages: BTreeMap<String, u64> = BTreeMap::new();
        for set in bindings.iter().filter(|set| !keys.is_control_bindings(set)) {
            match self.bound_queues(set).await? {
                Some(queues) => messages.extend(queues.into_iter().map(|queue| (queue, 0))),
                None => unseen = Some(format!("`{set}` holds more than {MOST_BINDINGS} bindings")),
            }
        }
        // In what is counted a queue's lists follow each other.
        let lists: Vec<(String, String)> = lists
            .into_iter()
            .filter_map(|list| Some((keys.queue_of_list(&list)?.to_owned(), list)))
            .collect();
        let (bound, unbound): (Vec<_>, Vec<_>) = lists.into_iter().partition(|(queue, _)| messages.contains_key(queue));
        if unbound.len() > MOST_UNBOUND {
            unseen = Some(format!("the broker's database holds more than {MOST_UNBOUND} lists"));
        }
        let mut queues = bound;
        for lists in unbound[..unbound.len().min(MOST_UNBOUND)].chunks(SAMPLED_AT_ONCE) {
            queues.extend(self.lists_of_tasks(lists).await?);
        }
        for lists in queues.chunks(LENGTHS_AT_ONCE) {
            let mut lengths = redis::pipe();
            lists.iter().for_each(|(_, list)| {
                lengths.cmd("LLEN").arg(list);
            });
            let lengths: Vec<u64> = self
                .broker()
                .query("read the depths of queues", &lengths, self.deadline())
                .await?;
            for ((queue, _), length) in lists.iter().zip(lengths) {
                let messages = messages.entry(queue.clone()).or_default();
                *messages = messages.saturating_add(length);
            }
        }
        Ok(BrokerQueues { messages, unseen })
    }

    /// Counts the messages of the jobs with these first tasks in these queues, at all priorities.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline, or refuses a command.
    pub async fn waiting_in(&self, roots: &HashSet<TaskId>, queues: &[&str]) -> Result<Waiting> {
        let mut waiting = Waiting::default();
        for queue in queues {
            let mut counts: HashMap<TaskId, u64> = HashMap::new();
            for (_, list) in self.broker_keys().lists(queue) {
                if !self.count_in_list(&list, roots, &mut counts).await? {
                    waiting.unseen = Some(format!("queue `{queue}` holds more than {SCAN_LIMIT} messages"));
                }
            }
            if !counts.is_empty() {
                waiting.by_queue.insert((*queue).to_owned(), counts);
            }
        }
        Ok(waiting)
    }

    /// Whether all of the list was looked at.
    async fn count_in_list(
        &self,
        list: &str,
        roots: &HashSet<TaskId>,
        counts: &mut HashMap<TaskId, u64>,
    ) -> Result<bool> {
        for start in (0..SCAN_LIMIT).step_by(PAGE) {
            let mut page = redis::pipe();
            page.cmd("LRANGE").arg(list).arg(start).arg(start + PAGE - 1);
            let (items,): (Vec<Vec<u8>>,) = self.broker().query("read a queue", &page, self.deadline()).await?;
            for task in items.iter().filter_map(|item| QueuedTask::decode(item).ok()?) {
                let root = task.root_id.unwrap_or(task.id);
                if roots.contains(&root) {
                    *counts.entry(root).or_default() += 1;
                }
            }
            if items.len() < PAGE {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Searches the broker's database for lists and for sets of bindings, both in one pass of requests.
    async fn find_keys(&self) -> Result<Found> {
        let mut found = Found::default();
        let begun = Instant::now();
        let (mut lists, mut bindings) = (Some(0u64), Some(0u64));
        for _ in 0..SCAN_PAGES {
            if begun.elapsed() > SCAN_DEADLINE {
                break;
            }
            let mut page = redis::pipe();
            let wanted = [
                (lists, self.broker_keys().all(), "list"),
                (bindings, self.broker_keys().all_bindings(), "set"),
            ];
            for (cursor, pattern, kind) in &wanted {
                let Some(cursor) = cursor else { continue };
                page.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern);
                page.arg("COUNT").arg(SCAN_PAGE).arg("TYPE").arg(*kind);
            }
            type Page = (u64, Vec<Vec<u8>>);
            let pages: Vec<Page> = self.broker().query("look for queues", &page, self.deadline()).await?;
            let mut pages = pages.into_iter();
            for (cursor, names) in [(&mut lists, &mut found.lists), (&mut bindings, &mut found.bindings)] {
                let Some(page) = cursor.and_then(|_| pages.next()) else {
                    continue;
                };
                // A queue's name is text, to Celery and here.
                names.extend(page.1.into_iter().filter_map(|name| String::from_utf8(name).ok()));
                *cursor = (page.0 != 0).then_some(page.0);
            }
            if lists.is_none() && bindings.is_none() {
                return Ok(found);
            }
        }
        found.unseen = Some("the broker's database holds too many keys to look at all of them".to_owned());
        Ok(found)
    }

    /// Returns the queues of a set of bindings; `None`: there are too many.
    async fn bound_queues(&self, set: &str) -> Result<Option<Vec<String>>> {
        let mut size = redis::pipe();
        size.cmd("SCARD").arg(set);
        let (size,): (u64,) = self.broker().query("count bindings", &size, self.deadline()).await?;
        if size > MOST_BINDINGS {
            return Ok(None);
        }
        let mut read = redis::pipe();
        read.cmd("SMEMBERS").arg(set);
        let (members,): (Vec<Vec<u8>>,) = self.broker().query("read bindings", &read, self.deadline()).await?;
        let names = members
            .into_iter()
            .filter_map(|member| String::from_utf8(member).ok())
            .filter_map(|member| self.broker_keys().bound_queue(&member).map(str::to_owned));
        Ok(Some(names.collect()))
    }

    /// Returns those of these lists that hold a task at one of their ends.
    async fn lists_of_tasks(&self, lists: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let mut samples = redis::pipe();
        for (_, list) in lists {
            samples.cmd("LRANGE").arg(list).arg(0).arg(SAMPLE - 1);
            samples.cmd("LRANGE").arg(list).arg(-SAMPLE).arg(-1);
        }
        let samples: Vec<Vec<Vec<u8>>> = self.broker().query("look at lists", &samples, self.deadline()).await?;
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
