//! What earlier runs left in an otherwise unused broker and backend, and its removal. Never another key of the app.

use std::collections::{BTreeMap, HashSet};

use super::client::Client;
use super::connection::Commands;
use super::message::QueuedTask;
use super::{Result, TaskId};

/// How many keys one SCAN or one UNLINK handles.
const PAGE: usize = 500;
/// What a list is called while its kept messages are put aside.
const ASIDE: &str = ":kept-by-orch";

/// Jobs that go on: what is theirs is no leftover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The first task of each.
    pub roots: HashSet<TaskId>,
    /// The begins of the progress keys of each.
    pub key_prefixes: Vec<String>,
}

impl Kept {
    fn has(&self, task: Option<&QueuedTask>) -> bool {
        task.is_some_and(|task| self.roots.contains(task.root_id.as_ref().unwrap_or(&task.id)))
    }
}

/// Counts of what is there, or of what was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Waiting messages by queue, all priorities; queues without any are absent.
    pub queued: BTreeMap<String, u64>,
    /// Messages that a worker took and never acknowledged.
    pub unacked: u64,
    /// Keys of chords that never completed.
    pub chord_keys: u64,
    /// Lists of control replies that nobody read.
    pub reply_lists: u64,
}

impl Leftovers {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.unacked == 0 && self.chord_keys == 0 && self.reply_lists == 0
    }
}

impl Client {
    /// Counts what earlier runs left: messages in these queues, unacknowledged messages, chord bookkeeping, control
    /// replies. Only meaningful while no worker runs.
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

    /// Removes what [`Client::leftovers`] counts, but for what is `kept`, and gives the counts of what was removed. No
    /// worker may be running: it would lose what it works on.
    pub async fn remove_leftovers(&self, queues: &[&str], kept: &Kept) -> Result<Leftovers> {
        if !kept.roots.is_empty() {
            return self.remove_leftovers_of_others(queues, kept).await;
        }
        let leftovers = self.leftovers(queues).await?;
        let keys = self.broker_keys();
        let mut doomed: Vec<String> = queues
            .iter()
            .flat_map(|queue| keys.lists(queue))
            .flat_map(|(_step, list)| [list.clone() + ASIDE, list])
            .collect();
        doomed.extend([keys.unacked(), keys.unacked_index()]);
        doomed.extend(self.reply_lists().await?);
        self.unlink(self.broker(), &doomed).await?;
        self.unlink(self.backend(), &self.chord_keys().await?).await?;
        Ok(leftovers)
    }

    /// The bookkeeping of chords stays: it does not tell whose it is, and it expires by itself.
    async fn remove_leftovers_of_others(&self, queues: &[&str], kept: &Kept) -> Result<Leftovers> {
        let mut leftovers = Leftovers::default();
        for queue in queues {
            let mut removed = 0;
            for (_step, list) in self.broker_keys().lists(queue) {
                removed += self.sift(&list, kept).await?;
            }
            if removed > 0 {
                leftovers.queued.insert((*queue).to_owned(), removed);
            }
        }
        leftovers.unacked = self.sift_unacked(kept).await?;
        let replies = self.reply_lists().await?;
        leftovers.reply_lists = replies.len() as u64;
        self.unlink(self.broker(), &replies).await?;
        Ok(leftovers)
    }

    /// Removes from a queue's list what is not kept; how many those were. Each message is at any time in the list or
    /// aside: after a crash the next call goes on where this one was.
    async fn sift(&self, list: &str, kept: &Kept) -> Result<u64> {
        let aside = format!("{list}{ASIDE}");
        // A list of which all is kept is not written anew at each start: its messages would fill the append-only file.
        if self.is_all_kept(list, &aside, kept).await? {
            return Ok(0);
        }
        let mut removed = 0;
        loop {
            // From the end that is taken from: what comes in meanwhile shifts nothing.
            let mut page = redis::pipe();
            page.cmd("LRANGE").arg(list).arg(-(PAGE as i64)).arg(-1);
            let (items,): (Vec<Vec<u8>>,) = self.broker().query("read a queue", &page, self.deadline()).await?;
            if items.is_empty() {
                break;
            }
            let is_kept = |item: &&Vec<u8>| kept.has(QueuedTask::decode(item).ok().flatten().as_ref());
            let keepers: Vec<&Vec<u8>> = items.iter().rev().filter(is_kept).collect();
            removed += (items.len() - keepers.len()) as u64;
            let mut step = redis::pipe();
            step.atomic();
            if !keepers.is_empty() {
                step.cmd("LPUSH").arg(&aside).arg(keepers).ignore();
            }
            step.cmd("LTRIM")
                .arg(list)
                .arg(0)
                .arg(-(items.len() as i64) - 1)
                .ignore();
            self.broker()
                .query::<()>("remove leftovers", &step, self.deadline())
                .await?;
        }
        let mut exists = redis::pipe();
        exists.cmd("EXISTS").arg(&aside);
        let (exists,): (bool,) = self
            .broker()
            .query("look for kept messages", &exists, self.deadline())
            .await?;
        if exists {
            let mut rename = redis::pipe();
            rename.cmd("RENAME").arg(&aside).arg(list).ignore();
            self.broker()
                .query::<()>("put kept messages back", &rename, self.deadline())
                .await?;
        }
        Ok(removed)
    }

