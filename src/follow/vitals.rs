//! Signs of life of a job: what a follower sees of it besides how far it is.
//!
//! Not here: what they say about its health (the sites' part), and how a job ends (`machine`).

use std::collections::HashSet;
use std::time::Duration;

use super::desk::Desk;
use super::ledger::Owner;
use crate::celery::{ChordProgress, Target, TaskId};

/// For workers to say what they are at.
const ANSWER: Duration = Duration::from_secs(1);

/// How one chunk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEnd {
    pub succeeded: bool,
    /// In its slot; a worker tells it of what succeeds.
    pub runtime: Option<Duration>,
}

/// What workers are at of a job of which nothing was heard for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtWork {
    /// So many of its tasks run.
    Running(u64),
    /// None runs: workers are at other tasks, or its own are to run later.
    Waiting,
    /// Workers answer, and none of them is at anything.
    Idle,
    /// No worker consumes the queues of the run.
    Deserted,
    /// Not all workers answer.
    Unknown,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vital {
    ChunkEnded(ChunkEnd),
    /// The chord's own counters were read.
    ChordRead(ChordProgress),
    /// A task was taken or begun, or is to be tried again.
    Moved,
    /// It was quiet for as long as the errand says, and was looked for.
    Looked(AtWork),
    /// Some seconds in which nothing was seen.
    TimePassed,
    /// A worker died, or orch itself stood still: what was quiet meanwhile says nothing.
    Disturbed,
}

impl Desk {
    /// Asks the workers what they are at of this job; `known` are tasks that are known to be its own.
    pub(super) async fn at_work(&self, root: &TaskId, known: &HashSet<TaskId>) -> AtWork {
        let control = self.control();
        let (active, scheduled) = tokio::join!(
            control.active(&Target::All, ANSWER),
            control.scheduled(&Target::All, ANSWER)
        );
        let (Ok(active), Ok(scheduled)) = (active, scheduled) else {
            return AtWork::Unknown;
        };
        if active.good().next().is_none() {
            return AtWork::Unknown;
        }
        // What a worker lists, and its process has left, is not at work.
        let ghosts = self.ghosts();
        let running: Vec<&TaskId> = active
            .good()
            .flat_map(|(_, tasks)| tasks)
            .filter(|task| task.time_start.is_some())
            .filter(|task| task.execution().is_none_or(|execution| !ghosts.contains(&execution)))
            .map(|task| &task.id)
            .collect();
        let is_ours = |task: &TaskId| known.contains(task) || self.owner(task) == Owner::Job(root.clone());
        let ours = running.iter().filter(|task| is_ours(task)).count();
        let is_for_later = || {
            let mut tasks = scheduled.good().flat_map(|(_, tasks)| tasks);
            tasks.any(|task| is_ours(&task.request.id))
        };
        if ours > 0 {
            AtWork::Running(u64::try_from(ours).unwrap_or(u64::MAX))
        } else if active.is_incomplete() {
            // A worker that has not answered may be at it.
            AtWork::Unknown
        } else if !running.is_empty() || is_for_later() {
            AtWork::Waiting
        } else {
            AtWork::Idle
        }
    }
}
