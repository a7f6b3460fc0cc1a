//! `orch celery publish`: tasks from the command line or, many at once, from standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{BufRead, Read};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::connect::{ConnectArgs, converse};
use super::result::{as_json, human};
use crate::celery::{
    BatchError, Client, Consumed, Consumers, DEFAULT_QUEUE, NodeName, Target, Task, TaskId, TaskState,
};
use crate::cli::output::{print, print_json, say};
use crate::cli::{Refusal, duration};
use crate::large_integer;
use crate::run::Outcome;

/// All lines of standard input are read before the first is published.
const LARGEST_INPUT: u64 = 1 << 30;
/// How long workers have to say what they consume, once the tasks are published.
const CONSUMERS_TIMEOUT: Duration = Duration::from_secs(1);
/// One task; workers and orch take in no more.
const LONGEST_LINE: u64 = 64 << 20;

/// Publishes a task and prints its id; with --wait, what became of it (exit code 1: it failed, or not in time)
#[derive(Args, Debug)]
#[command(
    after_help = "--stdin reads one JSON object a line: {\"task\": NAME, \"args\": [], \"kwargs\": {}, \"queue\", \
\"priority\", \"id\", \"headers\", \"eta\", \"expires\", \"countdown\", \"time_limit\", \"soft_time_limit\"}, the last three \
in seconds. Nothing is published if a line cannot be read. A queue that no worker consumes is named on standard error."
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

/// A task as a line of standard input has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    task: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    #[serde(default)]
    queue: Option<String>,
    #[serde(default)]
    priority: Option<u8>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    eta: Option<String>,
    #[serde(default)]
    expires: Option<String>,
    #[serde(default)]
    countdown: Option<f64>,
    #[serde(default)]
    time_limit: Option<f64>,
    #[serde(default)]
    soft_time_limit: Option<f64>,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &PublishArgs) -> anyhow::Result<u8> {
    let usage = |text: String| Refusal::because(Outcome::ConfigurationError, text);
    if args.stdin {
        let tasks = tasks_of(std::io::stdin().lock(), args).map_err(usage)?;
        return publish_all(args, &tasks);
    }
    let task = task_of(args).map_err(usage)?;
    let client = args.connect.client()?;
    converse(async {
        name_lists(&client, args, std::slice::from_ref(&task)).await?;
        // Watched before it is published: its end cannot be missed.
        let mut watch = args.wait.then(|| client.results().watch(&task.id));
        client.publish(&task).await.map_err(|error| match &error {
            crate::celery::Error::Task { .. } => usage(error.to_string()),
            _ => Refusal::because(Outcome::InfrastructureFailed, error.to_string()),
        })?;
        let queues = queues_of(std::slice::from_ref(&task));
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

fn publish_all(args: &PublishArgs, tasks: &[Task]) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let queues = queues_of(tasks);
    let published = converse(async {
        name_lists(&client, args, tasks).await?;
        if let Err(error) = client.publish_batch(tasks).await {
            return Ok(Err(error));
        }
        if !args.json {
            tasks.iter().for_each(|task| print(task.id.as_str()));
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
        let ids: Vec<&TaskId> = tasks.iter().map(|task| &task.id).collect();
        let consumers = by_queue(&queues, consumers.as_ref());
        print_json(&json!({ "published": tasks.len(), "ids": ids, "consumers": consumers }));
    }
    Ok(0)
}

fn queues_of(tasks: &[Task]) -> BTreeSet<&str> {
    let queues = tasks.iter().map(|task| task.queue.as_deref());
    queues.map(|queue| queue.unwrap_or(DEFAULT_QUEUE)).collect()
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

/// Names the lists of the tasks' queues as the app does. The list of the first step is the queue's name alone, so that
/// nothing need be known for tasks without a priority.
async fn name_lists(client: &Client, args: &PublishArgs, tasks: &[Task]) -> anyhow::Result<()> {
    let with_priority = tasks.iter().filter(|task| task.priority > 0);
    let queues: BTreeSet<String> = with_priority
        .map(|task| task.queue.clone().unwrap_or_else(|| DEFAULT_QUEUE.to_owned()))
        .collect();
    if queues.is_empty() {
        return Ok(());
    }
    let queues: Vec<String> = queues.into_iter().collect();
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

fn tasks_of(input: impl BufRead, args: &PublishArgs) -> Result<Vec<Task>, String> {
    let mut input = input.take(LARGEST_INPUT + 1);
    let (mut tasks, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        // A line without an end must not be read for ever.
        let length = (&mut input)
            .take(LONGEST_LINE + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| format!("read standard input: {error}"))?;
        if length == 0 {
            break;
        }
        if length as u64 > LONGEST_LINE {
            return Err(format!(
                "line {number} of standard input is longer than {LONGEST_LINE} bytes; nothing is published"
            ));
        }
        if input.limit() == 0 {
            return Err(format!(
                "standard input is larger than {LARGEST_INPUT} bytes: publish it in parts"
            ));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let read = large_integer::from_slice::<Line>(&line);
        let task = read.and_then(|line| task_of_line(line, args));
        tasks.push(task.map_err(|why| format!("line {number} of standard input: {why}; nothing is published"))?);
    }
    Ok(tasks)
}

fn task_of_line(line: Line, args: &PublishArgs) -> Result<Task, String> {
    let span = |name: &str, seconds: Option<f64>| {
        seconds
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|error| format!("`{name}`: {error}")))
            .transpose()
    };
    let instant = |name: &str, text: Option<String>| {
        text.map(|text| text.parse::<Timestamp>().map_err(|error| format!("`{name}`: {error}")))
            .transpose()
    };
    let mut task = Task::new(line.task).args(line.args);
    task.kwargs = line.kwargs;
    task.headers = line.headers;
    if let Some(id) = line.id {
        task.id = TaskId::new(id);
    }
    task.queue = line.queue.or_else(|| args.queue.clone());
    task.priority = line.priority.unwrap_or(args.priority);
    task.eta = instant("eta", line.eta)?;
    if let Some(delay) = span("countdown", line.countdown)? {
        task = task.countdown(delay);
    }
    task.expires = instant("expires", line.expires)?;
    task.time_limit = span("time_limit", line.time_limit)?;
    task.soft_time_limit = span("soft_time_limit", line.soft_time_limit)?;
    Ok(task)
}
