//! Runs of several sites, each with one job of many chunks that keeps a ledger. A few faults strike at random moments of the run:
//! while services start, in a dispatch, among the chunks, in a callback. Each verdict is compared with the ledger.

mod moments;
mod plan;
mod round;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::judge::{self, judge, verdicts};
use crate::ledger::{Ledger, Truth};
use crate::report::Results;
use crate::scrape::OWN_REDIS;
use crate::settings::Limits;
use crate::support::bookshop;
use crate::support::orch::{Orch, Project, WAIT_TIMEOUT};
use crate::support::redis::RedisServer;
use moments::LedgerTail;
use plan::{Plan, RESTARTS, Setup};
use round::Round;
use table::VerdictTable;

/// Time from the end of orch to the end of its last process.
const GRACE: Duration = Duration::from_secs(15);

/// Runs rounds until the limits are reached.
pub fn run(limits: Limits) -> Results {
    judge::check_itself();
    let mut results = Results::default();
    let mut table = VerdictTable::default();
    let mut number = limits.only.unwrap_or(0);
    let first = number;
    while limits.allow(number - first) && (limits.only.is_none() || number == first) {
        let plan = Plan::new(number, limits.random(number));
        println!("  round {number}: {plan}");
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round(&plan, &mut table, &mut results)));
        results.rounds += 1;
        let problems = outcome.unwrap_or_else(|_| vec!["the round panicked, see above".to_owned()]);
        println!("    {} s, {} violations", began.elapsed().as_secs(), problems.len());
        for problem in problems {
            println!("    VIOLATION: {problem}");
            results
                .violations
                .push(format!("round {number}, {}: {problem}", plan.setup));
        }
        number += 1;
    }
    table.finish(&mut results);
    results
}

/// Runs one round; returns its problems.
fn round(plan: &Plan, table: &mut VerdictTable, results: &mut Results) -> Vec<String> {
    let mut server = (plan.setup == Setup::External).then(RedisServer::start);
    let theirs = (plan.setup == Setup::Reused).then(|| {
        let configuration = format!("[redis]\n{OWN_REDIS}\nauth = false\n{RESTARTS}{}", plan.worker());
        bookshop::project_with("ledger_app", &configuration)
    });
    let their_up = theirs.as_ref().map(start_up);
    let redis = match (&server, &theirs) {
        (Some(server), _) => format!("mode = \"external\"\nport = {}", server.port),
        (_, Some(theirs)) => format!("mode = \"external\"\nport = {}", port(theirs)),
        _ => format!("{OWN_REDIS}\n{RESTARTS}"),
    };
    // A run that finds no worker of the other project starts another worker, which writes into the same ledgers.
    let ledgers = theirs.as_ref().map_or_else(String::new, |theirs| {
        format!("[celery.env]\nLEDGER = {:?}\n", theirs.path().display().to_string())
    });
    let project = bookshop::project_with("ledger_app", &format!("{}{ledgers}", plan.configuration(&redis)));
    let own_up = (plan.setup == Setup::BesideUp).then(|| start_up(&project));
    // The worker of the other project writes into the directory in which it was started.
    let directory = theirs.as_ref().map_or(project.path(), Project::path);
    let mut round = Round {
        plan,
        project: &project,
        sharer: theirs.as_ref().unwrap_or(&project),
        up: their_up.or(own_up),
        broker: server.as_ref().map(|server| server.url(0)),
        random: plan.random.clone(),
        tail: LedgerTail::new(directory),
        ledgers: directory.to_owned(),
        events: Vec::new(),
        began: Instant::now(),
    };
    let mut problems = round.go(server.as_mut(), results).err().into_iter().collect::<Vec<_>>();
    // Ends the tasks before the ledgers are judged.
    problems.extend(round.up.take().and_then(end_up));
    problems.extend(judge_all(plan, &round.events, directory, table, results));
    if !problems.is_empty() {
        let runs = round.events.iter().map(|(code, events)| {
            let shown = events.iter().filter(|event| is_informative(event));
            format!(
                "    run that ended with {code:?}:{}\n",
                shown.map(|event| format!("\n      {event}")).collect::<String>()
            )
        });
        println!("{}", runs.collect::<String>());
        keep(directory, &project);
    }
    problems
}

/// Copies the directories of a round with a violation, for a later analysis.
fn keep(ledgers: &Path, project: &Project) {
    let Some(target) = std::env::var_os("ORCH_CHAOS_KEEP").map(PathBuf::from) else {
        println!("    ORCH_CHAOS_KEEP=DIRECTORY keeps the ledgers and journals of such a round");
        return;
    };
    for directory in [ledgers, project.path()] {
        let name = directory.file_name().unwrap_or_default();
        let copied = std::process::Command::new("cp")
            .args(["-r", "--no-dereference"])
            .args([directory, &target.join(name)])
            .status();
        println!("    kept: {} ({copied:?})", target.join(name).display());
    }
}

