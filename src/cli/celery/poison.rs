//! `orch celery queues --check` and `--quarantine`: messages that end the workers which take them.

use serde_json::json;

use super::queues::queue_names;
use crate::celery::{Client, DEFAULT_QUEUE, Harm, Harmful, Place, Result};
use crate::cli::output::{print, print_json};
use crate::printable::{one_line, shortened};

/// Characters of a message that are shown.
const SHOWN: usize = 120;

/// Looks through the queues, moves deadly messages aside if asked; 1 when some are left where they do harm.
pub async fn check(client: &Client, named: &[String], quarantine: bool, as_json: bool) -> Result<u8> {
    let mut queues = queue_names(client, named).await?;
    if queues.is_empty() {
        // Poison has ended all workers: nobody says what they consumed.
        queues.push(DEFAULT_QUEUE.to_owned());
    }
    let inspection = client.inspect_messages(&queues).await?;
    let mut found = Vec::new();
    for harmful in &inspection.harmful {
        let moved = match quarantine && harmful.diagnosis.harm == Harm::Deadly {
            true => Some(client.quarantine(harmful).await?),
            false => None,
        };
        found.push((harmful, moved));
    }
    let deadly = found
        .iter()
        .filter(|(harmful, _)| harmful.diagnosis.harm == Harm::Deadly);
    // What was taken meanwhile is in a worker's hands, and back in the queue soon.
    let left = deadly.filter(|(_, moved)| *moved != Some(true)).count();
    if as_json {
        let items: Vec<_> = found
            .iter()
            .map(|(harmful, moved)| as_object(harmful, *moved))
            .collect();
        let object = json!({
            "queues": queues,
            "looked_at": inspection.looked_at,
            "harmful": items,
            "deadly_left": left,
            "not_looked_at": inspection.cut,
        });
        print_json(&object);
        return Ok(u8::from(left > 0));
    }
    for (harmful, moved) in &found {
        print(&line(harmful, *moved));
    }
    for list in &inspection.cut {
        print(&format!("{} is longer than was looked at", one_line(list)));
    }
    print(&format!(
        "{} messages looked at in {} and among the unacknowledged; {left} of those that end a worker are left",
        inspection.looked_at,
        one_line(&queues.join(", ")),
    ));
    Ok(u8::from(left > 0))
}

fn place(harmful: &Harmful) -> String {
    match &harmful.place {
        Place::Queued { queue, step: 0 } => queue.clone(),
        Place::Queued { queue, step } => format!("{queue} (priority {step})"),
        Place::Unacked { .. } => "unacknowledged".to_owned(),
    }
}

fn line(harmful: &Harmful, moved: Option<bool>) -> String {
    let harm = match harmful.diagnosis.harm {
        Harm::Deadly => "ends workers",
        Harm::Dropped => "is dropped by workers",
    };
    let done = match moved {
        Some(true) => ", moved aside",
        Some(false) => ", taken meanwhile",
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

fn as_object(harmful: &Harmful, moved: Option<bool>) -> serde_json::Value {
    json!({
        "place": place(harmful),
        "deadly": harmful.diagnosis.harm == Harm::Deadly,
        "reason": harmful.diagnosis.reason,
        "id": harmful.id,
        "task": harmful.task,
        "quarantined": moved,
        "message": shortened(&String::from_utf8_lossy(&harmful.item), SHOWN),
    })
}
