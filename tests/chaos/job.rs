//! One job, a chord of many short chunks on a real worker, with a random fault every few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk::Disk;
use crate::fault::{Cast, Fault};
use crate::processes::sleep_until;
use crate::proxy::Proxy;
use crate::report::Results;
use crate::scrape::{OWN_REDIS, configuration};
use crate::settings::Limits;
use crate::support::bookshop;
use crate::support::orch::{Ended, Orch, Project};
use crate::support::redis::RedisServer;

/// Of a whole job; `ORCH_CHAOS_CHUNKS` chooses another number.
const CHUNKS: u32 = 2000;
const CHUNK_SECONDS: f64 = 0.12;
/// From one fault to the next.
const PACE: Duration = Duration::from_secs(3);
const RETRIES: u32 = 12;
/// As often each way in which connections break is taken.
const BROKEN: u32 = 3;
/// Beyond this a job hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// From the end of orch to the end of the last process.
const GRACE: Duration = Duration::from_secs(15);
/// With late acknowledgement a chunk whose process dies is done again.
const LATE: &str = "acks_late = true";

/// How the job is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    /// orch's own Redis, late acknowledgement.
    Late,
    /// orch's own Redis, early acknowledgement: what dies with its process is lost, and must be told.
    Early,
    /// A Redis of others, behind a proxy that cuts, holds back and truncates; late acknowledgement.
    BehindProxy,
}

impl Setup {
    fn name(self) -> &'static str {
        match self {
            Self::Late => "late acknowledgement",
            Self::Early => "early acknowledgement",
            Self::BehindProxy => "late acknowledgement behind a proxy",
        }
    }

    fn faults(self) -> &'static [Fault] {
        match self {
            Self::Late | Self::Early => Fault::OWNED,
            Self::BehindProxy => Fault::BEHIND_PROXY,
        }
    }
}

pub fn run(limits: Limits) -> Results {
    let mut results = Results::default();
    let mut number = 0;
    while limits.allow(number) {
        let random = limits.random(number);
        let setup = [Setup::Late, Setup::BehindProxy, Setup::Early][number as usize % 3];
        println!("  job {number}: {}", setup.name());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(setup, random, &mut results)));
        results.rounds += 1;
        let problems = outcome.unwrap_or_else(|_| vec!["the round panicked, see above".to_owned()]);
        let named = problems
            .into_iter()
            .map(|problem| format!("job {number}, {}: {problem}", setup.name()));
        results.violations.extend(named);
        number += 1;
    }
    results
}