/// Decides whether an event is printed after a violation.
fn is_informative(event: &Value) -> bool {
    let kind = event["event"].as_str().unwrap_or_default();
    (kind.starts_with("site_") && kind != "site_progressed" && kind != "site_queued")
        || matches!(
            kind,
            "noticed"
                | "guard_problem_found"
                | "redis_problem_found"
                | "worker_problem_found"
                | "consumer_returned"
                | "messages_restored"
                | "run_file_failed"
                | "free_site_awaited"
                | "proxy_chunks_lost"
                | "crashing_task_revoked"
                | "stale_executions_found"
                | "queue_unconsumed"
                | "service_exited"
                | "service_ready"
                | "run_finished"
                | "run_started"
                | "stop_started"
        )
}

/// Returns the port of the Redis of an `orch up`.
fn port(project: &Project) -> u64 {
    let text = fs::read(project.state_dir().join("instance.json")).expect("could not read instance.json");
    let instance: Value = serde_json::from_slice(&text).expect("instance.json");
    instance["redis"]["port"].as_u64().expect("the port of Redis")
}

/// Returns the events so far of the run of this process. An `orch up` may share the state directory, which then has the
/// runs of both.
fn journal(project: &Project, pid: i32) -> Vec<Value> {
    let runs = fs::read_dir(project.state_dir().join("runs"));
    for run in runs.into_iter().flatten().flatten() {
        let text = fs::read_to_string(run.path().join("journal.jsonl")).unwrap_or_default();
        let first: Option<Value> = text.lines().next().and_then(|line| serde_json::from_str(line).ok());
        if first.is_some_and(|first| first["pid"].as_i64() == Some(pid.into())) {
            let lines = text.lines();
            return lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        }
    }
    Vec::new()
}

/// Starts `orch up` and waits until its worker is ready.
fn start_up(project: &Project) -> Orch<'_> {
    let up = project.orch_with(&["up"], &[], GRACE);
    let file = project.state_dir().join("instance.json");
    let is_ready = up.wait_within(WAIT_TIMEOUT, &[], || {
        let events = journal(project, up.pid);
        let is_worker = |event: &Value| event["event"] == "service_ready" && event["service"] == "celery";
        (events.iter().any(is_worker) && file.exists()).then_some(())
    });
    is_ready.expect("`orch up` is ready");
    up
}

/// Ends an `orch up`; returns the problem if it did not end well.
fn end_up(up: Orch<'_>) -> Option<String> {
    up.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = up.finish();
    let is_well = ended.code == Some(143) && ended.left.is_empty();
    (!is_well).then(|| {
        format!(
            "`orch up` ended with {:?}, left {:?}: {}",
            ended.code, ended.left, ended.stderr
        )
    })
}

/// Compares the verdicts of all runs of a round with the ledgers; returns the problems.
fn judge_all(
    plan: &Plan,
    runs: &[(Option<i32>, Vec<Value>)],
    directory: &Path,
    table: &mut VerdictTable,
    results: &mut Results,
) -> Vec<String> {
    let mut problems = Vec::new();
    let all: Vec<_> = runs.iter().flat_map(|(_, events)| verdicts(events)).collect();
    for number in 0..plan.sites.len() {
        let name = Plan::site_name(number);
        let ledger = Ledger::read(directory, &name);
        table.jobs += 1;
        table.again += ledger.jobs().map(|job| job.executions_again()).sum::<u32>();
        let mut last = None;
        for verdict in all.iter().filter(|verdict| verdict.site == name) {
            let (truth, wrong) = judge(verdict, plan.asked(&name), &ledger);
            problems.extend(wrong);
            *table.cells.entry((truth, verdict.status.clone())).or_default() += 1;
            let acknowledgement = if plan.late { "late" } else { "early" };
            let reason = without_numbers(&verdict.reason);
            match (truth, verdict.status.as_str()) {
                (_, "unknown") => {
                    results.count(format!("UNKNOWN (names {}): {reason}", plan.sites[number].names.word()))
                }
                (Truth::Lost, "failed" | "retried") => {
                    results.count(format!("lost, {acknowledgement} acknowledgement: {reason}"))
                }
                (Truth::NotStored | Truth::FailedByCelery | Truth::DispatchedAgain, "failed" | "retried") => {
                    results.count(format!("{truth}, and FAILED: {reason}"));
                }
                _ => {}
            }
            last = Some(verdict);
        }
        let shown = last.map_or("no end".to_owned(), |last| {
            format!("{} {}", last.status.to_uppercase(), last.reason)
        });
        println!("    {name}: {shown}");
        if last.is_none_or(|last| last.status == "cancelled" || last.status.starts_with("retried")) {
            problems.push(format!("the site {name} has no end: {shown}"));
        }
    }
    problems
}

/// Returns a reason without the words that differ from job to job.
fn without_numbers(reason: &str) -> String {
    let words = reason.split(' ').map(|word| {
        let differs = word.chars().any(|letter| letter.is_ascii_digit());
        if differs { "N" } else { word }
    });
    let mut words: Vec<_> = words.collect();
    words.dedup();
    words.join(" ")
}
