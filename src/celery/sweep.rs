//! Removing the messages of jobs that must not go on, and finding what workers have of them.
//!
//! A message is removed by its own bytes in one step: either it is removed here or a worker takes it, never both, and never
//! another's. What a worker has taken is not touched: it is told to the caller, who has it revoked.

use std::collections::{HashMap, HashSet};

use super::client::Client;
use super::inspect::Execution;
use super::message::QueuedTask;
use super::queues::{PAGE, SCAN_LIMIT, Search, Whereabouts};
use super::{Result, TaskId};

/// What was found of some jobs among the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Removed from the queues.
    pub removed: u64,
    /// Tasks whose messages workers have taken, now or before, and not acknowledged.
    pub taken: HashSet<TaskId>,
    /// What could not be looked at.
    pub unseen: Option<String>,
}

/// Which of some tasks workers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InWorkers {
    /// Active, reserved or scheduled.
    pub places: HashMap<TaskId, Whereabouts>,
    /// What could not be looked at.
    pub unseen: Option<String>,
}

impl Client {
    /// Removes the messages of the jobs with these first tasks from these queues, and tells which messages of theirs are
    /// unacknowledged.
    ///
    /// # Errors
    /// Redis does not answer within the deadline; some may be removed by then.
    pub async fn sweep(&self, roots: &HashSet<TaskId>, queues: &[&str]) -> Result<Swept> {
        let mut swept = Swept::default();
        for queue in queues {
            for (_step, list) in self.broker_keys().lists(queue) {
                if !self.sweep_list(&list, roots, &mut swept).await? {
                    swept.unseen = Some(format!("queue `{queue}` holds more than {SCAN_LIMIT} messages"));
                }
            }
        }
        let of_theirs = |task: &QueuedTask| roots.contains(task.root_id.as_ref().unwrap_or(&task.id));
        let key = self.broker_keys().unacked();
        let (mut cursor, mut seen) = (0u64, 0);
        loop {
            let mut page = redis::pipe();
            page.cmd("HSCAN").arg(&key).arg(cursor).arg("COUNT").arg(PAGE);
            type Page = (u64, Vec<(Vec<u8>, Vec<u8>)>);
            let ((next, entries),): (Page,) = self
                .broker()
                .query("read unacknowledged messages", &page, self.deadline())
                .await?;
            seen += entries.len();
            let tasks = entries
                .iter()
                .filter_map(|(_tag, value)| QueuedTask::decode_unacked(value).ok()?);
            swept.taken.extend(tasks.filter(of_theirs).map(|task| task.id));
            cursor = next;
            if cursor == 0 {
                return Ok(swept);
            }
            if seen >= SCAN_LIMIT {
                swept.unseen = Some(format!("more than {SCAN_LIMIT} messages are unacknowledged"));
                return Ok(swept);
            }
        }
    }

    /// Whether all of the list was looked at.
    async fn sweep_list(&self, list: &str, roots: &HashSet<TaskId>, swept: &mut Swept) -> Result<bool> {
        // From the end that is pushed to: what comes in meanwhile makes us read an item twice, what goes out at the other
        // end shifts nothing. What we remove ourselves does, by as much.
        let mut start = 0;
        while start < SCAN_LIMIT {
            let mut page = redis::pipe();
            page.cmd("LRANGE").arg(list).arg(start).arg(start + PAGE - 1);
            let (items,): (Vec<Vec<u8>>,) = self.broker().query("read a queue", &page, self.deadline()).await?;
            let task = |item: &Vec<u8>| QueuedTask::decode(item).ok().flatten();
            let theirs: Vec<(&Vec<u8>, TaskId)> = items
                .iter()
                .filter_map(|item| Some((item, task(item)?)))
                .filter(|(_, task)| roots.contains(task.root_id.as_ref().unwrap_or(&task.id)))
                .map(|(item, task)| (item, task.id))
                .collect();
            let mut gone = 0;
            if !theirs.is_empty() {
                let mut remove = redis::pipe();
                for (item, _) in &theirs {
                    remove.cmd("LREM").arg(list).arg(1).arg(item);
                }
                let answers: Vec<u64> = self
                    .broker()
                    .query("remove messages from a queue", &remove, self.deadline())
                    .await?;
                for ((_, task), removed) in theirs.into_iter().zip(answers) {
                    if removed == 0 {
                        swept.taken.insert(task);
                    }
                    swept.removed += removed;
                    gone += usize::from(removed > 0);
                }
            }
            if items.len() < PAGE {
                return Ok(true);
            }
            start += PAGE - gone;
        }
        Ok(false)
    }

    /// Where workers have these tasks, but for executions that they list though they have ended.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn in_workers(&self, tasks: HashSet<TaskId>, ended: HashSet<Execution>) -> Result<InWorkers> {
        let mut search = Search::in_workers(tasks, ended);
        self.look_in_workers(&mut search).await?;
        let (places, unseen) = search.into_places();
        Ok(InWorkers { places, unseen })
    }
}
