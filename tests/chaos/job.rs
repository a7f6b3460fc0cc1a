//! One job, a chord of many short chunks on a real worker, with a random fault every few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fault::{Cast, Fault};
use crate::processes::sleep_until;
use crate::report::Results;
use crate::scrape::configuration;
use crate::settings::Limits;
use crate::support::bookshop;
use crate::support::orch::{Ended, Orch, Project};

/// Of a whole job; `ORCH_CHAOS_CHUNKS` chooses another number.
const CHUNKS: u32 = 2000;
const CHUNK_SECONDS: f64 = 0.12;
/// From one fault to the next.
const PACE: Duration = Duration::from_secs(3);
/// Beyond this a job hangs.
const PATIENCE: Duration = Duration::from_secs(420);
/// With late acknowledgement a chunk whose process dies is done again.
const LATE: &str = "settings = { \"task.acks_late\" = 1, \"task.reject_on_worker_lost\" = 1 }";

pub fn run(limits: Limits) -> Results {
    let mut results = Results::default();
    let mut number = 0;
    while limits.allow(number) {
        let random = limits.random(number);
        // With and without late acknowledgement in turn.
        let late = number % 2 == 0;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(late, random, &mut results)));
        results.rounds += 1;
        let problems = outcome.unwrap_or_else(|_| vec!["the round panicked, see above".to_owned()]);
        let named = problems.into_iter().map(|problem| format!("job {number}: {problem}"));
        results.violations.extend(named);
        number += 1;
    }
    results
}

/// One job from its start to its end; what it broke.
fn job(late: bool, mut random: fastrand::Rng, results: &mut Results) -> Vec<String> {
    let chunks = chunks();
    let project = bookshop::project_with(
        "chaos_app",
        &configuration(chunks, CHUNK_SECONDS, if late { LATE } else { "" }),
    );
    let mut orch = project.orch_with(&["run"], &[], Duration::from_secs(15));
    let began = Instant::now();
    orch.wait_for("the job", |event| event["event"] == "site_job_started");
    let mut next = Instant::now() + PACE;
    let mut done = 0;
    while !over(&orch) {
        if began.elapsed() > PATIENCE {
            return vec![format!(
                "the job hangs after {done} faults: {}",
                last_events(&orch.events())
            )];
        }
        // Short steps, so that the end is seen.
        if Instant::now() < next {
            sleep_until((Instant::now() + Duration::from_millis(50)).min(next));
            continue;
        }
        let fault = Fault::ALL[random.usize(..Fault::ALL.len())];
        if let Some(struck) = cast(&orch.events()).and_then(|cast| cast.strike(fault, &mut random)) {
            println!("    {:>6.1} s: {fault}", began.elapsed().as_secs_f64());
            results.count(fault.to_string());
            done += 1;
            if let Some(pause) = struck.pause {
                sleep_until(Instant::now() + pause);
                struck.resume();
            }
        }
        next = Instant::now() + PACE;
    }
    let ended = orch.finish();
    let name = if late {
        "late acknowledgement"
    } else {
        "early acknowledgement"
    };
    results.figures.insert(
        format!("job of {chunks} chunks with {name}"),
        format!("{done} faults, {} s", began.elapsed().as_secs()),
    );
    check(&project, &ended, chunks, late, results)
}

fn chunks() -> u32 {
    let asked = std::env::var("ORCH_CHAOS_CHUNKS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(CHUNKS)
}

/// Whether the job has ended, or orch has.
fn over(orch: &Orch<'_>) -> bool {
    !crate::processes::lives(orch.pid)
        || orch
            .events()
            .iter()
            .any(|event| event["event"] == "site_finished" || event["event"] == "stop_started")
}

/// Who plays which part now, by the journal.
fn cast(events: &[Value]) -> Option<Cast> {
    let pid = |value: &Value| value.as_i64().and_then(|pid| i32::try_from(pid).ok());
    let started = events.iter().find(|event| event["event"] == "run_started")?;
    let service = |name: &str| {
        let spawned = |event: &&Value| event["event"] == "service_spawned" && event["service"] == name;
        events.iter().rev().find(spawned).and_then(|event| pid(&event["pid"]))
    };
    Some(Cast {
        orch: pid(&started["pid"])?,
        guard: pid(&started["guard_pid"])?,
        redis: service("redis"),
        worker: service("celery"),
    })
}

/// How often each chunk was done.
fn ledger(directory: &Path) -> BTreeMap<u32, u32> {
    let text = fs::read_to_string(directory.join("ledger")).unwrap_or_default();
    let mut times = BTreeMap::new();
    for number in text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()) {
        *times.entry(number).or_default() += 1;
    }
    times
}

fn check(project: &Project, ended: &Ended, chunks: u32, late: bool, results: &mut Results) -> Vec<String> {
    let mut problems = Vec::new();
    if !ended.left.is_empty() {
        problems.push(format!("left behind: {:?}", ended.left));
    }
    let times = ledger(project.path());
    let done = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let again: u32 = times.values().map(|times| times - 1).sum();
    let finished = ended.events_of("site_finished");
    let Some(finished) = finished.first() else {
        problems.push(format!("the site has no end: {}", last_events(&ended.events)));
        return problems;
    };
    let counted = finished["counts"]["completed_chunks"].as_u64();
    let complete = finished["status"] == "complete";
    let told = format!("done {done}, {again} of them again; orch says {finished}");
    results.figures.insert(
        format!("chunks done again, {}", if late { "late" } else { "early" }),
        again.to_string(),
    );
    if complete {
        if counted != Some(u64::from(chunks)) || done != chunks {
            problems.push(format!("complete without all {chunks}: {told}"));
        }
        if ended.code != Some(0) {
            problems.push(format!("complete with exit code {:?}: {told}", ended.code));
        }
    } else if late {
        problems.push(format!("not complete: {told}"));
    } else {
        // What was acknowledged and then lost is failed, counted and named.
        if ended.code != Some(1) {
            problems.push(format!("failed with exit code {:?}: {told}", ended.code));
        }
        if finished["reason"].as_str().is_none_or(str::is_empty) {
            problems.push(format!("failed without a reason: {told}"));
        }
        if counted.is_none_or(|counted| counted > u64::from(done)) {
            problems.push(format!("more chunks counted than were done: {told}"));
        }
    }
    let numbers: BTreeSet<u32> = times.keys().copied().collect();
    if late && complete && numbers != (0..chunks).collect() {
        problems.push(format!("other chunks than asked for: {told}"));
    }
    if !problems.is_empty() {
        println!("{}\n{}{}", told, ended.stdout, ended.stderr);
    }
    problems
}

fn last_events(events: &[Value]) -> String {
    let last = events.iter().rev().take(10).rev();
    last.map(|event| format!("\n      {event}")).collect()
}
