//! `orch celery queues --check` and `--quarantine`: finds messages that end the worker that takes them.

use std::collections::BTreeSet;

use serde_json::json;

use super::consumed_queues::consumed_queues;
use crate::commands::output::{print, print_json};
use orch_base::text::printable::{one_line, shortened};
use orch_celery::{Client, DEFAULT_QUEUE, HarmfulMessage, MessageHarm, MessagePlace};

/// Number of characters of a message that are shown.
const SHOWN: usize = 120;

/// Searches the queues for harmful messages and moves deadly ones to the quarantine if `quarantine` is set. Returns 1
/// if deadly messages are left in the queues.
pub async fn check(client: &Client, named: &[String], quarantine: bool, as_json: bool) -> anyhow::Result<u8> {
    let mut queues = named.to_vec();
    if queues.is_empty() {
        let replies = consumed_queues(client).await?;
        let consumed = replies.good().flat_map(|(_, queues)| queues);
        let names: BTreeSet<String> = consumed.map(|queue| queue.name.clone()).collect();
        queues.extend(names);
    }
    if queues.is_empty() {
        // Deadly messages may have ended all workers, and then no worker reports its queues.
        queues.push(DEFAULT_QUEUE.to_owned());
    }
    let inspection = client.inspect_messages(&queues).await?;
    let mut found = Vec::new();
    for harmful in &inspection.harmful {
        let moved = match quarantine && harmful.diagnosis.harm == MessageHarm::EndsWorker {
            true => Some(client.quarantine(harmful).await?),
            false => None,
        };
        found.push((harmful, moved));
    }
    let deadly = found
        .iter()
        .filter(|(harmful, _)| harmful.diagnosis.harm == MessageHarm::EndsWorker);
    // A message that a worker has taken during the check counts as left: the worker ends and the message returns.
    let left = deadly.filter(|(_, moved)| *moved != Some(true)).count();
    if as_json {
        let items: Vec<_> = found
            .iter()
            .map(|(harmful, moved)| as_object(harmful, *moved))
            .collect();
        let object = json!({
            "queues": queues,
            "looked_at": inspection.inspected,
            "harmful": items,
            "deadly_left": left,
            "not_looked_at": inspection.truncated_lists,
        });
        print_json(&object);
        return Ok(u8::from(left > 0));
    }
    for (harmful, moved) in &found {
        print(&line(harmful, *moved));
    }
    for list in &inspection.truncated_lists {
        print(&format!("{} has more messages than were inspected", one_line(list)));
    }
    print(&format!(
        "{} messages inspected in {} and among the unacknowledged; {left} messages that end a worker are left",
        inspection.inspected,
        one_line(&queues.join(", ")),
    ));
    Ok(u8::from(left > 0))
}

fn place(harmful: &HarmfulMessage) -> String {
    match &harmful.place {
        MessagePlace::Queued { queue, step: 0 } => queue.clone(),
        MessagePlace::Queued { queue, step } => format!("{queue} (priority {step})"),
        MessagePlace::Unacked { .. } => "unacknowledged".to_owned(),
    }
}

fn line(harmful: &HarmfulMessage, moved: Option<bool>) -> String {
    let harm = match harmful.diagnosis.harm {
        MessageHarm::EndsWorker => "ends workers",
        MessageHarm::Dropped => "is dropped by workers",
    };
    let done = match moved {
        Some(true) => ", moved to the quarantine",
        Some(false) => ", already taken by a worker",
        None => "",
    };
    let name = match (&harmful.task, &harmful.id) {
        (Some(task), Some(id)) => format!(" task {task} {id}"),
        (None, Some(id)) => format!(" task {id}"),
        (_, None) => String::new(),
    };
    let item = String::from_utf8_lossy(&harmful.item);
    one_line(&format!(
        "{}:{name} {harm}{done}: {}: {}",
        place(harmful),
        harmful.diagnosis.reason,
        shortened(&item, SHOWN)
    ))
}

fn as_object(harmful: &HarmfulMessage, moved: Option<bool>) -> serde_json::Value {
    json!({
        "place": place(harmful),
        "deadly": harmful.diagnosis.harm == MessageHarm::EndsWorker,
        "reason": harmful.diagnosis.reason,
        "id": harmful.id,
        "task": harmful.task,
        "quarantined": moved,
        "message": shortened(&String::from_utf8_lossy(&harmful.item), SHOWN),
    })
}
