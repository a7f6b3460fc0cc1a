//! `orch celery revoke`: prevents tasks from being executed, or ends running tasks.

use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::block_on;
use super::replies::{TargetArgs, report, report_with};
use super::result;
use super::result::StoredResult;
use crate::commands::output::print;
use orch_base::text::printable::one_line;
use orch_celery::{Client, ControlReplies, NodeName, Signal, TaskId};

/// Marks tasks as revoked in the workers, which then do not start them; --terminate also ends running tasks
#[derive(Args, Debug)]
#[command(
    after_help = "Workers keep revocations in memory only: they are lost when the last worker ends. \
Exit code 1: a worker refused (a pool of threads cannot terminate a task), or no worker replied."
)]
pub struct RevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Ids of the tasks
    #[arg(required = true, value_name = "ID")]
    id: Vec<String>,
    /// Also end the pool process that executes the task
    #[arg(long)]
    terminate: bool,
    /// Signal that --terminate sends to the pool process
    #[arg(long, value_name = "NAME", default_value = "TERM", requires = "terminate")]
    signal: Signal,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// State of a task after the revocation.
#[derive(Debug)]
struct RevokedTask {
    id: TaskId,
    /// Workers that hold the task, with the state there (`active`, `reserved`).
    at: Vec<(NodeName, String)>,
    /// Stored result of the task.
    known: StoredResult,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RevokeArgs) -> anyhow::Result<u8> {
    let client = args.target.client()?;
    let ids: Vec<TaskId> = args.id.iter().map(TaskId::new).collect();
    let terminate = args.terminate.then_some(args.signal);
    let (replies, seen) = block_on(revoke(&client, &ids, terminate, args))?;
    if args.json {
        let tasks = seen.iter().map(as_json).collect();
        return Ok(report_with(&replies, &args.target, [("tasks", tasks)]));
    }
    let what = match terminate {
        Some(_) => "revoked, running tasks ended",
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
) -> anyhow::Result<(ControlReplies<()>, Vec<RevokedTask>)> {
    let (control, results) = (client.control(), client.results());
    let (target, within) = (args.target.target(), args.target.timeout);
    let active = match terminate {
        Some(_) => control.query_tasks(ids, &target, within).await?,
        None => ControlReplies::default(),
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
    // Gives the signalled pool processes time to end. Some signals end no process, so the wait has a limit.
    let ended = futures_util::future::join_all(ending.iter_mut().map(|watch| watch.finished()));
    tokio::time::timeout(within, ended).await.ok();
    let held = control.query_tasks(ids, &target, within).await?;
    let mut seen = Vec::new();
    for id in ids {
        let at = held.good().filter_map(|(node, tasks)| Some((node, tasks.get(id)?)));
        seen.push(RevokedTask {
            id: id.clone(),
            at: at.map(|(node, task)| (node.clone(), task.state.clone())).collect(),
            known: results.get(id).await,
        });
    }
    Ok((replies, seen))
}

fn human(seen: &RevokedTask) -> String {
    let mut text = result::head(&seen.id, &seen.known);
    for (node, state) in &seen.at {
        text.push_str(&one_line(&format!("; {state} on {node}")));
    }
    text
}

fn as_json(seen: &RevokedTask) -> Value {
    let at: Map<String, Value> = seen
        .at
        .iter()
        .map(|(node, state)| (node.to_string(), state.as_str().into()))
        .collect();
    json!({ "result": result::as_json(&seen.id, &seen.known), "held_by": at })
}
