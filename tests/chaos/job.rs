//! One job, a chord of many short chunks on a real worker, with a random fault every few seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk::Disk;
use crate::fault::{Fault, FaultTargets};
use crate::judge::{Asked, Verdict, judge, verdicts};
use crate::ledger::{Job, Ledger};
use crate::proxy::Proxy;
use crate::report::Results;
use crate::scrape::{OWN_REDIS, configuration};
use crate::settings::{Limits, chunks};
use crate::support::bookshop;
use crate::support::orch::{Ended, Orch, Project};
use crate::support::redis::RedisServer;
use crate::support::skip::skip;

/// Name of the site in the configuration.
const SITE: &str = "shop";
const CHUNK_SECONDS: f64 = 0.12;
/// Time from one fault to the next.
const FAULT_INTERVAL: Duration = Duration::from_secs(3);
const RETRIES: u32 = 12;
/// Largest number of faults of each kind that breaks connections.
const BROKEN: u32 = 3;
/// Time after which a job hangs.
const JOB_TIMEOUT: Duration = Duration::from_secs(600);
/// Time from the end of orch to the end of its last process.
const GRACE: Duration = Duration::from_secs(15);
/// Setting with which a chunk is executed again when its process dies.
const LATE: &str = "acks_late = true";

/// Setup of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    /// orch's own Redis, late acknowledgement.
    Late,
    /// orch's own Redis, early acknowledgement: the tasks of a process that dies are lost, and orch must report that.
    Early,
    /// An external Redis behind a proxy that cuts, holds and truncates connections; late acknowledgement.
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

