//! `orch celery restore`: puts back what dead workers can not acknowledge, without waiting for the visibility timeout.

use std::collections::{BTreeSet, HashSet};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, converse};
use crate::celery::NodeName;
use crate::cli::Refusal;
use crate::cli::output::{print, print_json};
use crate::run::Outcome;

/// Puts messages back that no live worker holds (exit code 1: it could not be judged, nothing was moved)
#[derive(Args, Debug)]
#[command(
    after_help = "Every worker of the broker must have remote control, since it is asked what it holds: a message in Redis does \
                  not say who took it. The broker may count the connection of a dead worker for minutes; then `--node` \
                  names that worker, and its answer is not waited for. Nothing is moved where a named worker is heard, or \
                  another is heard and does not answer. A solo worker at work is not heard: do not name one that lives."
)]
pub struct RestoreArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// A worker that is dead, such as celery@host: it need not answer (may be given several times; takes 5 s)
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &RestoreArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let dead: BTreeSet<NodeName> = args.nodes.iter().map(|node| NodeName::from(node.as_str())).collect();
    let restored = converse(async {
        args.connect.name_lists(&client, &[]).await?;
        match dead.is_empty() {
            true => client.restore_unacked(&HashSet::new()).await,
            false => client.restore_without(&dead).await,
        }
    })?
    .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    let (requeued, acknowledged, postponed) = (restored.requeued, restored.acknowledged, restored.postponed);
    if args.json {
        let object = json!({ "requeued": requeued, "acknowledged": acknowledged, "postponed": postponed, "uncertain": restored.uncertain });
        print_json(&object);
    } else {
        match &restored.uncertain {
            Some(why) if dead.is_empty() => print(&format!(
                "nothing was moved: {why}\n  hint:  name a worker that is dead, `--node NODE`: its answer is not waited for"
            )),
            Some(why) => print(&format!("nothing was moved: {why}")),
            None => {
                let later = match postponed {
                    0 => String::new(),
                    _ => format!("; {postponed} wait for the callback of their chord: try again in 10 s"),
                };
                print(&format!(
                    "{requeued} put back on their queues, {acknowledged} were finished already{later}"
                ));
            }
        }
    }
    Ok(u8::from(restored.uncertain.is_some()))
}
