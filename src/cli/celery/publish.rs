//! `orch celery publish`: tasks from the command line or, many at once, from standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::connect::{ConnectArgs, converse};
use super::publish_lines::{Defaults, Lines};
use super::result::{as_json, human};
use crate::celery::{BatchError, Client, Consumed, Consumers, NodeName, Target, Task, TaskId, TaskState};
use crate::cli::output::{print, print_json, say};
use crate::cli::{Refusal, duration};
use crate::large_integer;
use crate::run::Outcome;

/// How long workers have to say what they consume, once the tasks are published.
const CONSUMERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Publishes a task and prints its id; with --wait, what became of it (exit code 1: it failed, or not in time)
#[derive(Args, Debug)]
#[command(
    after_help = "--stdin reads one JSON object a line: {\"task\": NAME, \"args\": [], \"kwargs\": {}, \"queue\", \
\"priority\", \"id\", \"headers\", \"eta\", \"expires\", \"countdown\", \"time_limit\", \"soft_time_limit\"}, the last three \
in seconds. Nothing is published if a line cannot be read; each id is printed once its task is published. A queue that no worker consumes is named on standard error."
)]
pub struct PublishArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The task's name, as registered in the worker
    #[arg(required_unless_present = "stdin", conflicts_with = "stdin")]
    task: Option<String>,
    /// Positional arguments, a JSON list
    #[arg(long, value_name = "JSON", conflicts_with = "stdin")]
    args: Option<String>,
    /// Keyword arguments, a JSON object
    #[arg(long, value_name = "JSON", conflicts_with = "stdin")]
    kwargs: Option<String>,
    /// Its queue [default: celery]
    #[arg(long)]
    queue: Option<String>,
    /// 0 is served first, 9 last
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9), default_value_t = 0)]
    priority: u8,
    /// Its id [default: a random one]
    #[arg(long, conflicts_with = "stdin")]
    id: Option<String>,
    /// Run it no earlier than so long from now
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    countdown: Option<Duration>,
    /// Run it no earlier than this instant, such as 2026-11-24T03:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with_all = ["stdin", "countdown"])]
    eta: Option<Timestamp>,
    /// Revoke it if no worker has taken it within so long
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    expires: Option<Duration>,
    /// Kill it after so long
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    time_limit: Option<Duration>,
    /// Raise SoftTimeLimitExceeded in it after so long
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    soft_time_limit: Option<Duration>,
    /// A header of the app's own; may be given again
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "stdin")]
    header: Vec<String>,
    /// Wait for its end, and show the result
    #[arg(long, conflicts_with = "stdin")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    timeout: Duration,
    /// Publish what standard input lists, one JSON object a line
    #[arg(long)]
    stdin: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &PublishArgs) -> anyhow::Result<u8> {
    let usage = |text: String| Refusal::because(Outcome::ConfigurationError, text);
    if args.stdin {
        let defaults = Defaults {
            queue: args.queue.as_deref(),
            priority: args.priority,
        };
        let lines = Lines::read(std::io::stdin().lock(), defaults).map_err(usage)?;
        return publish_all(args, &lines);
    }
    let task = task_of(args).map_err(usage)?;
    let client = args.connect.client()?;
    converse(async {
        let with_priority = (task.priority > 0).then(|| task.destination().to_owned());
        name_lists(&client, args, &with_priority.into_iter().collect()).await?;
        // Watched before it is published: its end cannot be missed.
        let mut watch = args.wait.then(|| client.results().watch(&task.id));
        client.publish(&task).await.map_err(|error| match &error {
            crate::celery::Error::Task { .. } => usage(error.to_string()),
            _ => Refusal::because(Outcome::InfrastructureFailed, error.to_string()),
        })?;
        let queues = BTreeSet::from([task.destination()]);
        let Some(watch) = &mut watch else {
            if !args.json {
                print(task.id.as_str());
            }
            let consumers = warn_without_consumer(&client, &queues).await;
            if args.json {
                let consumers = by_queue(&queues, consumers.as_ref());
                print_json(&json!({ "id": task.id, "task": task.name, "queue": task.queue, "consumers": consumers }));
            }
            return Ok(0);
        };
        let warned = async {
            warn_without_consumer(&client, &queues).await;
            std::future::pending::<Infallible>().await
        };
        let finished = tokio::select! {
            biased;
            finished = tokio::time::timeout(args.timeout, watch.finished()) => finished,
            never = warned => match never {},
        };
        let known = match finished {
            Ok(known) => known.map(Some),
            Err(_) => client.results().get(&task.id).await,
        };
        match args.json {
            true => print_json(&as_json(&task.id, &known)),
            false => print(&human(&task.id, &known)),
        }
        let succeeded = matches!(&known, Ok(Some(result)) if matches!(result.state, TaskState::Success(_)));
        Ok(u8::from(!succeeded))
    })?
}

