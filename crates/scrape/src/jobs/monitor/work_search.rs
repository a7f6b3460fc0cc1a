//! Search for the remaining work of one job: queued, unacknowledged or in a worker.
//!
//! Not here: the census of all jobs on which the search rests ([`super::census`]).

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;

use super::remaining_work::RemainingWork;
use super::subscription::JobSubscription;
use crate::jobs::task_index::TaskOwner;
use orch_celery::{TaskId, UnfinishedTasks};

/// Time between the two looks that must both find nothing before a job has no work left.
pub(super) const SECOND_LOOK_DELAY: Duration = Duration::from_secs(1);

impl JobSubscription<'_> {
    /// Searches for work of the job: queued, unacknowledged or in a worker. `known` are tasks that are known to belong
    /// to the job. Takes more than a second if nothing is left.
    pub async fn remaining_work(&self, known: &HashSet<TaskId>) -> RemainingWork {
        let changes = || self.monitor.records().task_index.changes(&self.root);
        let before = changes();
        let first = self.look_once(known).await;
        if first != RemainingWork::Nothing {
            return first;
        }
        sleep(SECOND_LOOK_DELAY).await;
        let second = self.look_once(known).await;
        if second == RemainingWork::Nothing && changes() != before {
            RemainingWork::Something
        } else {
            second
        }
    }

    async fn look_once(&self, known: &HashSet<TaskId>) -> RemainingWork {
        if !self.monitor.context.workers_settled.is_settled() {
            return RemainingWork::Unsure("a worker is being started or stopped".to_owned());
        }
        // The known queues come first: a search of the whole broker costs more.
        for everywhere in [false, true] {
            let census = match Box::pin(self.monitor.take_census(everywhere)).await {
                Ok(census) => census,
                Err(error) => return RemainingWork::Unsure(error.to_string()),
            };
            let left = self.judge_census(&census, known);
            if left != RemainingWork::Nothing {
                return left;
            }
            if let Some(left) = self.monitor.left_in_unconsumed_queues(&self.root) {
                return left;
            }
        }
        RemainingWork::Nothing
    }

    /// Starts the polling for stale executions, since workers list tasks of the job.
    fn still_listed(&self) -> RemainingWork {
        self.monitor.stale_poll_due.notify_one();
        RemainingWork::Something
    }

    fn judge_census(&self, census: &UnfinishedTasks, known: &HashSet<TaskId>) -> RemainingWork {
        if let Some(waiting) = census.messages.get(&self.root) {
            self.monitor.records().task_index.note_waiting(&self.root, waiting);
            // With late acknowledgement the message of a running task stays in Redis. If the pool process has left that
            // task, neither the message nor the entry in the worker's list ever goes away by itself.
            let is_listed = waiting.iter().any(|task| census.held.contains(task));
            return if is_listed {
                self.still_listed()
            } else {
                RemainingWork::Something
            };
        }
        if let Some(node) = self
            .monitor
            .context
            .shared_workers
            .living_without_answer(&census.answered)
        {
            return RemainingWork::Unsure(format!("worker {node} is alive and has not listed its tasks"));
        }
        let mut unknown = None;
        let records = self.monitor.records();
        for task in &census.held {
            match records.task_index.owner(task) {
                TaskOwner::Job(root) if root == self.root => return self.still_listed(),
                _ if known.contains(task) => return self.still_listed(),
                TaskOwner::Job(_) | TaskOwner::Foreign => {}
                TaskOwner::Unknown => {
                    unknown = Some(format!("a worker is running task {task}, which may belong to the job"))
                }
            }
        }
        match unknown.or_else(|| census.unseen.clone()) {
            Some(reason) => RemainingWork::Unsure(reason),
            None => RemainingWork::Nothing,
        }
    }
}
