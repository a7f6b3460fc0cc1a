//! Removal of the messages of jobs that must not continue.
//!
//! One Redis command removes a message by its exact content. The message is either removed here or taken by a worker,
//! never both, and no other message is removed. Messages that workers have taken stay; the caller learns of them and
//! revokes their tasks.

use std::collections::HashSet;

use super::scan::{ListEnd, SCAN_LIMIT};
use crate::client::Client;
use crate::error::Result;
use crate::wire::ids::TaskId;
use crate::wire::message::QueuedTask;

/// Messages of given jobs that were removed or are unacknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedMessages {
    /// Number of messages that were removed from the queues.
    pub removed: u64,
    /// Tasks with messages that workers have taken, now or earlier, and not acknowledged.
    pub taken: HashSet<TaskId>,
    /// Reason why the search is incomplete, if so.
    pub unseen: Option<String>,
}

impl Client {
    /// Removes the messages of the jobs with these first tasks from these queues. Also returns their tasks with
    /// unacknowledged messages.
    ///
    /// # Errors
    /// Redis does not answer within the deadline. Some messages may have been removed already.
    pub async fn remove_job_messages(&self, roots: &HashSet<TaskId>, queues: &[&str]) -> Result<RemovedMessages> {
        let mut swept = RemovedMessages::default();
        for queue in queues {
            for (_step, list) in self.broker_keys().lists(queue) {
                self.remove_job_messages_in_list(queue, &list, roots, &mut swept)
                    .await?;
            }
        }
        let mut walk = self.walk_unacked(SCAN_LIMIT);
        while let Some(entries) = walk.next_page().await? {
            let tasks = entries
                .iter()
                .filter_map(|(_tag, value)| QueuedTask::decode_unacked(value).ok()?);
            let of_jobs = tasks.filter(|task| roots.contains(task.root()));
            swept.taken.extend(of_jobs.map(|task| task.id));
        }
        swept.unseen = walk.unseen().or(swept.unseen);
        Ok(swept)
    }

    async fn remove_job_messages_in_list(
        &self,
        queue: &str,
        list: &str,
        roots: &HashSet<TaskId>,
        swept: &mut RemovedMessages,
    ) -> Result<()> {
        let mut walk = self.walk_list(list, ListEnd::Newest);
        while let Some(items) = walk.next_page().await? {
            let task = |item: &Vec<u8>| QueuedTask::decode(item).ok().flatten();
            let matching: Vec<(&Vec<u8>, TaskId)> = items
                .iter()
                .filter_map(|item| Some((item, task(item)?)))
                .filter(|(_, task)| roots.contains(task.root()))
                .map(|(item, task)| (item, task.id))
                .collect();
            if matching.is_empty() {
                continue;
            }
            let mut remove = redis::pipe();
            for (item, _) in &matching {
                remove.cmd("LREM").arg(list).arg(1).arg(item);
            }
            let answers: Vec<u64> = self.broker_query("remove messages from a queue", &remove).await?;
            for ((_, task), removed) in matching.into_iter().zip(answers) {
                if removed == 0 {
                    swept.taken.insert(task);
                } else {
                    walk.step_back(1);
                }
                swept.removed += removed;
            }
        }
        swept.unseen = walk.unseen(queue).or(swept.unseen.take());
        Ok(())
    }
}
