//! Ending what is left of a job that must not go on: its tasks are revoked, running ones with SIGTERM, now and whenever a
//! worker comes that may not have heard of it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::celery::{Signal, Target, TaskId};
use crate::follow::{Context, Desk};

/// What was done about the end of a job.
pub(super) struct Ended {
    /// So many tasks were revoked.
    pub tasks: usize,
    /// A worker has heard of it.
    pub heard: bool,
}

/// Revokes these tasks and those that the `first` of them have started, as far as their results tell. What Redis and the
/// workers have not answered within the time given is left to the desk.
///
/// Not found: what a task has started whose result is ignored or not there yet, unless it is given.
pub(super) async fn end_work(
    context: &Context,
    desk: &Desk,
    first: &[TaskId],
    others: impl IntoIterator<Item = TaskId>,
    within: Duration,
) -> Ended {
    let client = context.celery.with_deadline(within);
    let mut tasks: BTreeSet<TaskId> = first.iter().cloned().chain(others).collect();
    let results = client.results();
    // Half of the time: what is known already must be revoked in any case.
    let answers = timeout(within / 2, join_all(first.iter().map(|task| results.get(task)))).await;
    for result in answers.into_iter().flatten().filter_map(|answer| answer.ok().flatten()) {
        tasks.extend(result.children.groups.into_iter().flat_map(|group| group.tasks));
        tasks.extend(result.children.tasks);
    }
    let tasks: Vec<TaskId> = tasks.into_iter().collect();
    let revoked = client
        .control()
        .revoke(&tasks, Some(Signal::Term), &Target::All, within / 2)
        .await;
    if let Err(error) = &revoked {
        tracing::warn!(%error, tasks = tasks.len(), "what is left of a job cannot be revoked");
    }
    let ended = Ended {
        tasks: tasks.len(),
        heard: revoked.is_ok_and(|replies| replies.answers > 0),
    };
    desk.ban(tasks);
    ended
}