fn publish_all(args: &PublishArgs, lines: &Lines<'_>) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let queues: BTreeSet<&str> = lines.queues.iter().map(String::as_str).collect();
    let mut ids: Vec<TaskId> = Vec::new();
    let published = converse(async {
        name_lists(&client, args, &lines.queues_with_priority).await?;
        let mut tell = |tasks: &[Task]| {
            let published = tasks.iter().map(|task| &task.id);
            match args.json {
                true => ids.extend(published.cloned()),
                false => print(&published.map(TaskId::as_str).collect::<Vec<_>>().join("\n")),
            }
        };
        if let Err(error) = client.publish_each(lines.count, lines.tasks(), &mut tell).await {
            return Ok(Err(error));
        }
        anyhow::Ok(Ok(warn_without_consumer(&client, &queues).await))
    })?;
    let consumers = published?.map_err(|error: BatchError| {
        let outcome = match error.error {
            crate::celery::Error::Task { .. } => Outcome::ConfigurationError,
            _ => Outcome::InfrastructureFailed,
        };
        Refusal::because(outcome, error.to_string())
    })?;
    if args.json {
        let consumers = by_queue(&queues, consumers.as_ref());
        print_json(&json!({ "published": lines.count, "ids": ids, "consumers": consumers }));
    }
    Ok(0)
}

/// Asks the workers what they consume and warns of each of these queues that has no consumer. `None`: they could not be
/// asked in time, which says nothing about what is published.
async fn warn_without_consumer(client: &Client, queues: &BTreeSet<&str>) -> Option<Consumers> {
    if queues.is_empty() {
        return None;
    }
    let control = client.control();
    let asked = control.active_queues(&Target::All, CONSUMERS_TIMEOUT);
    let replies = tokio::time::timeout(CONSUMERS_TIMEOUT * 3 / 2, asked)
        .await
        .ok()?
        .ok()?;
    let consumers = Consumers::of(&replies);
    let warnings = queues.iter().filter_map(|queue| warning(queue, &consumers));
    warnings.for_each(|warning| say(&warning));
    Some(consumers)
}

fn warning(queue: &str, consumers: &Consumers) -> Option<String> {
    let who = match consumers.consumed(queue) {
        Consumed::Yes => return None,
        Consumed::No => "no worker",
        Consumed::Unknown if consumers.queues.is_empty() => {
            return Some(format!(
                "warning: no worker answers: what is published waits in the queue `{queue}` until a worker consumes it"
            ));
        }
        Consumed::Unknown => "no worker that answers",
    };
    Some(format!(
        "warning: {who} consumes the queue `{queue}`: what is published waits there; {}",
        consumers.described()
    ))
}

/// The workers that consume each queue, for JSON.
fn by_queue<'q>(queues: &BTreeSet<&'q str>, consumers: Option<&Consumers>) -> Option<BTreeMap<&'q str, Vec<NodeName>>> {
    let consumers = consumers?;
    let of = |queue: &&'q str| (*queue, consumers.of_queue(queue).cloned().collect());
    Some(queues.iter().map(of).collect())
}

/// Names the lists of these queues as the app does. The list of the first step is the queue's name alone, so that nothing
/// need be known for tasks without a priority.
async fn name_lists(
    client: &Client,
    args: &PublishArgs,
    queues_with_priority: &BTreeSet<String>,
) -> anyhow::Result<()> {
    if queues_with_priority.is_empty() {
        return Ok(());
    }
    let queues: Vec<String> = queues_with_priority.iter().cloned().collect();
    args.connect
        .name_lists(client, &queues)
        .await
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))
}

fn task_of(args: &PublishArgs) -> Result<Task, String> {
    let mut task = Task::new(args.task.clone().unwrap_or_default());
    if let Some(text) = &args.args {
        task.args =
            large_integer::from_slice(text.as_bytes()).map_err(|error| format!("--args is no JSON list: {error}"))?;
    }
    if let Some(text) = &args.kwargs {
        task.kwargs = large_integer::from_slice(text.as_bytes())
            .map_err(|error| format!("--kwargs is no JSON object: {error}"))?;
    }
    if let Some(id) = &args.id {
        task.id = TaskId::new(id.clone());
    }
    task.queue.clone_from(&args.queue);
    task.priority = args.priority;
    task.eta = args.eta;
    if let Some(delay) = args.countdown {
        task = task.countdown(delay);
    }
    task.expires = args
        .expires
        .and_then(|within| Timestamp::now().checked_add(within).ok());
    task.time_limit = args.time_limit;
    task.soft_time_limit = args.soft_time_limit;
    for header in &args.header {
        let (name, value) = header
            .split_once('=')
            .ok_or_else(|| format!("--header `{header}` is not NAME=VALUE"))?;
        task = task.header(name, value);
    }
    Ok(task)
}
