//! Leftovers of earlier runs in a broker and result backend that nothing else uses, and their removal. Other keys of
//! the app are never removed.

use std::collections::{BTreeMap, HashSet};

use crate::client::Client;
use crate::error::Result;
use crate::redis::connection::CommandConnection;
use crate::wire::ids::TaskId;
use crate::wire::message::QueuedTask;

/// Number of keys per SCAN or UNLINK call.
const PAGE: usize = 500;
/// Suffix of the list that holds the messages to keep while the original list is processed.
const KEPT_SUFFIX: &str = ":kept-by-orch";

/// Jobs that continue. Their messages and keys are not leftovers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptJobs {
    /// First task of each job.
    pub roots: HashSet<TaskId>,
    /// Prefixes of the progress keys of each job.
    pub key_prefixes: Vec<String>,
}

impl KeptJobs {
    fn has(&self, task: Option<&QueuedTask>) -> bool {
        task.is_some_and(|task| self.roots.contains(task.root()))
    }
}

/// Numbers of leftovers that exist or were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Number of waiting messages at all priorities, by queue. Queues without messages are absent.
    pub queued: BTreeMap<String, u64>,
    /// Number of messages that a worker took and never acknowledged.
    pub unacked: u64,
    /// Number of keys of chords that never completed.
    pub chord_keys: u64,
    /// Number of lists with control replies that were never read.
    pub reply_lists: u64,
}

impl Leftovers {
    /// Returns true when there are no leftovers.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.unacked == 0 && self.chord_keys == 0 && self.reply_lists == 0
    }
}

impl Client {
    /// Counts the leftovers of earlier runs: messages in these queues, unacknowledged messages, keys of chords, control
    /// replies. The numbers are only meaningful while no worker is running.
    pub async fn leftovers(&self, queues: &[&str]) -> Result<Leftovers> {
        let mut leftovers = Leftovers::default();
        for queue in queues {
            let depth: u64 = self.queue_depth(queue).await?.values().sum();
            if depth > 0 {
                leftovers.queued.insert((*queue).to_owned(), depth);
            }
        }
        leftovers.unacked = self.unacked_count().await?;
        leftovers.chord_keys = self.chord_keys().await?.len() as u64;
        leftovers.reply_lists = self.reply_lists().await?.len() as u64;
        Ok(leftovers)
    }

    /// Removes the leftovers that [`Client::leftovers`] counts, except those of `kept` jobs, and returns the removed
    /// numbers. No worker may be running, because a worker would lose its current tasks.
    pub async fn remove_leftovers(&self, queues: &[&str], kept: &KeptJobs) -> Result<Leftovers> {
        if !kept.roots.is_empty() {
            return self.remove_leftovers_of_others(queues, kept).await;
        }
        let leftovers = self.leftovers(queues).await?;
        let keys = self.broker_keys();
        let mut to_remove: Vec<String> = queues
            .iter()
            .flat_map(|queue| keys.lists(queue))
            .flat_map(|(_step, list)| [list.clone() + KEPT_SUFFIX, list])
            .collect();
        to_remove.extend([keys.unacked(), keys.unacked_index()]);
        to_remove.extend(self.reply_lists().await?);
        self.unlink(self.broker(), &to_remove).await?;
        self.unlink(self.backend(), &self.chord_keys().await?).await?;
        Ok(leftovers)
    }

    /// Removes the leftovers of all other jobs. The keys of chords stay, because they do not identify their job; they
    /// expire.
    async fn remove_leftovers_of_others(&self, queues: &[&str], kept: &KeptJobs) -> Result<Leftovers> {
        let mut leftovers = Leftovers::default();
        for queue in queues {
            let mut removed = 0;
            for (_step, list) in self.broker_keys().lists(queue) {
                removed += self.remove_from_list(&list, kept).await?;
            }
            if removed > 0 {
                leftovers.queued.insert((*queue).to_owned(), removed);
            }
        }
        leftovers.unacked = self.remove_unacked_of_others(kept).await?;
        let replies = self.reply_lists().await?;
        leftovers.reply_lists = replies.len() as u64;
        self.unlink(self.broker(), &replies).await?;
        Ok(leftovers)
    }

    /// Removes the messages of other jobs from a list and returns their number. Each message is at any time either in
    /// the list or in the second list (`KEPT_SUFFIX`), so a call after a crash continues the work.
    async fn remove_from_list(&self, list: &str, kept: &KeptJobs) -> Result<u64> {
        let kept_list = format!("{list}{KEPT_SUFFIX}");
        // A list with only kept messages is not rewritten at each start: its messages would fill the append-only file.
        if self.is_all_kept(list, &kept_list, kept).await? {
            return Ok(0);
        }
        let mut removed = 0;
        loop {
            // Read from the end where workers take messages: a new message at the other end shifts no item.
            let mut page = redis::pipe();
            page.cmd("LRANGE").arg(list).arg(-(PAGE as i64)).arg(-1);
            let (items,): (Vec<Vec<u8>>,) = self.broker_query("read a queue", &page).await?;
            if items.is_empty() {
                break;
            }
            let is_kept = |item: &&Vec<u8>| kept.has(QueuedTask::decode(item).ok().flatten().as_ref());
            let kept_items: Vec<&Vec<u8>> = items.iter().rev().filter(is_kept).collect();
            removed += (items.len() - kept_items.len()) as u64;
            let mut step = redis::pipe();
            step.atomic();
            if !kept_items.is_empty() {
                step.cmd("LPUSH").arg(&kept_list).arg(kept_items).ignore();
            }
            step.cmd("LTRIM")
                .arg(list)
                .arg(0)
                .arg(-(items.len() as i64) - 1)
                .ignore();
            self.broker_query::<()>("remove leftovers", &step).await?;
        }
        let mut exists = redis::pipe();
        exists.cmd("EXISTS").arg(&kept_list);
        let (exists,): (bool,) = self.broker_query("search for kept messages", &exists).await?;
        if exists {
            let mut rename = redis::pipe();
            rename.cmd("RENAME").arg(&kept_list).arg(list).ignore();
            self.broker_query::<()>("put kept messages back", &rename).await?;
        }
        Ok(removed)
    }