/// One job from its start to its end; what it broke.
fn job(setup: Setup, mut random: fastrand::Rng, results: &mut Results) -> Vec<String> {
    let chunks = chunks();
    let external = (setup == Setup::BehindProxy).then(|| {
        let server = RedisServer::start();
        let proxy = Proxy::before(server.port);
        (server, proxy)
    });
    let redis = external.as_ref().map_or_else(
        || OWN_REDIS.to_owned(),
        |(_, proxy)| format!("mode = \"external\"\nport = {}", proxy.port),
    );
    let further = if setup == Setup::Early { "" } else { LATE };
    // What Celery itself loses though it acknowledges late (a result that Redis had no disk for) is seen by orch, and
    // the site is done again. With early acknowledgement the first loss is the end, so that it can be looked at.
    let retries = if setup == Setup::Early { 0 } else { RETRIES };
    let configuration = configuration(&redis, (chunks, CHUNK_SECONDS), retries, further);
    let project = bookshop::project_with("chaos_app", &configuration);
    let disk = Disk::at(&project.state_dir());
    let mut orch = project.orch_with(&["run"], &[], GRACE);
    let began = Instant::now();
    orch.wait_for("the job", |event| event["event"] == "site_job_started");
    let mut next = Instant::now() + PACE;
    let (mut done, mut was_full, mut ends) = (0, false, 0);
    let mut broken: BTreeMap<Fault, u32> = BTreeMap::new();
    // The last run that came to an end of the site: one that is resumed after that has nothing to do.
    let mut last = None;
    let ended = loop {
        let mut killed = false;
        while !over(&orch) {
            if began.elapsed() > PATIENCE {
                let events = last_events(&orch.events());
                return vec![format!("the job hangs after {done} faults: {events}")];
            }
            // Short steps, so that the end is seen.
            if Instant::now() < next {
                sleep_until((Instant::now() + Duration::from_millis(50)).min(next));
                continue;
            }
            let events = orch.events();
            if !is_under_way(&events) {
                sleep_until(Instant::now() + Duration::from_millis(50));
                continue;
            }
            next = Instant::now() + PACE;
            let fault = setup.faults()[random.usize(..setup.faults().len())];
            // What was done while Redis had no disk for the result is lost, and the whole job is done again: once is
            // enough to see that, and a job that meets it in every attempt would never end.
            if fault == Fault::DiskFull && std::mem::replace(&mut was_full, true) {
                continue;
            }
            // Celery makes an error of a chunk whose connection breaks while it writes its part of the chord's books, and
            // the whole job is done again: one that meets it in every attempt would never end either.
            if fault.breaks_connections() && broken.get(&fault) == Some(&BROKEN) {
                continue;
            }
            // With early acknowledgement each end of the run loses chunks, and what is resumed does the whole job again: one
            // that is ended again and again would never end.
            if setup == Setup::Early && fault.ends_the_run() && ends == 2 {
                continue;
            }
            if let (Fault::DiskFull, Err(reason)) = (fault, &disk) {
                *results.skipped.entry(format!("{fault}: {reason}")).or_default() += 1;
                continue;
            }
            let at = began.elapsed().as_secs_f64();
            let struck = cast(&events).is_some_and(|cast| {
                let cast = Cast {
                    proxy: external.as_ref().map(|(_, proxy)| proxy),
                    disk: disk.as_ref().ok(),
                    ..cast
                };
                cast.strike(fault, &mut random)
            });
            if struck {
                println!("    {at:>6.1} s: {fault}");
                results.count(fault.to_string());
                done += 1;
                if fault.breaks_connections() {
                    *broken.entry(fault).or_default() += 1;
                }
            }
            if struck && fault.ends_the_run() {
                ends += 1;
                killed = true;
                break;
            }
        }
        let ended = orch.finish();
        if !killed && !ended.events.is_empty() {
            break ended;
        }
        if !killed {
            // Resumed when there was nothing left to do.
            let Some(before) = last.take() else {
                return vec![format!(
                    "the job ends with {:?}: {}{}",
                    ended.code, ended.stdout, ended.stderr
                )];
            };
            let code = ended.code;
            break Ended { code, ..before };
        }
        // With orch and guard gone at once, the next start ends what had daemonised.
        if !ended.left.is_empty() {
            return vec![format!("left behind: {:?}", ended.left)];
        }
        if !ended.events_of("site_finished").is_empty() {
            last = Some(ended);
        }
        orch = project.orch_with(&["run", "--resume"], &[], GRACE);
    };
    results.figures.insert(
        format!("job of {chunks} chunks, {}", setup.name()),
        format!("{done} faults, {} s", began.elapsed().as_secs()),
    );
    check(&project, &ended, chunks, setup, results)
}

/// Whether there is a job to be disturbed.
fn is_under_way(events: &[Value]) -> bool {
    events
        .iter()
        .any(|event| event["event"] == "site_job_started" || event["event"] == "site_picked_up")
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
fn cast(events: &[Value]) -> Option<Cast<'static>> {
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
        proxy: None,
        disk: None,
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

fn check(project: &Project, ended: &Ended, chunks: u32, setup: Setup, results: &mut Results) -> Vec<String> {
    let mut problems = Vec::new();
    if !ended.left.is_empty() {
        problems.push(format!("left behind: {:?}", ended.left));
    }
    let times = ledger(project.path());
    let done = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let again: u32 = times.values().map(|times| times - 1).sum();
    let retries = ended.events_of("site_retrying");
    if !retries.is_empty() {
        let name = format!("attempts that lost chunks and were done again, {}", setup.name());
        *results.faults.entry(name).or_default() += u32::try_from(retries.len()).unwrap_or(u32::MAX);
    }
    for retry in retries {
        println!("    done again: {}", retry["reason"]);
    }
    let finished = ended.events_of("site_finished");
    let Some(finished) = finished.first() else {
        problems.push(format!("the site has no end: {}", last_events(&ended.events)));
        return problems;
    };
    let counted = finished["counts"]["completed_chunks"].as_u64();
    let complete = finished["status"] == "complete";
    let told = format!("done {done}, {again} of them again; orch says {finished}");
    results
        .figures
        .insert(format!("chunks done again, {}", setup.name()), again.to_string());
    if complete {
        if counted != Some(u64::from(chunks)) || done != chunks {
            problems.push(format!("complete without all {chunks}: {told}"));
        }
        if ended.code != Some(0) {
            problems.push(format!("complete with exit code {:?}: {told}", ended.code));
        }
    } else if setup != Setup::Early {
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
    if complete && numbers != (0..chunks).collect() {
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
