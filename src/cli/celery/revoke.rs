//! `orch celery revoke`: keep tasks from being run, or end them.

use clap::Args;
use serde_json::{Map, Value, json};

use super::answers::{TargetArgs, report, report_with};
use super::connect::{ConnectArgs, converse};
use super::result::{self, Known};
use crate::celery::{self, Client, NodeName, Replies, Signal, TaskId};
use crate::cli::Refusal;
use crate::cli::output::print;
use crate::printable::one_line;
use crate::run::Outcome;

/// Marks tasks as revoked in the workers: they will not be started; with --terminate a running one is ended
#[derive(Args, Debug)]
#[command(
    after_help = "Workers keep revocations in memory: they are forgotten when the last worker ends. \
Exit code 1: a worker refused (a threads pool cannot terminate), or nobody answered."
)]
pub struct RevokeArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// The tasks
    #[arg(required = true, value_name = "ID")]
    id: Vec<String>,
    /// End the pool process that runs it
    #[arg(long)]
    terminate: bool,
    /// What that process is sent
    #[arg(long, value_name = "NAME", default_value = "TERM", requires = "terminate")]
    signal: Signal,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is seen of a task afterwards.
#[derive(Debug)]
struct Seen {
    id: TaskId,
    /// Where workers have it, and as what (`active`, `reserved`).
    at: Vec<(NodeName, String)>,
    /// Its result.
    known: Known,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &RevokeArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.target.timeout);
    let ids: Vec<TaskId> = args.id.iter().map(TaskId::new).collect();
    let terminate = args.terminate.then_some(args.signal);
    let (replies, seen) = converse(revoke(&client, &ids, terminate, args))?
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    if args.json {
        let tasks = seen.iter().map(as_json).collect();
        return Ok(report_with(&replies, &args.target, [("tasks", tasks)]));
    }
    let what = match terminate {
        Some(_) => "revoked, and ended where it runs",
        None => "revoked",
    };
    let code = report(what, &replies, &args.target, false);
    seen.iter().for_each(|seen| print(&human(seen)));
    Ok(code)
}

async fn revoke(
    client: &Client,
    ids: &[TaskId],
    terminate: Option<Signal>,
    args: &RevokeArgs,
) -> celery::Result<(Replies<()>, Vec<Seen>)> {
    let (control, results) = (client.control(), client.results());
    let (target, within) = (args.target.target(), args.target.timeout);
    let active = match terminate {
        Some(_) => control.query_tasks(ids, &target, within).await?,
        None => Replies::default(),
    };
    let is_active = |id: &TaskId| {
        let mut found = active.good().filter_map(|(_, tasks)| tasks.get(id));
        found.any(|task| task.state == "active")
    };
    let mut ending: Vec<_> = ids
        .iter()
        .filter(|id| is_active(id))
        .map(|id| results.watch(id))
        .collect();
    let replies = control.revoke(ids, terminate, &target, within).await?;
    // Who was sent a signal has a moment to end of it; some signals end nothing.
    let ended = futures_util::future::join_all(ending.iter_mut().map(|watch| watch.finished()));
    tokio::time::timeout(within, ended).await.ok();
    let held = control.query_tasks(ids, &target, within).await?;
    let mut seen = Vec::new();
    for id in ids {
        let at = held.good().filter_map(|(node, tasks)| Some((node, tasks.get(id)?)));
        seen.push(Seen {
            id: id.clone(),
            at: at.map(|(node, task)| (node.clone(), task.state.clone())).collect(),
            known: results.get(id).await,
        });
    }
    Ok((replies, seen))
}

fn human(seen: &Seen) -> String {
    let mut text = result::head(&seen.id, &seen.known);
    for (node, state) in &seen.at {
        text.push_str(&one_line(&format!("; {state} on {node}")));
    }
    text
}

fn as_json(seen: &Seen) -> Value {
    let at: Map<String, Value> = seen
        .at
        .iter()
        .map(|(node, state)| (node.to_string(), state.as_str().into()))
        .collect();
    json!({ "result": result::as_json(&seen.id, &seen.known), "held_by": at })
}
