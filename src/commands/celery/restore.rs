//! `orch celery restore`: puts the unacknowledged messages of dead workers back, without waiting for the visibility
//! timeout.

use std::collections::{BTreeSet, HashSet};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, block_on};
use crate::commands::output::{print, print_json};
use orch_celery::NodeName;

/// Puts unacknowledged messages of dead workers back on their queues (exit code 1: uncertain, nothing was moved)
#[derive(Args, Debug)]
#[command(
    after_help = "Every worker of the broker must have remote control enabled, because orch asks each worker for its messages: a \
                  message in Redis does not contain the worker that took it. Redis may count the connection of a dead worker \
                  for minutes; in this case name the dead worker with `--node`, and orch does not wait for its reply. Nothing is \
                  moved if a named worker sends a sign of life, or if another worker sends one and does not reply. A worker with \
                  a solo pool sends no sign of life while it executes a task: do not name such a worker if it is alive."
)]
pub struct RestoreArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Node name of a dead worker, such as celery@host, which does not have to reply; may be repeated; takes 5 s
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RestoreArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let dead: BTreeSet<NodeName> = args.nodes.iter().map(|node| NodeName::from(node.as_str())).collect();
    let restored = block_on(async {
        args.connect.name_lists(&client, &[]).await?;
        Ok(match dead.is_empty() {
            true => client.restore_unacked(&HashSet::new()).await?,
            false => client.restore_except_dead(&dead).await?,
        })
    })?;
    let (requeued, acknowledged, postponed) = (restored.requeued, restored.acknowledged, restored.postponed);
    if args.json {
        let object = json!({ "requeued": requeued, "acknowledged": acknowledged, "postponed": postponed, "uncertain": restored.uncertain });
        print_json(&object);
    } else {
        match &restored.uncertain {
            Some(why) if dead.is_empty() => print(&format!(
                "nothing was moved: {why}\n  hint:  name a dead worker with `--node NODE`: orch does not wait for its reply"
            )),
            Some(why) => print(&format!("nothing was moved: {why}")),
            None => {
                let later = match postponed {
                    0 => String::new(),
                    _ => format!("; {postponed} wait for the callback of their chord: try again in 10 s"),
                };
                print(&format!(
                    "{requeued} messages put back on their queues, {acknowledged} were already finished{later}"
                ));
            }
        }
    }
    Ok(u8::from(restored.uncertain.is_some()))
}
