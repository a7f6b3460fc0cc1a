//! What earlier runs left in an otherwise unused broker and backend, and its removal. Never another key of the app.

use std::collections::BTreeMap;

use super::Result;
use super::client::Client;
use super::connection::Commands;
use super::keys::PRIORITY_STEPS;

/// How many keys one SCAN or one UNLINK handles.
const PAGE: usize = 500;

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

    /// Removes what [`Client::leftovers`] counts and gives the counts. No worker may be running: it would lose what it
    /// works on.
    pub async fn remove_leftovers(&self, queues: &[&str]) -> Result<Leftovers> {
        let leftovers = self.leftovers(queues).await?;
        let keys = self.broker_keys();
        let mut doomed: Vec<String> = queues
            .iter()
            .flat_map(|queue| PRIORITY_STEPS.map(|step| keys.queue(queue, step)))
            .collect();
        doomed.extend([keys.unacked(), keys.unacked_index()]);
        doomed.extend(self.reply_lists().await?);
        self.unlink(self.broker(), &doomed).await?;
        self.unlink(self.backend(), &self.chord_keys().await?).await?;
        Ok(leftovers)
    }

    /// Counts the result backend's keys that match any of these glob patterns: an app's progress keys of dead jobs.
    pub async fn count_keys(&self, patterns: &[String]) -> Result<u64> {
        Ok(self.keys_like(patterns).await?.len() as u64)
    }

    /// Removes what [`Client::count_keys`] counts, and gives the count.
    pub async fn remove_keys(&self, patterns: &[String]) -> Result<u64> {
        let keys = self.keys_like(patterns).await?;
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
