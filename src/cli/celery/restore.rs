//! `orch celery restore`: puts back what dead workers can not acknowledge, without waiting for the visibility timeout.

use std::collections::HashSet;

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, converse};
use crate::cli::Refusal;
use crate::cli::output::{print, print_json};
use crate::run::Outcome;

/// Puts messages back that no live worker holds (exit code 1: it could not be judged, nothing was moved)
#[derive(Args, Debug)]
#[command(after_help = "Every worker of the broker must have remote control, since it is asked what it holds.")]
pub struct RestoreArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &RestoreArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let restored = converse(client.restore_unacked(&HashSet::new()))?
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    let (requeued, acknowledged) = (restored.requeued, restored.acknowledged);
    if args.json {
        let object = json!({ "requeued": requeued, "acknowledged": acknowledged, "uncertain": restored.uncertain });
        print_json(&object);
    } else {
        match &restored.uncertain {
            Some(why) => print(&format!("nothing was moved: {why}")),
            None => print(&format!(
                "{requeued} put back on their queues, {acknowledged} were finished already"
            )),
        }
    }
    Ok(u8::from(restored.uncertain.is_some()))
}
