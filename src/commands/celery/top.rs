//! `orch celery top`: shows workers, queues and jobs as tables that are redrawn continuously.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::connect::{ConnectArgs, block_on};
use super::events::NO_TASK_EVENTS;
use crate::commands::duration;
use crate::commands::output::print_until_closed;
use crate::commands::table::table;
use orch_base::text::printable;
use orch_celery::{
    Client, ControlTarget, DEFAULT_QUEUE, Event, EventKind, EventStream, Job, JobTracker, NodeName, Result, StreamItem,
    WorkerEvent, WorkerStats,
};
use orch_views::{LiveScreen, StyledLine, TextTone, coarse_span, release};

/// Time in which workers must reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which an ended job is still shown.
const ENDED_JOB_GRACE: Duration = Duration::from_secs(60);

/// Shows workers, queues and jobs continuously, until Ctrl+C
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Time between two updates
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Switch task events on in the workers, until their processes end
    #[arg(long)]
    enable: bool,
    /// Show the tables once, after one interval, and end; the default if standard output is not a terminal
    #[arg(long)]
    once: bool,
    /// Print one JSON object at each update
    #[arg(long)]
    json: bool,
}

/// Known facts about a worker, from replies and events.
#[derive(Default)]
struct WorkerFacts {
    stats: Option<WorkerStats>,
    queues: BTreeSet<String>,
    active: Option<u64>,
    processed: Option<u64>,
    heard: Option<Instant>,
    offline: bool,
}

/// All facts that are shown.
#[derive(Default)]
struct TopView {
    workers: BTreeMap<NodeName, WorkerFacts>,
    queues: BTreeMap<String, u64>,
    unacked: u64,
    jobs: JobTracker,
    /// Reason why some facts could not be read.
    problem: Option<String>,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &TopArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(REPLY_TIMEOUT);
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    let once = args.once || (!args.json && !live);
    block_on(async {
        args.connect.name_lists(&client, &[]).await?;
        let mut events = client.events().await?;
        if args.enable {
            let control = client.control();
            control.enable_events(&ControlTarget::All, REPLY_TIMEOUT).await?;
        }
        let mut screen = match live {
            true => {
                leave_on_signals()?;
                Some(LiveScreen::take())
            }
            false => None,
        };
        let mut view = TopView::default();
        loop {
            let due = Instant::now() + args.interval;
            let looked = look(&client, &mut view).await;
            view.problem = looked.err().map(|error| error.to_string());
            fold_until(due, &mut events, &client, &mut view).await?;
            let now = Instant::now();
            if let Some(screen) = &mut screen {
                let size = LiveScreen::size();
                let mut lines = lines(&view, now);
                lines.truncate(size.1.saturating_sub(1));
                let painted = |line: &String| StyledLine::of(TextTone::Plain, line).paint(size.0, false);
                let lines = lines.iter().map(painted).collect();
                if screen.draw(&[], lines, size).is_err() {
                    return Ok(0);
                }
                continue;
            }
            let printed = match args.json {
                true => print_until_closed(&printable::json(&as_json(&view, now))),
                false => lines(&view, now).iter().all(|line| print_until_closed(line)),
            };
            if once || !printed {
                return Ok(u8::from(view.problem.is_some()));
            }
        }
    })
}

/// Starts a thread that restores the terminal and ends the process at Ctrl+C, SIGTERM or SIGHUP.
fn leave_on_signals() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            release();
            leave();
        }
    })?;
    Ok(())
}

#[expect(clippy::exit, reason = "the end of the process releases all resources")]
fn leave() -> ! {
    std::process::exit(0)
}

/// Reads the facts that events do not contain.
async fn look(client: &Client, view: &mut TopView) -> Result<()> {
    let control = client.control();
    let (stats, queues) = tokio::join!(
        control.stats(&ControlTarget::All, REPLY_TIMEOUT),
        control.active_queues(&ControlTarget::All, REPLY_TIMEOUT)
    );
    let (stats, queues) = (stats?, queues?);
    let mut names = BTreeSet::new();
    for (node, stats) in stats.good() {
        let worker = view.workers.entry(node.clone()).or_default();
        worker.processed = Some(stats.totals.values().sum());
        worker.stats = Some(stats.clone());
        worker.heard = Some(Instant::now());
        worker.offline = false;
    }
    for (node, consumed) in queues.good() {
        let consumed: BTreeSet<String> = consumed.iter().map(|queue| queue.name.clone()).collect();
        names.extend(consumed.iter().cloned());
        view.workers.entry(node.clone()).or_default().queues = consumed;
    }
    // Queues that have lost their consumers may still contain messages.
    names.extend(view.queues.keys().cloned());
    if names.is_empty() {
        names.insert(DEFAULT_QUEUE.to_owned());
    }
    for name in names {
        let depth = client.queue_depth(&name).await?.values().sum();
        view.queues.insert(name, depth);
    }
    view.unacked = client.unacked_count().await?;
    Ok(())
}

/// Applies events until `due`.
async fn fold_until(due: Instant, events: &mut EventStream, client: &Client, view: &mut TopView) -> Result<()> {
    while let Ok(notice) = tokio::time::timeout_at(due.into(), events.next()).await {
        match notice? {
            StreamItem::Event(event) => fold(*event, view),
            StreamItem::Gap => {
                view.jobs.record_gap();
                // States that cannot be read now follow from later events of the tasks, or stay unknown.
                client.reconcile(&mut view.jobs).await.ok();
            }
        }
    }
    Ok(())
}

