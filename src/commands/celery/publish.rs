//! `orch celery publish`: publishes a task from the command line, or many tasks from standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::connect::{ConnectArgs, block_on};
use super::publish_lines::{TaskDefaults, TaskLines};
use super::result::{as_json, human};
use crate::commands::output::{print, print_json, print_message};
use crate::commands::{CommandError, duration};
use orch_base::text::large_integer;
use orch_celery::{Client, ConsumerPresence, Consumers, ControlTarget, NodeName, Task, TaskId, TaskState};

/// Time in which workers must report their queues after the tasks are published.
const CONSUMERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Publishes a task and prints its id; with --wait also its result (exit code 1: the task failed or did not end in
/// time)
#[derive(Args, Debug)]
#[command(
    after_help = "--stdin reads one JSON object per line: {\"task\": NAME, \"args\": [], \"kwargs\": {}, \"queue\", \
\"priority\", \"id\", \"headers\", \"eta\", \"expires\", \"countdown\", \"time_limit\", \"soft_time_limit\"}, the last three \
in seconds. If a line cannot be read, no task is published. Each id is printed as soon as its task is published. A warning on \
standard error names each queue that no worker consumes."
)]
pub struct PublishArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Name of the task, as registered in the worker
    #[arg(required_unless_present = "stdin", conflicts_with = "stdin")]
    task: Option<String>,
    /// Positional arguments, a JSON list
    #[arg(long, value_name = "JSON", conflicts_with = "stdin")]
    args: Option<String>,
    /// Keyword arguments, a JSON object
    #[arg(long, value_name = "JSON", conflicts_with = "stdin")]
    kwargs: Option<String>,
    /// Queue of the task [default: celery]
    #[arg(long)]
    queue: Option<String>,
    /// Priority of the task: 0 is executed first, 9 last
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9), default_value_t = 0)]
    priority: u8,
    /// Id of the task [default: a random id]
    #[arg(long, conflicts_with = "stdin")]
    id: Option<String>,
    /// Delay before the task may start
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    countdown: Option<Duration>,
    /// Earliest start time of the task, such as 2026-11-24T03:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with_all = ["stdin", "countdown"])]
    eta: Option<Timestamp>,
    /// Time after which the task is revoked if no worker has started it
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    expires: Option<Duration>,
    /// Run time after which the task is killed
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    time_limit: Option<Duration>,
    /// Run time after which SoftTimeLimitExceeded is raised in the task
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "stdin")]
    soft_time_limit: Option<Duration>,
    /// Additional message header; may be repeated
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "stdin")]
    header: Vec<String>,
    /// Wait for the end of the task and show its result
    #[arg(long, conflicts_with = "stdin")]
    wait: bool,
    /// Time to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    timeout: Duration,
    /// Publish the tasks that standard input lists, one JSON object per line
    #[arg(long)]
    stdin: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &PublishArgs) -> anyhow::Result<u8> {
    if args.stdin {
        let defaults = TaskDefaults {
            queue: args.queue.as_deref(),
            priority: args.priority,
        };
        let lines = TaskLines::read(std::io::stdin().lock(), defaults).map_err(CommandError::usage)?;
        return publish_all(args, &lines);
    }
    let task = task_of(args).map_err(CommandError::usage)?;
    let client = args.connect.client()?;
    block_on(async {
        let with_priority = (task.priority > 0).then(|| task.destination().to_owned());
        name_lists(&client, args, &with_priority.into_iter().collect()).await?;
        // The watch begins before the task is published, so that the end cannot be missed.
        let mut watch = args.wait.then(|| client.results().watch(&task.id));
        client.publish(&task).await.map_err(|error| match error {
            orch_celery::Error::InvalidTask { .. } => CommandError::usage(error),
            error => error.into(),
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
    })
}

fn publish_all(args: &PublishArgs, lines: &TaskLines<'_>) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let queues: BTreeSet<&str> = lines.queues.iter().map(String::as_str).collect();
    let mut ids: Vec<TaskId> = Vec::new();
    let consumers = block_on(async {
        name_lists(&client, args, &lines.queues_with_priority).await?;
        let mut report = |tasks: &[Task]| {
            let published = tasks.iter().map(|task| &task.id);
            match args.json {
                true => ids.extend(published.cloned()),
                false => print(&published.map(TaskId::as_str).collect::<Vec<_>>().join("\n")),
            }
        };
        let published = client.publish_each(lines.count, lines.tasks(), &mut report).await;
        published.map_err(|error| match error.error {
            orch_celery::Error::InvalidTask { .. } => CommandError::usage(error),
            _ => anyhow::anyhow!("{error}"),
        })?;
        Ok(warn_without_consumer(&client, &queues).await)
    })?;
    if args.json {
        let consumers = by_queue(&queues, consumers.as_ref());
        print_json(&json!({ "published": lines.count, "ids": ids, "consumers": consumers }));
    }
    Ok(0)
}

/// Asks the workers for their queues and warns of each of these queues that has no consumer. Returns `None` if the
/// workers could not be asked in time; the tasks are published in any case.
async fn warn_without_consumer(client: &Client, queues: &BTreeSet<&str>) -> Option<Consumers> {
    if queues.is_empty() {
        return None;
    }
    let control = client.control();
    let asked = control.active_queues(&ControlTarget::All, CONSUMERS_TIMEOUT);
    let replies = tokio::time::timeout(CONSUMERS_TIMEOUT * 3 / 2, asked)
        .await
        .ok()?
        .ok()?;
    let consumers = Consumers::of(&replies);
    let warnings = queues.iter().filter_map(|queue| warning(queue, &consumers));
    warnings.for_each(|warning| print_message(&warning));
    Some(consumers)
}

fn warning(queue: &str, consumers: &Consumers) -> Option<String> {
    let worker = match consumers.consumed(queue) {
        ConsumerPresence::Yes => return None,
        ConsumerPresence::No => "no worker",
        ConsumerPresence::Unknown if consumers.queues.is_empty() => {
            return Some(format!(
                "warning: no worker answers: the published tasks wait in the queue `{queue}` until a worker consumes it"
            ));
        }
        ConsumerPresence::Unknown => "no worker that answers",
    };
    Some(format!(
        "warning: {worker} consumes the queue `{queue}`: the published tasks wait there; {}",
        consumers.described()
    ))
}

/// Returns the workers that consume each queue, for JSON.
fn by_queue<'q>(queues: &BTreeSet<&'q str>, consumers: Option<&Consumers>) -> Option<BTreeMap<&'q str, Vec<NodeName>>> {
    let consumers = consumers?;
    let of = |queue: &&'q str| (*queue, consumers.of_queue(queue).cloned().collect());
    Some(queues.iter().map(of).collect())
}

/// Sets separator and priority steps of these queues' lists as the app does. The list of the first step has the queue's
/// name alone, so tasks without a priority do not need these settings.
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
        .map_err(anyhow::Error::from)
}

fn task_of(args: &PublishArgs) -> Result<Task, String> {
    let mut task = Task::new(args.task.clone().unwrap_or_default());
    if let Some(text) = &args.args {
        task.args = large_integer::from_slice(text.as_bytes())
            .map_err(|error| format!("--args is not a JSON list: {error}"))?;
    }
    if let Some(text) = &args.kwargs {
        task.kwargs = large_integer::from_slice(text.as_bytes())
            .map_err(|error| format!("--kwargs is not a JSON object: {error}"))?;
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