/// Runs one whole job; returns the problems.
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
    // Celery loses some results in spite of late acknowledgement (when the disk of Redis is full); orch sees that and
    // repeats the site. With early acknowledgement the first loss is the end, so that the test can check the verdict.
    let retries = if setup == Setup::Early { 0 } else { RETRIES };
    let configuration = configuration(&redis, (chunks, CHUNK_SECONDS), retries, further);
    let project = bookshop::project_with("ledger_app", &configuration);
    let disk = Disk::at(&project.state_dir());
    let mut orch = project.orch_with(&["run"], &[], GRACE);
    let began = Instant::now();
    orch.wait_for("the job", |event| event["event"] == "site_job_started");
    let mut next = Instant::now() + FAULT_INTERVAL;
    let (mut done, mut was_full, mut ends) = (0, false, 0);
    let mut broken: BTreeMap<Fault, u32> = BTreeMap::new();
    // The last run that came to an end of the site: a run that resumes it after that has nothing to do.
    let mut last = None;
    let mut runs = Vec::new();
    let ended = loop {
        let mut killed = false;
        while !over(&orch) {
            if began.elapsed() > JOB_TIMEOUT {
                let events = last_events(&orch.events());
                return vec![format!("the job hangs after {done} faults: {events}")];
            }
            // The pause before the next fault ends early with the job.
            let left = next.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                orch.wait_within(left, &[], || over(&orch).then_some(())).ok();
                continue;
            }
            let events = orch.events();
            if !is_under_way(&events) {
                let left = JOB_TIMEOUT.saturating_sub(began.elapsed());
                let is_under_way = || (over(&orch) || is_under_way(&orch.events())).then_some(());
                orch.wait_within(left, &[], is_under_way).ok();
                continue;
            }
            next = Instant::now() + FAULT_INTERVAL;
            let fault = setup.faults()[random.usize(..setup.faults().len())];
            // Results that Redis could not store on the full disk are lost, and the whole job is repeated: once is
            // enough to see that, and a job with this fault in every attempt would never end.
            if fault == Fault::DiskFull && std::mem::replace(&mut was_full, true) {
                continue;
            }
            // Celery stores an error for a chunk whose connection breaks during the update of the chord's keys, and the
            // whole job is repeated: a job with this fault in every attempt would never end either.
            if fault.breaks_connections() && broken.get(&fault) == Some(&BROKEN) {
                continue;
            }
            // With early acknowledgement each end of the run loses chunks, and a resumed run repeats the whole job: a
            // job that is ended again and again would never end.
            if setup == Setup::Early && fault.ends_the_run() && ends == 2 {
                continue;
            }
            if let (Fault::DiskFull, Err(reason)) = (fault, &disk) {
                skip(format_args!("{fault}: {reason}"));
                *results.skipped.entry(format!("{fault}: {reason}")).or_default() += 1;
                continue;
            }
            let at = began.elapsed().as_secs_f64();
            let struck = fault_targets(&events).is_some_and(|targets| {
                let targets = FaultTargets {
                    proxy: external.as_ref().map(|(_, proxy)| proxy),
                    disk: disk.as_ref().ok(),
                    ..targets
                };
                targets.strike(fault, &mut random)
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
        runs.push(ended.events.clone());
        if !killed && !ended.events.is_empty() {
            break ended;
        }
        if !killed {
            // This run was resumed when nothing was left to do.
            let Some(before) = last.take() else {
                return vec![format!(
                    "the job ends with {:?}: {}{}",
                    ended.code, ended.stdout, ended.stderr
                )];
            };
            let code = ended.code;
            break Ended { code, ..before };
        }
        // When orch and guard are killed at the same instant, the next start ends the daemonised processes.
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
    check(&project, &runs, &ended, chunks, setup, results)
}

/// Returns whether a job exists that a fault can disturb.
fn is_under_way(events: &[Value]) -> bool {
    events
        .iter()
        .any(|event| event["event"] == "site_job_started" || event["event"] == "site_picked_up")
}

/// Returns whether the job or orch has ended.
fn over(orch: &Orch<'_>) -> bool {
    !crate::processes::lives(orch.pid)
        || orch
            .events()
            .iter()
            .any(|event| event["event"] == "site_finished" || event["event"] == "stop_started")
}

/// Returns the processes of the run, by its journal.
pub fn fault_targets(events: &[Value]) -> Option<FaultTargets<'static>> {
    let pid = |value: &Value| value.as_i64().and_then(|pid| i32::try_from(pid).ok());
    let started = events.iter().find(|event| event["event"] == "run_started")?;
    let service = |name: &str| {
        let spawned = |event: &&Value| event["event"] == "service_spawned" && event["service"] == name;
        events.iter().rev().find(spawned).and_then(|event| pid(&event["pid"]))
    };
    Some(FaultTargets {
        orch: pid(&started["pid"])?,
        guard: pid(&started["guard_pid"])?,
        redis: service("redis"),
        worker: service("celery"),
        up: None,
        proxy: None,
        disk: None,
    })
}

/// Compares the verdict on each attempt with the ledger, and checks that the last verdict is one that the setup allows.
fn check(
    project: &Project,
    runs: &[Vec<Value>],
    ended: &Ended,
    chunks: u32,
    setup: Setup,
    results: &mut Results,
) -> Vec<String> {
    let mut problems = Vec::new();
    if !ended.left.is_empty() {
        problems.push(format!("left behind: {:?}", ended.left));
    }
    let ledger = Ledger::read(project.path(), SITE);
    let again: u32 = ledger.jobs().map(Job::executions_again).sum();
    let name = format!("executions of chunks beyond the first, {}", setup.name());
    results.figures.insert(name, again.to_string());
    let asked = Asked {
        chunks,
        names_callback: true,
    };
    let all: Vec<Verdict> = runs.iter().flat_map(|events| verdicts(events)).collect();
    for verdict in &all {
        let (truth, wrong) = judge(verdict, asked, &ledger);
        problems.extend(wrong);
        if verdict.status.starts_with("retried") {
            results.count(format!("attempts that were done again, {}", setup.name()));
            println!("    repeated, the job was {truth}: {}", verdict.reason);
        }
    }
    let Some(last) = all.last() else {
        problems.push(format!("the site has no end: {}", last_events(&ended.events)));
        return problems;
    };
    let verdict_text = format!("{} {}", last.status, last.reason);
    let expected = if last.status == "complete" { 0 } else { 1 };
    if ended.code != Some(expected) {
        problems.push(format!("exit code {:?}: {verdict_text}", ended.code));
    }
    // A job with acknowledged and then lost tasks fails; with late acknowledgement no task is lost.
    if last.status != "complete" && setup != Setup::Early {
        problems.push(format!("not complete: {verdict_text}"));
    }
    if !problems.is_empty() {
        println!("{verdict_text}\n{}{}", ended.stdout, ended.stderr);
    }
    problems
}

fn last_events(events: &[Value]) -> String {
    let last = events.iter().rev().take(10).rev();
    last.map(|event| format!("\n      {event}")).collect()
}
