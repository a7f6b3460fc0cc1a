//! `orch celery events`: what happens in a deployment, line by line, while it happens.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::connect::{ConnectArgs, converse};
use crate::celery::{Event, EventKind, Notice, Target, TaskEvent, TaskId, TaskOrigin, WorkerEvent};
use crate::cli::output::{print_on, say};
use crate::cli::{Refusal, duration};
use crate::glob::is_meant;
use crate::printable::{self, one_line, shortened};
use crate::run::Outcome;

/// Names of so many tasks are remembered: only a task's first events tell it.
const NAMES: usize = 50_000;
/// Longer values are cut, but for `--json`.
const LONGEST_VALUE: usize = 100;
/// Too long, or the same again and again.
const JSON_ONLY: [&str; 5] = ["traceback", "freq", "sw_ident", "sw_ver", "sw_sys"];
/// A worker sends a heartbeat every two seconds: one that does so and nothing else has its task events off.
const SILENCE: Duration = Duration::from_secs(5);
/// For switching events on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows events as they come, until Ctrl+C
#[derive(Args, Debug)]
pub struct EventsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only these types, separated by commas, such as `task-failed,worker-offline`
    #[arg(long = "type", value_delimiter = ',', value_name = "TYPES")]
    kinds: Vec<String>,
    /// Only events of tasks whose name contains this, or matches it where it has `*` or `?`
    #[arg(long, value_name = "GLOB")]
    task: Option<String>,
    /// Only events of this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only events of the job that began with this task
    #[arg(long, value_name = "ID")]
    root: Option<String>,
    /// Switch task events on in the workers, for the life of their processes
    #[arg(long)]
    enable: bool,
    /// End after so many events were shown
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// End after so long
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    span: Option<Duration>,
    /// Print one JSON object a line, with all fields
    #[arg(long)]
    json: bool,
}

/// What the first events of a task told.
#[derive(Clone, Default)]
struct Known {
    name: Option<Arc<str>>,
    root: Option<TaskId>,
}

/// Names and roots of tasks, the oldest forgotten.
#[derive(Default)]
struct Memory {
    tasks: HashMap<TaskId, Known>,
    order: VecDeque<TaskId>,
}

impl Memory {
    fn learn(&mut self, id: &TaskId, origin: &TaskOrigin) {
        if self.tasks.contains_key(id) {
            return;
        }
        if self.order.len() >= NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.tasks.remove(&oldest);
        }
        let known = Known {
            name: origin.name.as_deref().map(Arc::from),
            root: origin.root_id.clone(),
        };
        self.tasks.insert(id.clone(), known);
        self.order.push_back(id.clone());
    }

    fn of(&self, id: &TaskId) -> Known {
        self.tasks.get(id).cloned().unwrap_or_default()
    }
}

/// Runs the subcommand; the exit code.
pub fn main(args: &EventsArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    let failed = |error: crate::celery::Error| Refusal::because(Outcome::InfrastructureFailed, error.to_string());
    converse(async {
        let mut interrupt = Interrupt::listen()?;
        let mut events = client.events().await.map_err(failed)?;
        if args.enable {
            client
                .control()
                .enable_events(&Target::All, PATIENCE)
                .await
                .map_err(failed)?;
        }
        let started = Instant::now();
        let end = args.span.map(|span| started + span);
        let mut memory = Memory::default();
        let (mut shown, mut skipped, mut tasks, mut hinted) = (0, 0, false, false);
        while args.limit.is_none_or(|limit| shown < limit) {
            let until = end.map_or_else(|| Instant::now() + SILENCE, |end| end.min(Instant::now() + SILENCE));
            let notice = tokio::select! {
                biased;
                () = interrupt.came() => break,
                notice = tokio::time::timeout_at(until.into(), events.next()) => notice,
            };
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if !tasks && !hinted && started.elapsed() >= SILENCE {
                hinted = true;
                say("no task events so far: workers send them with `-E`, or once `--enable` has switched them on");
            }
            match notice {
                Err(_) => {}
                Ok(Err(error)) => return Err(failed(error)),
                Ok(Ok(Notice::Gap)) => say("the connection was lost: events are missing here"),
                Ok(Ok(Notice::Event(event))) => {
                    tasks |= matches!(event.kind, EventKind::Task { .. });
                    if let Some(line) = line(&event, &mut memory, args) {
                        if !print_on(&line) {
                            break;
                        }
                        shown += 1;
                    }
                }
            }
            if events.malformed() > skipped {
                skipped = events.malformed();
                say(&format!("{skipped} events could not be read and were skipped"));
            }
        }
        Ok(0)
    })?
}

