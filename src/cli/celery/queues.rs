//! `orch celery queues`: how much waits, by priority, who consumes it, and what is taken and not acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, converse};
use crate::celery::{Client, Consumed, Consumers, Target, UnackedMessage};
use crate::cli::Refusal;
use crate::cli::output::{print, print_json, say};
use crate::cli::table::table;
use crate::printable::one_line;
use crate::run::Outcome;
use crate::ui::span;

/// How long workers have to say what they consume.
const PATIENCE: Duration = Duration::from_secs(2);
/// More unacknowledged messages than this are not listed.
const LONGEST_LIST: usize = 10_000;
/// Queues whose keys are read for the app's separator and steps where no worker answers.
const MOST_SHOWING: usize = 100;

/// Shows the depth of queues by priority, their consumers, and the messages that are taken and not acknowledged
#[derive(Args, Debug)]
pub struct QueuesArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Which queues, separated by commas [default: all of the broker; with --check or --quarantine those that the workers
    /// consume]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    queues: Vec<String>,
    /// Also list the messages that are taken and not acknowledged
    #[arg(long)]
    unacked: bool,
    /// Look for messages that end the workers which take them (exit code 1: there are such)
    #[arg(long, conflicts_with = "unacked")]
    check: bool,
    /// Look for them and move them to the list orch:quarantine:<queue>, where they are kept
    #[arg(long, conflicts_with = "unacked")]
    quarantine: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Depth by queue and priority step.
type Depths = BTreeMap<String, BTreeMap<u8, u64>>;

/// Runs the subcommand; the exit code.
pub fn main(args: &QueuesArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let failed = |error: crate::celery::Error| Refusal::because(Outcome::InfrastructureFailed, error.to_string());
    if args.check || args.quarantine {
        let checked = converse(async {
            args.connect.name_lists(&client, &args.queues).await?;
            super::poison::check(&client, &args.queues, args.quarantine, args.json).await
        });
        return checked?.map_err(failed);
    }
    let seen = converse(look(&client, args))?.map_err(failed)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let age = |taken_at: f64| (now - taken_at).max(0.0);
    let oldest = seen.messages.first().map(|message| age(message.taken_at));
    if args.json {
        let messages = seen.messages.iter().map(|message| {
            let task = message.task.as_ref();
            json!({
                "id": task.map(|task| &task.id),
                "task": task.and_then(|task| task.name.as_ref()),
                "queue": task.and_then(|task| task.routing_key.as_ref()),
                "taken_s": age(message.taken_at),
            })
        });
        let consumers: BTreeMap<&String, Vec<_>> = seen
            .depths
            .keys()
            .map(|queue| (queue, seen.consumers.of_queue(queue).collect()))
            .collect();
        let mut object = json!({
            "queues": seen.depths,
            "consumers": consumers,
            "unanswered": seen.consumers.unknown,
            "unacked": seen.unacked,
            "oldest_unacked_s": oldest,
        });
        if let Some(unseen) = &seen.unseen {
            object["unseen"] = json!(unseen);
        }
        if args.unacked {
            object["unacked_messages"] = messages.collect();
        }
        print_json(&object);
        return Ok(0);
    }
    for line in depths_table(&seen.depths, &seen.consumers) {
        print(&line);
    }
    if let Some(unseen) = &seen.unseen {
        say(&format!("warning: there may be more queues: {unseen}"));
    }
    let oldest = oldest.map(|seconds| format!(", the oldest taken {} ago", span(seconds)));
    print(&format!(
        "unacknowledged: {}{}",
        seen.unacked,
        oldest.unwrap_or_default()
    ));
    if args.unacked && !seen.messages.is_empty() {
        let rows: Vec<Vec<String>> = seen
            .messages
            .iter()
            .map(|message| {
                let unknown = || "?".to_owned();
                let task = message.task.as_ref();
                vec![
                    task.map_or_else(unknown, |task| task.id.to_string()),
                    span(age(message.taken_at)),
                    task.and_then(|task| task.routing_key.clone()).unwrap_or_else(unknown),
                    task.and_then(|task| task.name.clone()).unwrap_or_else(unknown),
                ]
            })
            .collect();
        table(&["ID", "TAKEN FOR", "QUEUE", "TASK"], &rows)
            .iter()
            .for_each(|line| print(line));
    }
    Ok(0)
}

/// What was seen.
struct Seen {
    depths: Depths,
    consumers: Consumers,
    /// Why there may be more queues.
    unseen: Option<String>,
    unacked: u64,
    /// The oldest only, unless all are wanted.
    messages: Vec<UnackedMessage>,
}

/// The queues that are named, else those that the workers consume.
pub async fn queue_names(client: &Client, named: &[String]) -> crate::celery::Result<Vec<String>> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let replies = client.control().active_queues(&Target::All, PATIENCE).await?;
    let mut names: Vec<String> = replies
        .good()
        .flat_map(|(_, queues)| queues)
        .map(|queue| queue.name.clone())
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

async fn look(client: &Client, args: &QueuesArgs) -> crate::celery::Result<Seen> {
    let control = client.control();
    let consumers = Consumers::of(&control.active_queues(&Target::All, PATIENCE).await?);
    let mut unseen = None;
    let names: BTreeSet<String> = match args.queues.as_slice() {
        [] => {
            let consumed: Vec<String> = consumers.names().map(str::to_owned).collect();
            // The separator decides which queue a list belongs to.
            args.connect.name_lists(client, &consumed).await?;
            let mut found = client.broker_queues().await?;
            if consumed.is_empty() {
                let before = client.transport();
                let shown: Vec<String> = found.messages.keys().take(MOST_SHOWING).cloned().collect();
                args.connect.name_lists(client, &shown).await?;
                if client.transport() != before {
                    found = client.broker_queues().await?;
                }
            }
            unseen = found.unseen;
            found.messages.into_keys().chain(consumed).collect()
        }
        named => {
            args.connect.name_lists(client, named).await?;
            named.iter().cloned().collect()
        }
    };
    let mut depths = Depths::new();
    for name in names {
        let depth = client.queue_depth(&name).await?;
        depths.insert(name, depth);
    }
    Ok(Seen {
        depths,
        consumers,
        unseen,
        unacked: client.unacked_count().await?,
        messages: client
            .unacked_messages(if args.unacked { LONGEST_LIST } else { 1 })
            .await?,
    })
}

/// Consumers that one line names; further ones are counted.
const NAMED: usize = 3;

fn consumers_of(queue: &str, consumers: &Consumers) -> String {
    let nodes: Vec<String> = consumers.of_queue(queue).map(|node| one_line(node.as_str())).collect();
    match (consumers.consumed(queue), nodes.len().saturating_sub(NAMED)) {
        (Consumed::Yes, 0) => nodes.join(", "),
        (Consumed::Yes, more) => format!("{} and {more} more", nodes[..NAMED].join(", ")),
        (Consumed::No, _) => "none".to_owned(),
        (Consumed::Unknown, _) if consumers.queues.is_empty() => "no worker answers".to_owned(),
        (Consumed::Unknown, _) => "none that answers".to_owned(),
    }
}

fn depths_table(depths: &Depths, consumers: &Consumers) -> Vec<String> {
    if depths.is_empty() {
        return vec!["the broker has no queue, and no worker answers that consumes one".to_owned()];
    }
    let width = depths
        .keys()
        .map(|name| one_line(name).chars().count())
        .max()
        .unwrap_or(0)
        .max("QUEUE".len());
    let steps: BTreeSet<&u8> = depths.values().flat_map(BTreeMap::keys).collect();
    let steps: Vec<String> = steps.into_iter().map(u8::to_string).collect();
    let steps = format!("PRIORITY {}", steps.join("/"));
    let steps_width = steps.len().max(16);
    let mut lines = vec![format!(
        "{:<width$}  {:>8}  {steps:<steps_width$}  CONSUMERS",
        "QUEUE", "MESSAGES"
    )];
    for (name, depth) in depths {
        let total: u64 = depth.values().sum();
        let steps: Vec<String> = depth.values().map(u64::to_string).collect();
        lines.push(format!(
            "{:<width$}  {total:>8}  {:<steps_width$}  {}",
            one_line(name),
            steps.join("/"),
            consumers_of(name, consumers)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::NodeName;

    #[test]
    fn a_line_a_queue() {
        let depth = BTreeMap::from([(0, 3), (3, 0), (6, 0), (9, 1)]);
        let depths = Depths::from([("celery".to_owned(), depth.clone()), ("slow".to_owned(), depth)]);
        let nodes = ["w1@h", "w2@h", "w3@h", "w4@h"].map(|node| (NodeName::from(node), ["celery".to_owned()].into()));
        let consumers = Consumers {
            queues: nodes.into(),
            unknown: 0,
        };
        assert_eq!(
            depths_table(&depths, &consumers),
            [
                "QUEUE   MESSAGES  PRIORITY 0/3/6/9  CONSUMERS",
                "celery         4  3/0/0/1           w1@h, w2@h, w3@h and 1 more",
                "slow           4  3/0/0/1           none",
            ]
        );
        let silent = Consumers {
            unknown: 1,
            ..consumers
        };
        assert!(depths_table(&depths, &silent)[2].ends_with("none that answers"));
        assert!(depths_table(&depths, &Consumers::default())[1].ends_with("no worker answers"));
    }
}
