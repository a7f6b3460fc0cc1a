//! `orch celery queues`: shows the queues with their depths by priority, their consumers, and the unacknowledged
//! messages.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, block_on};
use super::consumed_queues::consumed_queues;
use crate::commands::output::{print, print_json, print_message};
use crate::commands::table::table;
use orch_base::text::printable::one_line;
use orch_base::wall_clock::unix_now;
use orch_celery::{Client, ConsumerPresence, Consumers, UnackedMessage};
use orch_views::span;

/// Maximum number of unacknowledged messages that are listed.
const LONGEST_LIST: usize = 10_000;
/// Maximum number of queues with keys that are read to find the app's separator and priority steps, if no worker
/// answers.
const MAX_OBSERVED_QUEUES: usize = 100;

/// Shows the queues: number of messages by priority, consumers, and messages that workers have taken and not
/// acknowledged
#[derive(Args, Debug)]
pub struct QueuesArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Names of queues, separated by commas [default: all queues of the broker; with --check or --quarantine the queues
    /// that workers consume]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    queues: Vec<String>,
    /// Also list the messages that workers have taken and not acknowledged
    #[arg(long)]
    unacked: bool,
    /// Search for messages that end the worker that takes them (exit code 1: there are some)
    #[arg(long, conflicts_with = "unacked")]
    check: bool,
    /// Search for messages that end the worker that takes them, and move them to the Redis list
    /// `orch:quarantine:<queue>`
    #[arg(long, conflicts_with = "unacked")]
    quarantine: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Number of messages by queue and priority step.
type QueueDepths = BTreeMap<String, BTreeMap<u8, u64>>;

/// Runs the subcommand and returns the exit code.
pub fn main(args: &QueuesArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    if args.check || args.quarantine {
        return block_on(async {
            args.connect.name_lists(&client, &args.queues).await?;
            super::poison::check(&client, &args.queues, args.quarantine, args.json).await
        });
    }
    let seen = block_on(look(&client, args))?;
    let now = unix_now().as_secs_f64();
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
        print_message(&format!("warning: there may be more queues: {unseen}"));
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

/// Observed state of the queues.
struct ObservedQueues {
    depths: QueueDepths,
    consumers: Consumers,
    /// Reason why there may be more queues.
    unseen: Option<String>,
    unacked: u64,
    /// Unacknowledged messages: only the oldest, unless `--unacked` is given.
    messages: Vec<UnackedMessage>,
}

async fn look(client: &Client, args: &QueuesArgs) -> anyhow::Result<ObservedQueues> {
    let consumers = Consumers::of(&consumed_queues(client).await?);
    let mut unseen = None;
    let names: BTreeSet<String> = match args.queues.as_slice() {
        [] => {
            let consumed: Vec<String> = consumers.names().map(str::to_owned).collect();
            // The separator decides to which queue a Redis list belongs.
            args.connect.name_lists(client, &consumed).await?;
            let mut found = client.broker_queues().await?;
            if consumed.is_empty() {
                let before = client.transport();
                let shown: Vec<String> = found.messages.keys().take(MAX_OBSERVED_QUEUES).cloned().collect();
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
    let mut depths = QueueDepths::new();
    for name in names {
        let depth = client.queue_depth(&name).await?;
        depths.insert(name, depth);
    }
    Ok(ObservedQueues {
        depths,
        consumers,
        unseen,
        unacked: client.unacked_count().await?,
        messages: client
            .unacked_messages(if args.unacked { LONGEST_LIST } else { 1 })
            .await?,
    })
}

/// Number of consumers that one line names; further consumers are only counted.
const MAX_NAMED_CONSUMERS: usize = 3;

fn consumers_of(queue: &str, consumers: &Consumers) -> String {
    let nodes: Vec<String> = consumers.of_queue(queue).map(|node| one_line(node.as_str())).collect();
    match (
        consumers.consumed(queue),
        nodes.len().saturating_sub(MAX_NAMED_CONSUMERS),
    ) {
        (ConsumerPresence::Yes, 0) => nodes.join(", "),
        (ConsumerPresence::Yes, more) => format!("{} and {more} more", nodes[..MAX_NAMED_CONSUMERS].join(", ")),
        (ConsumerPresence::No, _) => "none".to_owned(),
        (ConsumerPresence::Unknown, _) if consumers.queues.is_empty() => "no worker answers".to_owned(),
        (ConsumerPresence::Unknown, _) => "none that answers".to_owned(),
    }
}

fn depths_table(depths: &QueueDepths, consumers: &Consumers) -> Vec<String> {
    if depths.is_empty() {
        return vec!["the broker has no queue, and no worker that answers consumes one".to_owned()];
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
    use orch_celery::NodeName;

    #[test]
    fn each_queue_has_one_line() {
        let depth = BTreeMap::from([(0, 3), (3, 0), (6, 0), (9, 1)]);
        let depths = QueueDepths::from([("celery".to_owned(), depth.clone()), ("slow".to_owned(), depth)]);
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