    /// Whether every message of the list is kept, and none is aside.
    async fn is_all_kept(&self, list: &str, aside: &str, kept: &Kept) -> Result<bool> {
        let mut begin = 0;
        loop {
            let mut page = redis::pipe();
            page.cmd("EXISTS").arg(aside);
            page.cmd("LRANGE").arg(list).arg(begin).arg(begin + PAGE as i64 - 1);
            let (is_aside, items): (bool, Vec<Vec<u8>>) =
                self.broker().query("read a queue", &page, self.deadline()).await?;
            let is_kept = |item: &Vec<u8>| kept.has(QueuedTask::decode(item).ok().flatten().as_ref());
            if is_aside || !items.iter().all(is_kept) {
                return Ok(false);
            }
            if items.len() < PAGE {
                return Ok(true);
            }
            begin += PAGE as i64;
        }
    }

    /// Removes the unacknowledged messages that are not kept; how many those were.
    async fn sift_unacked(&self, kept: &Kept) -> Result<u64> {
        let (unacked, index) = (self.broker_keys().unacked(), self.broker_keys().unacked_index());
        let (mut cursor, mut removed) = (0u64, HashSet::new());
        loop {
            let mut page = redis::pipe();
            page.cmd("HSCAN").arg(&unacked).arg(cursor).arg("COUNT").arg(PAGE);
            type Page = (u64, Vec<(Vec<u8>, Vec<u8>)>);
            let ((next, entries),): (Page,) = self
                .broker()
                .query("read unacknowledged messages", &page, self.deadline())
                .await?;
            let is_kept = |value: &[u8]| kept.has(QueuedTask::decode_unacked(value).ok().flatten().as_ref());
            let doomed: Vec<Vec<u8>> = entries
                .into_iter()
                .filter(|(_, value)| !is_kept(value))
                .map(|(tag, _)| tag)
                .collect();
            if !doomed.is_empty() {
                let mut remove = redis::pipe();
                remove.atomic();
                remove.cmd("HDEL").arg(&unacked).arg(&doomed).ignore();
                remove.cmd("ZREM").arg(&index).arg(&doomed).ignore();
                self.broker()
                    .query::<()>("remove leftovers", &remove, self.deadline())
                    .await?;
                removed.extend(doomed);
            }
            cursor = next;
            if cursor == 0 {
                return Ok(removed.len() as u64);
            }
        }
    }

    /// Counts the result backend's keys that match any of these glob patterns: an app's progress keys of dead jobs.
    pub async fn count_keys(&self, patterns: &[String]) -> Result<u64> {
        Ok(self.keys_like(patterns).await?.len() as u64)
    }

    /// Removes what [`Client::count_keys`] counts, but for what is `kept`, and gives the count.
    pub async fn remove_keys(&self, patterns: &[String], kept: &Kept) -> Result<u64> {
        let mut keys = self.keys_like(patterns).await?;
        keys.retain(|key| !kept.key_prefixes.iter().any(|prefix| key.starts_with(prefix)));
        self.unlink(self.backend(), &keys).await?;
        Ok(keys.len() as u64)
    }

    async fn keys_like(&self, patterns: &[String]) -> Result<Vec<String>> {
        let mut keys = std::collections::BTreeSet::new();
        for pattern in patterns {
            keys.extend(self.scan(self.backend(), pattern, None).await?);
        }
        Ok(keys.into_iter().collect())
    }

    async fn chord_keys(&self) -> Result<Vec<String>> {
        self.scan(self.backend(), &self.backend_keys().chords(), None).await
    }

    async fn reply_lists(&self) -> Result<Vec<String>> {
        let mut lists = self
            .scan(self.broker(), &self.broker_keys().reply_lists(), Some("list"))
            .await?;
        lists.retain(|key| self.broker_keys().is_reply_list(key));
        Ok(lists)
    }

    /// All keys that match a pattern; SCAN may name one twice.
    async fn scan(&self, commands: &Commands, pattern: &str, kind: Option<&str>) -> Result<Vec<String>> {
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
                commands.query("look for leftovers", &page, self.deadline()).await?;
            // Celery's own keys are UTF-8.
            keys.extend(found.into_iter().filter_map(|key| String::from_utf8(key).ok()));
            cursor = next;
            if cursor == 0 {
                return Ok(keys.into_iter().collect());
            }
        }
    }

    async fn unlink(&self, commands: &Commands, keys: &[String]) -> Result<()> {
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
