//! `orch celery queues`: how much waits, by priority, and what is taken and not acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, converse, print};
use crate::celery::{Client, Target};
use crate::cli::Refusal;
use crate::run::Outcome;
use crate::ui::one_line;

/// How long workers have to say what they consume.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows the depth of queues by priority, and the messages that are taken and not acknowledged
#[derive(Args, Debug)]
pub struct QueuesArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Which queues, separated by commas [default: those that the workers consume]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    queues: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Depth by queue and priority step.
type Depths = BTreeMap<String, BTreeMap<u8, u64>>;

/// Runs the subcommand; the exit code.
pub fn main(args: &QueuesArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let (depths, unacked) = converse(look(&client, &args.queues))?
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    if args.json {
        print(&json!({ "queues": depths, "unacked": unacked }).to_string());
        return Ok(0);
    }
    for line in table(&depths) {
        print(&line);
    }
    print(&format!("unacknowledged: {unacked}"));
    Ok(0)
}

async fn look(client: &Client, named: &[String]) -> crate::celery::Result<(Depths, u64)> {
    let mut names: Vec<String> = named.to_vec();
    if names.is_empty() {
        let replies = client.control().active_queues(&Target::All, PATIENCE).await?;
        names = replies
            .good()
            .flat_map(|(_, queues)| queues)
            .map(|queue| queue.name.clone())
            .collect();
        names.sort();
        names.dedup();
    }
    let mut depths = Depths::new();
    for name in names {
        let depth = client.queue_depth(&name).await?;
        depths.insert(name, depth);
    }
    Ok((depths, client.unacked_count().await?))
}

fn table(depths: &Depths) -> Vec<String> {
    if depths.is_empty() {
        return vec!["no queue is named, and no worker answers that consumes one".to_owned()];
    }
    let width = depths
        .keys()
        .map(|name| one_line(name).chars().count())
        .max()
        .unwrap_or(0)
        .max("QUEUE".len());
    let mut lines = vec![format!("{:<width$}  {:>8}  PRIORITY 0/3/6/9", "QUEUE", "MESSAGES")];
    for (name, depth) in depths {
        let total: u64 = depth.values().sum();
        let steps: Vec<String> = depth.values().map(u64::to_string).collect();
        lines.push(format!("{:<width$}  {total:>8}  {}", one_line(name), steps.join("/")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_queue() {
        let depth = BTreeMap::from([(0, 3), (3, 0), (6, 0), (9, 1)]);
        let depths = Depths::from([("celery".to_owned(), depth)]);
        assert_eq!(
            table(&depths),
            ["QUEUE   MESSAGES  PRIORITY 0/3/6/9", "celery         4  3/0/0/1"]
        );
    }
}
