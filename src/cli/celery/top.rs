//! `orch celery top`: workers, queues and jobs as a table that keeps itself up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::connect::{ConnectArgs, converse};
use crate::celery::{
    Client, DEFAULT_QUEUE, Error, Event, EventKind, EventStream, Job, JobTracker, NodeName, Notice, Result, Stats,
    Target, WorkerEvent,
};
use crate::cli::output::print_on;
use crate::cli::table::table;
use crate::cli::{Refusal, duration};
use crate::printable;
use crate::run::Outcome;
use crate::ui::{Line, Screen, Tone, coarse_span, release};

/// How long workers have to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Jobs that ended so long ago are shown no more.
const SHOWN_AFTER_END: Duration = Duration::from_secs(60);

/// Shows workers, queues and jobs, kept up to date, until Ctrl+C
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How often it is drawn anew
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Switch task events on in the workers, for the life of their processes
    #[arg(long)]
    enable: bool,
    /// Show it once, after one interval, and end; so does standard output that is no terminal
    #[arg(long)]
    once: bool,
    /// Print one JSON object each time
    #[arg(long)]
    json: bool,
}

/// A worker as far as it has told.
#[derive(Default)]
struct Worker {
    stats: Option<Stats>,
    queues: BTreeSet<String>,
    active: Option<u64>,
    processed: Option<u64>,
    heard: Option<Instant>,
    offline: bool,
}

/// All that is shown.
#[derive(Default)]
struct View {
    workers: BTreeMap<NodeName, Worker>,
    queues: BTreeMap<String, u64>,
    unacked: u64,
    jobs: JobTracker,
    /// Why something could not be looked at.
    problem: Option<String>,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &TopArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(PATIENCE);
    let failed = |error: Error| Refusal::because(Outcome::InfrastructureFailed, error.to_string());
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    let once = args.once || (!args.json && !live);
    converse(async {
        args.connect.name_lists(&client, &[]).await.map_err(failed)?;
        let mut events = client.events().await.map_err(failed)?;
        if args.enable {
            client
                .control()
                .enable_events(&Target::All, PATIENCE)
                .await
                .map_err(failed)?;
        }
        let mut screen = match live {
            true => {
                leave_on_signals()?;
                Some(Screen::take())
            }
            false => None,
        };
        let mut view = View::default();
        loop {
            let due = Instant::now() + args.interval;
            let looked = look(&client, &mut view).await;
            view.problem = looked.err().map(|error| error.to_string());
            fold_until(due, &mut events, &client, &mut view).await.map_err(failed)?;
            let now = Instant::now();
            if let Some(screen) = &mut screen {
                let size = Screen::size();
                let mut lines = lines(&view, now);
                lines.truncate(size.1.saturating_sub(1));
                let painted = |line: &String| Line::of(Tone::Plain, line).paint(size.0, false);
                let lines = lines.iter().map(painted).collect();
                if screen.draw(&[], lines, size).is_err() {
                    return Ok(0);
                }
                continue;
            }
            let printed = match args.json {
                true => print_on(&printable::json(&as_json(&view, now))),
                false => lines(&view, now).iter().all(|line| print_on(line)),
            };
            if once || !printed {
                return Ok(u8::from(view.problem.is_some()));
            }
        }
    })?
}

/// Ctrl+C is how it ends: the terminal is given back first.
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

#[expect(
    clippy::exit,
    reason = "nothing is held that would not be given back by the end of the process"
)]
fn leave() -> ! {
    std::process::exit(0)
}

/// Asks for what events do not tell.
async fn look(client: &Client, view: &mut View) -> Result<()> {
    let control = client.control();
    let (stats, queues) = tokio::join!(
        control.stats(&Target::All, PATIENCE),
        control.active_queues(&Target::All, PATIENCE)
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
    // Queues that were consumed a moment ago still hold what they hold.
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

/// Takes in events until then.
async fn fold_until(due: Instant, events: &mut EventStream, client: &Client, view: &mut View) -> Result<()> {
    while let Ok(notice) = tokio::time::timeout_at(due.into(), events.next()).await {
        match notice? {
            Notice::Event(event) => fold(*event, view),
            Notice::Gap => {
                view.jobs.gap();
                // What cannot be learnt now is learnt by the tasks' own events, or not at all.
                client.reconcile(&mut view.jobs).await.ok();
            }
        }
    }
    Ok(())
}

fn fold(event: Event, view: &mut View) {
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

/// Jobs to be shown: the busiest first, then those that ended last.
fn shown_jobs(view: &View, now: Instant) -> Vec<&Job> {
    let mut jobs: Vec<&Job> = view
        .jobs
        .jobs()
        .filter(|job| !job.is_idle() || now.duration_since(job.last_seen) < SHOWN_AFTER_END)
        .collect();
    jobs.sort_by_key(|job| (job.is_idle(), std::cmp::Reverse(job.last_seen), job.root.clone()));
    jobs
}

fn lines(view: &View, now: Instant) -> Vec<String> {
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
            0 => "no task events so far: workers send them with `-E`, or once `--enable` has switched them on",
            _ => "no job is under way",
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

fn as_json(view: &View, now: Instant) -> Value {
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