    /// Returns true when every message of the list is kept and the second list does not exist.
    async fn is_all_kept(&self, list: &str, kept_list: &str, kept: &KeptJobs) -> Result<bool> {
        let mut begin = 0;
        loop {
            let mut page = redis::pipe();
            page.cmd("EXISTS").arg(kept_list);
            page.cmd("LRANGE").arg(list).arg(begin).arg(begin + PAGE as i64 - 1);
            let (kept_list_exists, items): (bool, Vec<Vec<u8>>) = self.broker_query("read a queue", &page).await?;
            let is_kept = |item: &Vec<u8>| kept.has(QueuedTask::decode(item).ok().flatten().as_ref());
            if kept_list_exists || !items.iter().all(is_kept) {
                return Ok(false);
            }
            if items.len() < PAGE {
                return Ok(true);
            }
            begin += PAGE as i64;
        }
    }

    /// Removes the unacknowledged messages of other jobs and returns their number.
    async fn remove_unacked_of_others(&self, kept: &KeptJobs) -> Result<u64> {
        let (unacked, index) = (self.broker_keys().unacked(), self.broker_keys().unacked_index());
        let mut removed = HashSet::new();
        let mut walk = self.walk_unacked(usize::MAX);
        while let Some(entries) = walk.next_page().await? {
            let is_kept = |value: &[u8]| kept.has(QueuedTask::decode_unacked(value).ok().flatten().as_ref());
            let others = entries.into_iter().filter(|(_, value)| !is_kept(value));
            let to_remove: Vec<Vec<u8>> = others.map(|(tag, _)| tag).collect();
            if to_remove.is_empty() {
                continue;
            }
            let mut remove = redis::pipe();
            remove.atomic();
            remove.cmd("HDEL").arg(&unacked).arg(&to_remove).ignore();
            remove.cmd("ZREM").arg(&index).arg(&to_remove).ignore();
            self.broker_query::<()>("remove leftovers", &remove).await?;
            removed.extend(to_remove);
        }
        Ok(removed.len() as u64)
    }

    /// Counts the keys of the result backend that match any of these glob patterns, such as progress keys of ended
    /// jobs.
    pub async fn count_keys(&self, patterns: &[String]) -> Result<u64> {
        Ok(self.keys_matching(patterns).await?.len() as u64)
    }

    /// Removes the keys that [`Client::count_keys`] counts, except those of `kept` jobs, and returns their number.
    pub async fn remove_keys(&self, patterns: &[String], kept: &KeptJobs) -> Result<u64> {
        let mut keys = self.keys_matching(patterns).await?;
        keys.retain(|key| !kept.key_prefixes.iter().any(|prefix| key.starts_with(prefix)));
        self.unlink(self.backend(), &keys).await?;
        Ok(keys.len() as u64)
    }

    async fn keys_matching(&self, patterns: &[String]) -> Result<Vec<String>> {
        let mut keys = std::collections::BTreeSet::new();
        for pattern in patterns {
            keys.extend(self.scan(self.backend(), pattern, None).await?);
        }
        Ok(keys.into_iter().collect())
    }

    async fn chord_keys(&self) -> Result<Vec<String>> {
        self.scan(self.backend(), &self.backend_keys().chord_keys_pattern(), None)
            .await
    }

    async fn reply_lists(&self) -> Result<Vec<String>> {
        let mut lists = self
            .scan(self.broker(), &self.broker_keys().reply_lists_pattern(), Some("list"))
            .await?;
        lists.retain(|key| self.broker_keys().is_reply_list(key));
        Ok(lists)
    }

    /// Returns all keys that match a pattern. The set removes duplicates, because SCAN can return a key twice.
    async fn scan(&self, commands: &CommandConnection, pattern: &str, kind: Option<&str>) -> Result<Vec<String>> {
        let mut keys = std::collections::BTreeSet::new();
        let mut cursor = 0u64;
        loop {
            let mut page = redis::pipe();
            page.cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(PAGE);
            if let Some(kind) = kind {
                page.arg("TYPE").arg(kind);
            }
            let ((next, found),): ((u64, Vec<Vec<u8>>),) =
                commands.query("search for leftovers", &page, self.deadline()).await?;
            // Keys of Celery are UTF-8.
            keys.extend(found.into_iter().filter_map(|key| String::from_utf8(key).ok()));
            cursor = next;
            if cursor == 0 {
                return Ok(keys.into_iter().collect());
            }
        }
    }

    async fn unlink(&self, commands: &CommandConnection, keys: &[String]) -> Result<()> {
        for keys in keys.chunks(PAGE) {
            let mut unlink = redis::pipe();
            unlink.cmd("UNLINK").arg(keys).ignore();
            commands
                .query::<()>("remove leftovers", &unlink, self.deadline())
                .await?;
        }
        Ok(())
    }
}
