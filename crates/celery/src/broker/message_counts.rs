//! Numbers of messages in queues and among the unacknowledged messages, and the tasks of the latter.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::scan::{ListEnd, PAGE};
use crate::client::Client;
use crate::error::Result;
use crate::wire::ids::TaskId;
use crate::wire::message::QueuedTask;

/// Message that a worker has taken and not acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct UnackedMessage {
    /// Time at which the worker took the message, in Unix seconds of the worker's clock.
    pub taken_at: f64,
    /// Task of the message. `None` when the message cannot be read.
    pub task: Option<QueuedTask>,
}

/// Messages of given jobs that wait in given queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingMessages {
    /// Number of messages by queue and by the first task of the job. Queues without such messages are absent.
    pub by_queue: BTreeMap<String, HashMap<TaskId, u64>>,
    /// Reason why the search is incomplete, if so.
    pub unseen: Option<String>,
}

impl Client {
    /// Returns the number of messages that wait in a queue, by priority step.
    pub async fn queue_depth(&self, queue: &str) -> Result<BTreeMap<u8, u64>> {
        let mut lengths = redis::pipe();
        let lists = self.broker_keys().lists(queue);
        for (_step, list) in &lists {
            lengths.cmd("LLEN").arg(list);
        }
        let lengths: Vec<u64> = self.broker_query("read a queue's depth", &lengths).await?;
        Ok(lists.into_iter().map(|(step, _list)| step).zip(lengths).collect())
    }

    /// Returns the number of messages of all queues that workers have taken and not acknowledged.
    pub async fn unacked_count(&self) -> Result<u64> {
        let mut count = redis::pipe();
        count.cmd("HLEN").arg(self.broker_keys().unacked());
        let (count,) = self.broker_query("count unacknowledged messages", &count).await?;
        Ok(count)
    }

    /// Returns at most `limit` messages that workers have taken and not acknowledged, in the order in which they were
    /// taken.
    pub async fn unacked_messages(&self, limit: usize) -> Result<Vec<UnackedMessage>> {
        let last = limit.saturating_sub(1);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut index = redis::pipe();
        index.cmd("ZRANGE").arg(self.broker_keys().unacked_index());
        index.arg(0).arg(last).arg("WITHSCORES");
        let (tags,): (Vec<(Vec<u8>, f64)>,) = self.broker_query("read when messages were taken", &index).await?;
        let mut messages = Vec::with_capacity(tags.len());
        for tags in tags.chunks(PAGE) {
            let mut page = redis::pipe();
            page.cmd("HMGET").arg(self.broker_keys().unacked());
            for (tag, _) in tags {
                page.arg(tag);
            }
            let (values,): (Vec<Option<Vec<u8>>>,) = self.broker_query("read unacknowledged messages", &page).await?;
            for ((_, taken_at), value) in tags.iter().zip(values) {
                // The message has been acknowledged since the first request.
                let Some(value) = value else { continue };
                messages.push(UnackedMessage {
                    taken_at: *taken_at,
                    task: QueuedTask::decode_unacked(&value).ok().flatten(),
                });
            }
        }
        Ok(messages)
    }

    /// Counts the messages at all priorities in these queues that belong to the jobs with these first tasks.
    ///
    /// # Errors
    /// Redis does not answer within the client's deadline, or refuses a command.
    pub async fn waiting_messages(&self, roots: &HashSet<TaskId>, queues: &[&str]) -> Result<WaitingMessages> {
        let mut waiting = WaitingMessages::default();
        for queue in queues {
            let mut counts: HashMap<TaskId, u64> = HashMap::new();
            for (_step, list) in self.broker_keys().lists(queue) {
                let mut walk = self.walk_list(&list, ListEnd::Newest);
                while let Some(items) = walk.next_page().await? {
                    for task in items.iter().filter_map(|item| QueuedTask::decode(item).ok()?) {
                        if roots.contains(task.root()) {
                            *counts.entry(task.root().clone()).or_default() += 1;
                        }
                    }
                }
                waiting.unseen = walk.unseen(queue).or(waiting.unseen);
            }
            if !counts.is_empty() {
                waiting.by_queue.insert((*queue).to_owned(), counts);
            }
        }
        Ok(waiting)
    }
}