/// The event's line; `None` if it is not wanted.
fn line(event: &Event, memory: &mut Memory, args: &EventsArgs) -> Option<String> {
    let mut known = Known::default();
    if let EventKind::Task { id, event } = &event.kind {
        if let TaskEvent::Sent { task, .. } | TaskEvent::Received(task) = event {
            memory.learn(id, task);
        }
        known = memory.of(id);
    }
    let kind = name_of(&event.kind);
    let wanted = (args.kinds.is_empty() || args.kinds.iter().any(|wanted| wanted == kind))
        && args.node.as_ref().is_none_or(|node| event.node.as_str() == node)
        && args
            .task
            .as_ref()
            .is_none_or(|text| known.name.as_ref().is_some_and(|name| is_meant(text, name)))
        && args
            .root
            .as_ref()
            .is_none_or(|root| known.root.as_ref().is_some_and(|known| known.as_str() == root));
    if !wanted {
        return None;
    }
    let fields = fields(event);
    if args.json {
        let mut object = json!({
            "type": kind, "node": event.node, "timestamp": event.timestamp, "clock": event.clock, "pid": event.pid,
        });
        if let (Some(object), EventKind::Task { id, .. }) = (object.as_object_mut(), &event.kind) {
            object.insert("id".to_owned(), json!(id));
            object.insert("task".to_owned(), json!(known.name.as_deref()));
            object.insert("root_id".to_owned(), json!(known.root));
        }
        if let Some(object) = object.as_object_mut() {
            object.extend(fields);
            for (name, value) in &event.extra {
                object.entry(name).or_insert_with(|| value.clone());
            }
        }
        return Some(printable::json(&object));
    }
    let mut text = format!("{} {} {kind}", clock_time(event.timestamp), event.node);
    if let EventKind::Task { id, .. } = &event.kind {
        text.push_str(&format!(" {} {id}", known.name.as_deref().unwrap_or("?")));
    }
    for (name, value) in fields.iter().filter(|(name, _)| !JSON_ONLY.contains(&name.as_str())) {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        text.push_str(&format!(" {name}={}", shortened(&value, LONGEST_VALUE)));
    }
    Some(one_line(&text))
}

/// Ctrl+C, or a request to end: the end of a tail like any other.
struct Interrupt(tokio::net::UnixStream);

impl Interrupt {
    fn listen() -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
        }
        ours.set_nonblocking(true)?;
        Ok(Self(tokio::net::UnixStream::from_std(ours)?))
    }

    async fn came(&mut self) {
        // Fails no sooner than the other end is closed, which the handlers hold for ever.
        self.0.readable().await.ok();
    }
}

fn name_of(kind: &EventKind) -> &str {
    match kind {
        EventKind::Task { event, .. } => match event {
            TaskEvent::Sent { .. } => "task-sent",
            TaskEvent::Received(_) => "task-received",
            TaskEvent::Started => "task-started",
            TaskEvent::Succeeded { .. } => "task-succeeded",
            TaskEvent::Failed { .. } => "task-failed",
            TaskEvent::Retried { .. } => "task-retried",
            TaskEvent::Revoked { .. } => "task-revoked",
            TaskEvent::Rejected { .. } => "task-rejected",
        },
        EventKind::Worker(WorkerEvent::Online(_)) => "worker-online",
        EventKind::Worker(WorkerEvent::Heartbeat(_)) => "worker-heartbeat",
        EventKind::Worker(WorkerEvent::Offline(_)) => "worker-offline",
        EventKind::Other { name } => name,
    }
}

/// What is worth telling of an event beside its kind and its task.
fn fields(event: &Event) -> Map<String, Value> {
    let value = match &event.kind {
        EventKind::Task { event, .. } => match event {
            TaskEvent::Sent { task, queue } => merged(origin(task), json!({ "queue": queue })),
            TaskEvent::Received(task) => origin(task),
            TaskEvent::Started => json!({}),
            TaskEvent::Succeeded {
                result,
                runtime_seconds,
            } => json!({ "runtime": runtime_seconds, "result": result }),
            TaskEvent::Failed { exception, traceback } | TaskEvent::Retried { exception, traceback } => {
                json!({ "exception": exception, "traceback": traceback })
            }
            TaskEvent::Revoked {
                terminated,
                signum,
                expired,
            } => json!({ "terminated": terminated, "signum": signum, "expired": expired }),
            TaskEvent::Rejected { requeue } => json!({ "requeue": requeue }),
        },
        EventKind::Worker(WorkerEvent::Online(load) | WorkerEvent::Heartbeat(load) | WorkerEvent::Offline(load)) => {
            json!({
                "active": load.active, "processed": load.processed, "loadavg": load.load_average,
                "freq": load.heartbeat_seconds, "sw_ident": load.software, "sw_ver": load.software_version,
                "sw_sys": load.system,
            })
        }
        EventKind::Other { .. } => Value::Object(event.extra.clone()),
    };
    match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

fn origin(task: &TaskOrigin) -> Value {
    json!({
        "args": task.args,
        "kwargs": task.kwargs.as_deref().filter(|kwargs| *kwargs != "{}"),
        "retries": (task.retries > 0).then_some(task.retries),
        "eta": task.eta,
        "expires": task.expires,
    })
}

fn merged(mut first: Value, second: Value) -> Value {
    if let (Some(first), Value::Object(second)) = (first.as_object_mut(), second) {
        first.extend(second);
    }
    first
}

/// The publisher's time as the user's clock shows it; whatever a publisher says.
fn clock_time(timestamp: f64) -> String {
    let moment = Duration::try_from_secs_f64(timestamp)
        .ok()
        .and_then(|since| jiff::SignedDuration::try_from(since).ok())
        .and_then(|since| jiff::Timestamp::from_duration(since).ok());
    moment.map_or_else(
        || "??:??:??.???".to_owned(),
        |moment| {
            let zoned = moment.to_zoned_datetime(jiff::tz::TimeZone::system());
            zoned.strftime("%H:%M:%S%.3f").to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_of_a_publisher_is_shown() {
        for timestamp in [f64::NAN, f64::INFINITY, -1.0, 1e300, 1e18] {
            assert_eq!(clock_time(timestamp), "??:??:??.???", "{timestamp}");
        }
        assert!(clock_time(1_795_437_575.766).ends_with(".766"));
    }
}