fn fold(event: Event, view: &mut TopView) {
    if let EventKind::Worker(what) = &event.kind {
        let worker = view.workers.entry(event.node.clone()).or_default();
        let (load, offline) = match what {
            WorkerEvent::Online(load) | WorkerEvent::Heartbeat(load) => (load, false),
            WorkerEvent::Offline(load) => (load, true),
        };
        worker.active = load.active.or(worker.active);
        worker.heard = Some(event.received_at);
        worker.offline = offline;
    }
    view.jobs.fold(event);
}

/// Returns the jobs to show: active jobs first, then ended jobs; within both, the most recent activity first.
fn shown_jobs(view: &TopView, now: Instant) -> Vec<&Job> {
    let mut jobs: Vec<&Job> = view
        .jobs
        .jobs()
        .filter(|job| !job.is_idle() || now.duration_since(job.last_seen) < ENDED_JOB_GRACE)
        .collect();
    jobs.sort_by_key(|job| (job.is_idle(), std::cmp::Reverse(job.last_seen), job.root.clone()));
    jobs
}

fn lines(view: &TopView, now: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(problem) = &view.problem {
        lines.push(printable::one_line(problem));
    }
    let ago = |then: Option<Instant>| {
        then.map_or_else(
            || "-".to_owned(),
            |then| coarse_span(now.duration_since(then).as_secs_f64()),
        )
    };
    let rows: Vec<Vec<String>> = view
        .workers
        .iter()
        .map(|(node, worker)| {
            let slots = worker.stats.as_ref().map(|stats| stats.pool_slots);
            vec![
                node.to_string(),
                if worker.offline { "offline" } else { "online" }.to_owned(),
                match (worker.active, slots) {
                    (Some(active), Some(slots)) => format!("{active}/{slots}"),
                    (None, Some(slots)) => format!("?/{slots}"),
                    (Some(active), None) => active.to_string(),
                    (None, None) => "-".to_owned(),
                },
                worker
                    .processed
                    .map_or_else(|| "-".to_owned(), |count| count.to_string()),
                ago(worker.heard),
                worker.queues.iter().cloned().collect::<Vec<_>>().join(","),
            ]
        })
        .collect();
    if rows.is_empty() {
        lines.push("no worker answers".to_owned());
    } else {
        lines.extend(table(&["WORKER", "STATE", "BUSY", "STARTED", "HEARD", "QUEUES"], &rows));
    }
    lines.push(String::new());
    let rows: Vec<Vec<String>> = view
        .queues
        .iter()
        .map(|(name, depth)| vec![name.clone(), depth.to_string()])
        .collect();
    lines.extend(table(&["QUEUE", "WAITING"], &rows));
    lines.push(format!("unacknowledged: {}", view.unacked));
    lines.push(String::new());
    let jobs = shown_jobs(view, now);
    if jobs.is_empty() {
        let hint = match view.jobs.totals().events {
            0 => NO_TASK_EVENTS,
            _ => "no job is active",
        };
        lines.push(hint.to_owned());
    } else {
        let headings = ["JOB", "DONE", "FAILED", "RUNNING", "WAITING", "RATE", "AGE", "ROOT"];
        let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job, now)).collect();
        lines.extend(table(&headings, &rows));
    }
    let totals = view.jobs.totals();
    if totals.gaps > 0 {
        lines.push(format!("events were lost {} times", totals.gaps));
    }
    lines
}

fn row(job: &Job, now: Instant) -> Vec<String> {
    let counts = job.counts;
    vec![
        job.name.as_deref().unwrap_or("?").to_owned(),
        format!("{}/{}", counts.ended(), counts.seen()),
        (counts.failed + counts.revoked).to_string(),
        counts.running.to_string(),
        counts.waiting.to_string(),
        format!("{:.1}/s", job.rate(now)),
        coarse_span(now.duration_since(job.first_seen).as_secs_f64()),
        job.root.to_string(),
    ]
}

fn as_json(view: &TopView, now: Instant) -> Value {
    let workers: serde_json::Map<String, Value> = view
        .workers
        .iter()
        .map(|(node, worker)| {
            let fields = json!({
                "online": !worker.offline,
                "active": worker.active,
                "slots": worker.stats.as_ref().map(|stats| stats.pool_slots),
                "started": worker.processed,
                "heard_s": worker.heard.map(|heard| now.duration_since(heard).as_secs_f64()),
                "queues": worker.queues,
            });
            (node.to_string(), fields)
        })
        .collect();
    let jobs: Vec<Value> = shown_jobs(view, now)
        .into_iter()
        .map(|job| {
            let counts = job.counts;
            let slowest: Vec<Value> = job
                .slowest
                .iter()
                .map(|(seconds, name)| json!({ "task": &**name, "runtime_s": seconds }))
                .collect();
            json!({
                "root_id": job.root,
                "task": job.name.as_deref(),
                "seen": counts.seen(),
                "waiting": counts.waiting,
                "running": counts.running,
                "succeeded": counts.succeeded,
                "failed": counts.failed,
                "revoked": counts.revoked,
                "retries": counts.retries,
                "error_rate": counts.error_rate(),
                "rate": job.rate(now),
                "age_s": now.duration_since(job.first_seen).as_secs_f64(),
                "quiet_s": now.duration_since(job.last_seen).as_secs_f64(),
                "slowest": slowest,
            })
        })
        .collect();
    json!({
        "workers": workers,
        "queues": view.queues,
        "unacked": view.unacked,
        "jobs": jobs,
        "gaps": view.jobs.totals().gaps,
        "problem": view.problem,
    })
}
