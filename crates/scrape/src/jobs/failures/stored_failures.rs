//! Failures that only stored results show: an app may send no task events, and events may be lost.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::exception_text;
use super::failure_log::FailureLog;
use crate::jobs::monitor::subscription::JobSubscription;
use orch_celery::{ResultStore, TaskFailure, TaskId, TaskOutcome, TaskState};

/// Number of failed tasks whose results are read completely. Further ones count without a signature.
const MAX_READ: usize = 500;
/// Time by which the event of a failure may come after the result. The event names the task and the worker, the result
/// does not.
const EVENT_GRACE: Duration = Duration::from_secs(2);
/// Time by which such an event may come if no worker has reported any task so far.
const UNSEEN_EVENT_GRACE: Duration = Duration::from_millis(300);

/// Notes the failures of these tasks by their stored results, unless their events come in time.
///
/// # Errors
/// The result backend does not answer within its deadline.
pub(crate) async fn note(
    results: &ResultStore,
    subscription: &JobSubscription<'_>,
    tasks: &[TaskId],
    log: &FailureLog,
) -> orch_celery::Result<()> {
    let mut open: Vec<&TaskId> = tasks.iter().filter(|task| !log.has_noted(task)).collect();
    let asked: Vec<TaskId> = open.iter().map(|task| (*task).clone()).collect();
    let outcomes = results.outcomes(&asked).await?;
    let mut outcomes = outcomes.iter();
    open.retain(|_| matches!(outcomes.next(), Some(Some(TaskOutcome::Failed | TaskOutcome::Revoked))));
    let mut read: Vec<(&TaskId, TaskFailure)> = Vec::new();
    for task in open {
        if read.len() == MAX_READ {
            log.note_unread(task);
            continue;
        }
        match results.get(task).await {
            Ok(Some(result)) => match result.state {
                TaskState::Failure(failure) | TaskState::Revoked(failure) => read.push((task, failure)),
                _ => {}
            },
            Ok(None) => {}
            // For example too large, or of another serializer: the failure counts, the text is not known.
            Err(error) if !error.is_transient() => log.note_unread(task),
            Err(error) => return Err(error),
        }
    }
    // A callback that never ran has no event; its failure stands for a task that may have one.
    let (callbacks, failed): (Vec<_>, Vec<_>) = read
        .into_iter()
        .partition(|(_, failure)| exception_text::of_chord_error(failure).is_some());
    let named = callbacks
        .iter()
        .filter_map(|(_, failure)| exception_text::of_chord_error(failure));
    let named: Vec<TaskId> = named.map(|(task, _)| task).collect();
    let awaited = failed.iter().map(|(task, _)| *task).chain(&named);
    until_noted(&awaited.collect::<Vec<_>>(), subscription, log).await;
    for (task, failure) in failed.iter().chain(&callbacks) {
        log.note_result(task, failure);
    }
    Ok(())
}

/// Waits until the events of these failed tasks have come, or are too late.
async fn until_noted(tasks: &[&TaskId], subscription: &JobSubscription<'_>, log: &FailureLog) {
    let grace = match subscription.has_events() {
        true => EVENT_GRACE,
        false => UNSEEN_EVENT_GRACE,
    };
    let deadline = Instant::now() + grace;
    while tasks.iter().any(|task| !log.has_noted(task)) {
        if timeout_at(deadline.into(), subscription.changed()).await.is_err() {
            return;
        }
    }
}
