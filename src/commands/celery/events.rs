//! `orch celery events`: prints the events of a deployment, one line each, as they arrive.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::{ConnectArgs, block_on};
use crate::commands::duration;
use crate::commands::follow_end::InterruptSignals;
use crate::commands::output::{plain, print_message, print_until_closed};
use orch_base::text::glob::matches_name;
use orch_base::text::printable;
use orch_base::text::printable::{one_line, shortened};
use orch_celery::{ControlTarget, Event, EventKind, StreamItem, TaskEvent, TaskId, TaskOrigin, WorkerEvent};

/// Number of tasks with a known name: only the first events of a task contain the name.
const MAX_KNOWN_TASKS: usize = 50_000;
/// Length in characters at which values are cut, except with `--json`.
const LONGEST_VALUE: usize = 100;
/// Fields that only `--json` shows: too long for a line, or always the same.
const JSON_ONLY: [&str; 5] = ["traceback", "freq", "sw_ident", "sw_ver", "sw_sys"];
/// Time without a task event after which a hint is printed. A worker sends a heartbeat every two seconds, so a worker
/// that sends nothing else has task events switched off.
const HINT_DELAY: Duration = Duration::from_secs(5);
/// Hint for a deployment without task events.
pub const NO_TASK_EVENTS: &str =
    "no task events so far: workers send them if started with `-E`, or after `--enable` has switched them on";
/// Time in which workers must confirm that they send events.
const ENABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Shows events as they arrive, until Ctrl+C
#[derive(Args, Debug)]
pub struct EventsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Show only these types, separated by commas, such as `task-failed,worker-offline`
    #[arg(long = "type", value_delimiter = ',', value_name = "TYPES")]
    kinds: Vec<String>,
    /// Show only events of tasks with this text in their name; a text with `*` or `?` is a pattern for the whole name
    #[arg(long, value_name = "GLOB")]
    task: Option<String>,
    /// Show only events of this worker (node name)
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Show only events of the job with this root task
    #[arg(long, value_name = "ID")]
    root: Option<String>,
    /// Switch task events on in the workers, until their processes end
    #[arg(long)]
    enable: bool,
    /// End after this number of shown events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    span: Option<Duration>,
    /// Print one JSON object per line, with all fields
    #[arg(long)]
    json: bool,
}

/// Facts that only the first events of a task contain.
#[derive(Clone, Default)]
struct TaskFacts {
    name: Option<Arc<str>>,
    root: Option<TaskId>,
}

/// Names and roots of tasks; when there are too many, the oldest are dropped.
#[derive(Default)]
struct KnownTasks {
    tasks: HashMap<TaskId, TaskFacts>,
    order: VecDeque<TaskId>,
}

impl KnownTasks {
    fn learn(&mut self, id: &TaskId, origin: &TaskOrigin) {
        if self.tasks.contains_key(id) {
            return;
        }
        if self.order.len() >= MAX_KNOWN_TASKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.tasks.remove(&oldest);
        }
        let known = TaskFacts {
            name: origin.name.as_deref().map(Arc::from),
            root: origin.root_id.clone(),
        };
        self.tasks.insert(id.clone(), known);
        self.order.push_back(id.clone());
    }

    fn of(&self, id: &TaskId) -> TaskFacts {
        self.tasks.get(id).cloned().unwrap_or_default()
    }
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &EventsArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    block_on(async {
        let mut interrupt = InterruptSignals::listen()?;
        let mut events = client.events().await?;
        if args.enable {
            let control = client.control();
            control.enable_events(&ControlTarget::All, ENABLE_TIMEOUT).await?;
        }
        let started = Instant::now();
        let end = args.span.map(|span| started + span);
        let mut memory = KnownTasks::default();
        let (mut shown, mut skipped, mut tasks, mut hinted) = (0, 0, false, false);
        while args.limit.is_none_or(|limit| shown < limit) {
            let until = end.map_or_else(
                || Instant::now() + HINT_DELAY,
                |end| end.min(Instant::now() + HINT_DELAY),
            );
            let notice = tokio::select! {
                biased;
                () = interrupt.received() => break,
                notice = tokio::time::timeout_at(until.into(), events.next()) => notice,
            };
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if !tasks && !hinted && started.elapsed() >= HINT_DELAY {
                hinted = true;
                print_message(NO_TASK_EVENTS);
            }
            match notice {
                Err(_) => {}
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(StreamItem::Gap)) => print_message("the connection was lost, events are missing here"),
                Ok(Ok(StreamItem::Event(event))) => {
                    tasks |= matches!(event.kind, EventKind::Task { .. });
                    if let Some(line) = line(&event, &mut memory, args) {
                        if !print_until_closed(&line) {
                            break;
                        }
                        shown += 1;
                    }
                }
            }
            if events.malformed() > skipped {
                skipped = events.malformed();
                print_message(&format!("{skipped} events could not be read and were skipped"));
            }
        }
        Ok(0)
    })
}

/// Returns the line of an event; `None` if the options exclude the event.
fn line(event: &Event, memory: &mut KnownTasks, args: &EventsArgs) -> Option<String> {
    let mut known = TaskFacts::default();
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
            .is_none_or(|text| known.name.as_ref().is_some_and(|name| matches_name(text, name)))
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
        text.push_str(&format!(" {name}={}", shortened(&plain(value), LONGEST_VALUE)));
    }
    Some(one_line(&text))
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

/// Returns the fields of an event to print, without type and task.
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

/// Formats the publisher's timestamp in the user's time zone. Accepts any number that a publisher may send.
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
