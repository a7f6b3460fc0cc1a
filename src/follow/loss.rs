//! Looks for tasks of a chord's header that are lost while others of the job still run.
//!
//! A task is lost when a worker had taken it, its chord does not count it, it has no final result, and two looks, between
//! which no event of it came, find it in no queue, among no unacknowledged messages and at no worker. Where anything could not
//! be looked at, nothing is said. What is found here never decides how a job ends: it can only begin the next attempt early.

use std::collections::{BTreeSet, HashSet};

use tokio::time::sleep;

use super::desk::{Desk, Page, SECOND_LOOK_AFTER};
use super::header::FailedChunks;
use crate::celery::{self, GroupId, TaskId};

/// What a search for lost tasks has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Losses {
    /// These are lost; none may be.
    Found(Vec<TaskId>),
    /// Something could not be looked at.
    Unsure(String),
}

/// Signs that tasks of a chord's header are lost, or have failed; a change is worth a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossSigns {
    pub failed: u64,
    /// Tasks whose message a worker threw away.
    pub rejected: usize,
    /// Rises each time when events may have been missed.
    pub gaps: u64,
}

impl Page<'_> {
    /// Tasks of the chord's header that have failed.
    pub(super) fn failed_chunks(&self) -> FailedChunks {
        self.desk.books().ledger.failed_chunks(&self.root)
    }

    /// Signs that tasks of the chord's header are lost, or have failed.
    pub(super) fn loss_signs(&self) -> LossSigns {
        self.desk.books().ledger.loss_signs(&self.root)
    }

    /// The tasks of the header of this chord that are lost. Takes more than a second where one may be.
    pub(super) async fn losses(&self, group: &GroupId) -> Losses {
        match Box::pin(self.look_for_losses(group)).await {
            Ok(losses) => losses,
            Err(error) => Losses::Unsure(error.to_string()),
        }
    }

    async fn look_for_losses(&self, group: &GroupId) -> celery::Result<Losses> {
        let candidates = self.desk.books().ledger.loss_candidates(&self.root);
        let nowhere = match self.desk.nowhere(&candidates).await? {
            Ok(nowhere) => nowhere,
            Err(reason) => return Ok(Losses::Unsure(reason)),
        };
        if nowhere.is_empty() {
            return Ok(Losses::Found(Vec::new()));
        }
        self.desk.books().ledger.suspect(&self.root, nowhere);
        sleep(SECOND_LOOK_AFTER).await;
        let suspects = self.desk.books().ledger.suspects(&self.root);
        let nowhere = match self.desk.nowhere(&suspects).await? {
            Ok(nowhere) => nowhere,
            Err(reason) => return Ok(Losses::Unsure(reason)),
        };
        // A task whose result is ignored is counted all the same.
        let Some(counted) = self.desk.context.celery.counted_in_chord(group).await? else {
            return Ok(Losses::Found(Vec::new()));
        };
        let still: HashSet<TaskId> = self.desk.books().ledger.suspects(&self.root).into_iter().collect();
        let lost = nowhere
            .into_iter()
            .filter(|task| still.contains(task) && !counted.contains(task));
        let mut lost: Vec<TaskId> = lost.collect();
        lost.sort();
        Ok(Losses::Found(lost))
    }
}

impl Desk {
    /// Those of these tasks that one look finds nowhere; the reason, where not everything could be looked at.
    async fn nowhere(&self, tasks: &[TaskId]) -> celery::Result<Result<HashSet<TaskId>, String>> {
        if tasks.is_empty() {
            return Ok(Ok(HashSet::new()));
        }
        if !self.context.workers_settled.now() {
            return Ok(Err("a worker is being started or stopped".to_owned()));
        }
        let celery = &self.context.celery;
        let all = celery.broker_queues().await?;
        let mut queues: BTreeSet<String> = self.queues_to_look_at();
        queues.extend(all.messages.into_keys());
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let found = celery.look_for(tasks, &queues, self.ghosts()).await?;
        if let Some(reason) = found.unseen.or(all.unseen) {
            return Ok(Err(reason));
        }
        if let Some(node) = self.context.shared.living_beyond(&found.answered) {
            return Ok(Err(format!("worker {node} lives and has not said what it holds")));
        }
        if found.answered.is_empty() {
            return Ok(Err("no worker answers".to_owned()));
        }
        Ok(Ok(found.nowhere))
    }
}
