//! Reads what is left of a job of which nothing is queued or running, and whether a chord's callback received all of its
//! header.
//!
//! Not here: what follows from it (`inventory`, `outcome`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::desk::Page;
use super::facts::Listed;
use super::inventory::{OpenChord, Remains};
use super::outcome::HeaderCheck;
use crate::celery::{self, Client, Descendants, GroupId, Results, TaskId};

/// Groups of one job whose counters are read.
const GROUPS: usize = 200;
/// Header tasks with a known end that show whether the app stores results at all.
const SAMPLE: usize = 3;
/// The event of a task's end comes after its callback was called, by less than this.
const EVENT_TIMEOUT: Duration = Duration::from_secs(3);
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Reads the stored results of all tasks that are known, of those that they started, and the counters of their chords.
pub(super) async fn read(client: &Client, page: &Page<'_>, listed: Option<&Listed>) -> celery::Result<Remains> {
    let events = page.tasks();
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
    adopt_strays(client, page, &mut stored).await?;
    let open_chords = open_chords(client, &mut stored).await?;
    Ok(Remains {
        events,
        stored,
        open_chords,
        is_recorded: listed.is_some(),
        ..Remains::default()
    })
}

/// Adds revoked tasks that no worker has received and that are the job's by their parent or their group.
async fn adopt_strays(client: &Client, page: &Page<'_>, stored: &mut Descendants) -> celery::Result<()> {
    for task in page.strays() {
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
            stored.adopt(&result);
        }
    }
    Ok(())
}

async fn open_chords(client: &Client, stored: &mut Descendants) -> celery::Result<Vec<OpenChord>> {
    let mut open = Vec::new();
    for group in stored.groups.iter().take(GROUPS) {
        let chord = match client.chord_progress(group).await {
            // Such as a key of another type: asking again would not help, and the callback's result decides.
            Err(error) if !error.is_transient() => {
                tracing::warn!(%error, %group, "the counters of a chord cannot be read");
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
    if stored.groups.len() > GROUPS {
        stored.unread = Some(format!("the job has more than {GROUPS} groups"));
    }
    Ok(open)
}

/// Compares a chord's header with what its callback can have received. Celery stores a task's result before it counts the task
/// in its chord: a task without a result when the callback runs is not counted, and another is counted twice.
pub(super) async fn check_header(results: Results, page: Arc<Page<'_>>, header: Vec<TaskId>) -> HeaderCheck {
    let Some(open) = page.open_header().filter(|open| !open.is_empty()) else {
        return HeaderCheck::Passed;
    };
    let is_open: HashSet<&TaskId> = open.iter().collect();
    let sample = header.iter().filter(|task| !is_open.contains(task)).take(SAMPLE);
    let asked: Vec<TaskId> = open.iter().chain(sample).cloned().collect();
    let outcomes = loop {
        match results.outcomes(&asked).await {
            Ok(outcomes) => break outcomes,
            // The job's deadline ends this.
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
        let open: HashSet<TaskId> = page.open_header().into_iter().flatten().collect();
        missing.retain(|task| open.contains(task));
    }
    let events = page.tasks();
    let is_unknown = !are_stored && (events.is_broken || events.is_silent);
    if missing.is_empty() || is_unknown {
        HeaderCheck::Passed
    } else {
        missing.sort();
        HeaderCheck::Missing(missing)
    }
}
