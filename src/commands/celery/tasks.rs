//! `orch celery tasks`: lists the tasks that workers run, have reserved or have scheduled.

use clap::Args;
use serde_json::{Value, json};

use super::connect::block_on;
use super::replies::{TargetArgs, say_silent};
use crate::commands::output::{plain, print, print_json};
use crate::commands::table::table;
use orch_base::text::glob::matches_name;
use orch_base::text::printable::shortened;
use orch_base::wall_clock::unix_now;
use orch_celery::{Client, ControlReplies, NodeName, RunningTask};
use orch_views::span;

/// Length in characters at which the table cuts arguments.
const LONGEST_ARGUMENTS: usize = 60;

/// Shows the tasks that workers run, have reserved or have scheduled (exit code 1: no worker replied)
#[derive(Args, Debug)]
pub struct TasksArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Show only tasks with this text in their name; a text with `*` or `?`, such as `shop.*`, is a pattern for the
    /// whole name
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// State of a task at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldState {
    Active,
    Reserved,
    Scheduled,
}

impl HeldState {
    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Reserved => "reserved",
            Self::Scheduled => "scheduled",
        }
    }
}

/// Task that a worker holds.
struct HeldTask {
    node: NodeName,
    state: HeldState,
    eta: Option<String>,
    task: RunningTask,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &TasksArgs) -> anyhow::Result<u8> {
    let client = args.target.client()?;
    let (held, replies) = block_on(look(&client, args))?;
    let silent = args.target.silent(&replies);
    let failed = replies.nodes.is_empty() || !silent.is_empty();
    if args.json {
        let tasks: Vec<Value> = held.iter().map(as_json).collect();
        print_json(&json!({ "tasks": tasks, "silent": silent }));
        return Ok(u8::from(failed));
    }
    let rows: Vec<Vec<String>> = held.iter().map(row).collect();
    if rows.is_empty() && !failed {
        print("the workers have no active, reserved or scheduled task");
    } else if !rows.is_empty() {
        let headings = ["ID", "STATE", "FOR", "NODE", "QUEUE", "TASK", "ARGUMENTS"];
        table(&headings, &rows).iter().for_each(|line| print(line));
    }
    say_silent(&silent, replies.nodes.is_empty(), args.target.timeout);
    Ok(u8::from(failed))
}

async fn look(client: &Client, args: &TasksArgs) -> anyhow::Result<(Vec<HeldTask>, ControlReplies<Vec<RunningTask>>)> {
    let (control, target, within) = (client.control(), args.target.target(), args.target.timeout);
    let (active, reserved, scheduled) = tokio::join!(
        control.active(&target, within),
        control.reserved(&target, within),
        control.scheduled(&target, within),
    );
    let (active, reserved, scheduled) = (active?, reserved?, scheduled?);
    let mut held = Vec::new();
    for (state, replies) in [(HeldState::Active, &active), (HeldState::Reserved, &reserved)] {
        for (node, tasks) in replies.good() {
            held.extend(tasks.iter().map(|task| HeldTask {
                node: node.clone(),
                state,
                eta: None,
                task: task.clone(),
            }));
        }
    }
    for (node, tasks) in scheduled.good() {
        held.extend(tasks.iter().map(|waiting| HeldTask {
            node: node.clone(),
            state: HeldState::Scheduled,
            eta: waiting.eta.clone(),
            task: waiting.request.clone(),
        }));
    }
    // A worker may list a task that has just started both as active and as reserved.
    let active_ids: Vec<_> = held
        .iter()
        .filter(|task| task.state == HeldState::Active)
        .map(|task| task.task.id.clone())
        .collect();
    held.retain(|task| task.state == HeldState::Active || !active_ids.contains(&task.task.id));
    if let Some(wanted) = &args.name {
        held.retain(|task| task.task.name.as_ref().is_some_and(|name| matches_name(wanted, name)));
    }
    Ok((held, active))
}

/// Returns the seconds since the task started, from the worker's clock and the clock of this machine.
fn running_for(task: &RunningTask) -> Option<f64> {
    let now = unix_now();
    // Some Celery versions put the worker's monotonic clock here; such a value is too small for a Unix time.
    let began = task.time_start.filter(|began| *began > 1e9)?;
    Some((now.as_secs_f64() - began).max(0.0))
}

fn row(held: &HeldTask) -> Vec<String> {
    let task = &held.task;
    let arguments = format!("{} {}", plain(&task.args), plain(&task.kwargs));
    vec![
        task.id.to_string(),
        held.state.word().to_owned(),
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

fn as_json(held: &HeldTask) -> Value {
    let task = &held.task;
    json!({
        "id": task.id,
        "state": held.state.word(),
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
