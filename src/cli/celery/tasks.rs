//! `orch celery tasks`: what the workers have in hand right now.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::answers::{TargetArgs, say_silent};
use super::connect::{ConnectArgs, converse};
use crate::celery::{Client, NodeName, Replies, Result, RunningTask};
use crate::cli::Refusal;
use crate::cli::output::{print, print_json};
use crate::cli::table::table;
use crate::glob::is_meant;
use crate::printable::shortened;
use crate::run::Outcome;
use crate::ui::span;

/// Longer arguments are cut in the table.
const LONGEST_ARGUMENTS: usize = 60;

/// Shows the tasks that workers run, have reserved or have scheduled (exit code 1: nobody answered)
#[derive(Args, Debug)]
pub struct TasksArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Only tasks whose name matches, such as `shop.*`; without `*` and `?`: whose name contains this
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A task in a worker's hands.
struct Held {
    node: NodeName,
    state: &'static str,
    eta: Option<String>,
    task: RunningTask,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &TasksArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.target.timeout);
    let (held, replies) = converse(look(&client, args))?
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    let silent = args.target.silent(&replies);
    let failed = replies.nodes.is_empty() || !silent.is_empty();
    if args.json {
        let tasks: Vec<Value> = held.iter().map(as_json).collect();
        print_json(&json!({ "tasks": tasks, "silent": silent }));
        return Ok(u8::from(failed));
    }
    let rows: Vec<Vec<String>> = held.iter().map(row).collect();
    if rows.is_empty() && !failed {
        print("the workers have no task in hand");
    } else if !rows.is_empty() {
        let headings = ["ID", "STATE", "FOR", "NODE", "QUEUE", "TASK", "ARGUMENTS"];
        table(&headings, &rows).iter().for_each(|line| print(line));
    }
    say_silent(&silent, replies.nodes.is_empty(), args.target.timeout);
    Ok(u8::from(failed))
}

async fn look(client: &Client, args: &TasksArgs) -> Result<(Vec<Held>, Replies<Vec<RunningTask>>)> {
    let (control, target, within) = (client.control(), args.target.target(), args.target.timeout);
    let (active, reserved, scheduled) = tokio::join!(
        control.active(&target, within),
        control.reserved(&target, within),
        control.scheduled(&target, within),
    );
    let (active, reserved, scheduled) = (active?, reserved?, scheduled?);
    let mut held = Vec::new();
    for (state, replies) in [("active", &active), ("reserved", &reserved)] {
        for (node, tasks) in replies.good() {
            held.extend(tasks.iter().map(|task| Held {
                node: node.clone(),
                state,
                eta: None,
                task: task.clone(),
            }));
        }
    }
    for (node, tasks) in scheduled.good() {
        held.extend(tasks.iter().map(|waiting| Held {
            node: node.clone(),
            state: "scheduled",
            eta: waiting.eta.clone(),
            task: waiting.request.clone(),
        }));
    }
    // A worker lists what it has just begun in both.
    let active_ids: Vec<_> = held
        .iter()
        .filter(|task| task.state == "active")
        .map(|task| task.task.id.clone())
        .collect();
    held.retain(|task| task.state == "active" || !active_ids.contains(&task.task.id));
    if let Some(wanted) = &args.name {
        held.retain(|task| task.task.name.as_ref().is_some_and(|name| is_meant(wanted, name)));
    }
    Ok((held, active))
}

/// How long it has been running, by the worker's clock against ours.
fn running_for(task: &RunningTask) -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Some versions give the worker's monotonic clock here: what is no time of this century says nothing.
    let began = task.time_start.filter(|began| *began > 1e9)?;
    Some((now.as_secs_f64() - began).max(0.0))
}

fn row(held: &Held) -> Vec<String> {
    let task = &held.task;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let arguments = format!("{} {}", text(&task.args), text(&task.kwargs));
    vec![
        task.id.to_string(),
        held.state.to_owned(),
        match (&held.eta, running_for(task)) {
            (Some(eta), _) => format!("at {eta}"),
            (None, Some(seconds)) => span(seconds),
            (None, None) => "-".to_owned(),
        },
        held.node.to_string(),
        task.delivery_info.routing_key.clone().unwrap_or_else(|| "-".to_owned()),
        task.name.clone().unwrap_or_else(|| "?".to_owned()),
        shortened(&arguments, LONGEST_ARGUMENTS),
    ]
}

fn as_json(held: &Held) -> Value {
    let task = &held.task;
    json!({
        "id": task.id,
        "state": held.state,
        "node": held.node,
        "task": task.name,
        "args": task.args,
        "kwargs": task.kwargs,
        "queue": task.delivery_info.routing_key,
        "redelivered": task.delivery_info.redelivered,
        "eta": held.eta,
        "running_s": running_for(task),
        "acknowledged": task.acknowledged,
        "worker_pid": task.worker_pid,
    })
}
