//! Reads the remains of a job of which nothing is queued or running, and compares a chord's header with the results
//! that the callback received.
//!
//! Not here: the conclusions ([`super::inventory`], [`super::outcome`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::inputs::ListedTasks;
use super::inventory::{JobRemains, OpenChord};
use super::monitor::subscription::JobSubscription;
use super::outcome::HeaderCheck;
use orch_celery::{Client, GroupId, ResultStore, TaskDescendants, TaskId};

/// Number of groups of one job for which the counters are read.
const MAX_GROUPS: usize = 200;
/// Number of header tasks with a known end that show whether the app stores results at all.
const SAMPLE_SIZE: usize = 3;
/// Longest time by which the event of a task's end comes after the call of the chord's callback.
const EVENT_TIMEOUT: Duration = Duration::from_secs(3);
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Reads the stored results of all known tasks and of the tasks that they started, and the counters of their chords.
pub(crate) async fn read(
    client: &Client,
    subscription: &JobSubscription<'_>,
    listed: Option<&ListedTasks>,
) -> orch_celery::Result<JobRemains> {
    let events = subscription.tasks();
    let listed_tasks = listed.iter().flat_map(|listed| listed.all());
    let known: HashSet<&TaskId> = events
        .ended
        .keys()
        .chain(&events.unfinished)
        .chain(&events.seen_waiting)
        .chain(listed_tasks)
        .collect();
    let known: Vec<TaskId> = known.into_iter().cloned().collect();
    let mut stored = client.results().descendants(&known).await?;
    stored.mark_listed(listed.iter().flat_map(|listed| listed.all()));
    for group in listed.iter().flat_map(|listed| &listed.groups) {
        stored.groups.insert(GroupId::from(group.as_str()));
    }
    adopt_strays(client, subscription, &mut stored).await?;
    let open_chords = open_chords(client, &mut stored).await?;
    Ok(JobRemains {
        events,
        stored,
        open_chords,
        is_recorded: listed.is_some(),
        ..JobRemains::default()
    })
}

/// Adds revoked tasks that no worker has received and that belong to the job by their parent or their group.
async fn adopt_strays(
    client: &Client,
    subscription: &JobSubscription<'_>,
    stored: &mut TaskDescendants,
) -> orch_celery::Result<()> {
    for task in subscription.strays() {
        if stored.tasks.contains_key(&task) {
            continue;
        }
        let Ok(Some(result)) = client.results().get(&task).await else {
            continue;
        };
        let is_child = result
            .parent_id
            .as_ref()
            .is_some_and(|parent| stored.tasks.contains_key(parent));
        let is_member = result
            .group_id
            .as_ref()
            .is_some_and(|group| stored.groups.contains(group));
        if is_child || is_member {
            stored.add_result(&result);
        }
    }
    Ok(())
}

async fn open_chords(client: &Client, stored: &mut TaskDescendants) -> orch_celery::Result<Vec<OpenChord>> {
    let mut open = Vec::new();
    for group in stored.groups.iter().take(MAX_GROUPS) {
        let chord = match client.chord_progress(group).await {
            // For example a key of another type: another try would not help, and the callback's result decides.
            Err(error) if !error.is_transient() => {
                tracing::warn!(%error, %group, "could not read the counters of a chord");
                continue;
            }
            chord => chord?,
        };
        if let Some(chord) = chord {
            open.push(OpenChord {
                group: group.clone(),
                size: chord.total,
                counted: chord.done.saturating_sub(chord.failed),
            });
        }
    }
    if stored.groups.len() > MAX_GROUPS {
        stored.incomplete_reason = Some(format!("the job has more than {MAX_GROUPS} groups"));
    }
    Ok(open)
}

/// Compares a chord's header with the results that the callback can have received. Celery stores a task's result before
/// the chord counts the task: a task without a result when the callback runs is not counted, and another task is
/// counted twice.
pub(crate) async fn check_header(
    results: ResultStore,
    subscription: Arc<JobSubscription<'_>>,
    header: Vec<TaskId>,
) -> HeaderCheck {
    let Some(open) = subscription.open_header().filter(|open| !open.is_empty()) else {
        return HeaderCheck::Passed;
    };
    let is_open: HashSet<&TaskId> = open.iter().collect();
    let sample = header.iter().filter(|task| !is_open.contains(task)).take(SAMPLE_SIZE);
    let asked: Vec<TaskId> = open.iter().chain(sample).cloned().collect();
    let outcomes = loop {
        match results.outcomes(&asked).await {
            Ok(outcomes) => break outcomes,
            // The job's deadline ends this loop.
            Err(_) => sleep(EVENT_POLL_INTERVAL).await,
        }
    };
    let are_stored = outcomes.iter().any(Option::is_some);
    let mut missing: Vec<TaskId> = open
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_none())
        .map(|(task, _)| task.clone())
        .collect();
    let give_up = Instant::now() + EVENT_TIMEOUT;
    while !are_stored && !missing.is_empty() && Instant::now() < give_up {
        sleep(EVENT_POLL_INTERVAL).await;
        let open: HashSet<TaskId> = subscription.open_header().into_iter().flatten().collect();
        missing.retain(|task| open.contains(task));
    }
    let events = subscription.tasks();
    let is_unknown = !are_stored && (events.is_incomplete || events.has_no_event);
    if missing.is_empty() || is_unknown {
        HeaderCheck::Passed
    } else {
        missing.sort();
        HeaderCheck::Missing(missing)
    }
}
