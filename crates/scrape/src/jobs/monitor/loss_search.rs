//! Searches for tasks of a chord's header that are lost while others of the job still run.
//!
//! A task is lost if a worker had taken it, the chord does not count it, no final result is stored, and two looks find
//! the task in no queue, among no unacknowledged messages and at no worker, without an event of the task between the
//! looks. If any place could not be searched, no task counts as lost. A lost task that is found here never decides how
//! a job ends: the loss can only start the next attempt early.

use std::collections::{BTreeSet, HashSet};

use tokio::time::sleep;

use super::subscription::JobSubscription;
use super::work_search::SECOND_LOOK_DELAY;
use super::worker_monitor::WorkerMonitor;
use crate::jobs::header::{FailedChunks, LossSigns};
use orch_celery::{GroupId, TaskId};

/// Result of a search for lost tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LossSearch {
    /// These tasks are lost; the list may be empty.
    Found(Vec<TaskId>),
    /// A place could not be searched.
    Unsure(String),
}

impl JobSubscription<'_> {
    /// Returns the tasks of the chord's header that have failed.
    pub(crate) fn failed_chunks(&self) -> FailedChunks {
        self.monitor.records().task_index.failed_chunks(&self.root)
    }

    /// Returns the signs that tasks of the chord's header are lost, or have failed.
    pub(crate) fn loss_signs(&self) -> LossSigns {
        self.monitor.records().task_index.loss_signs(&self.root)
    }

    /// Returns the lost tasks of this chord's header. Takes more than a second if a task may be lost.
    pub(crate) async fn losses(&self, group: &GroupId) -> LossSearch {
        match Box::pin(self.search_losses(group)).await {
            Ok(losses) => losses,
            Err(error) => LossSearch::Unsure(error.to_string()),
        }
    }

    async fn search_losses(&self, group: &GroupId) -> orch_celery::Result<LossSearch> {
        let candidates = self.monitor.records().task_index.loss_candidates(&self.root);
        let nowhere = match self.monitor.found_nowhere(&candidates).await? {
            Ok(nowhere) => nowhere,
            Err(reason) => return Ok(LossSearch::Unsure(reason)),
        };
        if nowhere.is_empty() {
            return Ok(LossSearch::Found(Vec::new()));
        }
        self.monitor.records().task_index.suspect(&self.root, nowhere);
        sleep(SECOND_LOOK_DELAY).await;
        let suspects = self.monitor.records().task_index.suspects(&self.root);
        let nowhere = match self.monitor.found_nowhere(&suspects).await? {
            Ok(nowhere) => nowhere,
            Err(reason) => return Ok(LossSearch::Unsure(reason)),
        };
        // The chord also counts a task with an ignored result.
        let Some(counted) = self.monitor.context.celery.counted_in_chord(group).await? else {
            return Ok(LossSearch::Found(Vec::new()));
        };
        let still: HashSet<TaskId> = self
            .monitor
            .records()
            .task_index
            .suspects(&self.root)
            .into_iter()
            .collect();
        let lost = nowhere
            .into_iter()
            .filter(|task| still.contains(task) && !counted.contains(task));
        let mut lost: Vec<TaskId> = lost.collect();
        lost.sort();
        Ok(LossSearch::Found(lost))
    }
}

impl WorkerMonitor {
    /// Returns the tasks that one look finds nowhere, or the reason why not every place could be searched.
    async fn found_nowhere(&self, tasks: &[TaskId]) -> orch_celery::Result<Result<HashSet<TaskId>, String>> {
        if tasks.is_empty() {
            return Ok(Ok(HashSet::new()));
        }
        if !self.context.workers_settled.is_settled() {
            return Ok(Err("a worker is being started or stopped".to_owned()));
        }
        let celery = &self.context.celery;
        let all = celery.broker_queues().await?;
        let mut queues: BTreeSet<String> = self.queues_to_search();
        queues.extend(all.messages.into_keys());
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let found = celery.search_tasks(tasks, &queues, self.stale_executions()).await?;
        if let Some(reason) = found.unseen.or(all.unseen) {
            return Ok(Err(reason));
        }
        if let Some(node) = self.context.shared_workers.living_without_answer(&found.answered) {
            return Ok(Err(format!("worker {node} is alive and has not listed its tasks")));
        }
        if found.answered.is_empty() {
            return Ok(Err("no worker answers".to_owned()));
        }
        Ok(Ok(found.not_found))
    }
}
