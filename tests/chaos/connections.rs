//! Many small jobs on one worker, each a chord; all connections to Redis are cut at random moments, up to four times
//! while a job runs. Every job must soon have a true verdict: the tasks record their executions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::report::Results;
use crate::scrape::OWN_REDIS;
use crate::settings::Limits;
use crate::support::bookshop;
use crate::support::orch::{Ended, Orch, Project};
use crate::support::redis::RedisServer;
use crate::support::watch;

/// Jobs of one `orch run`; [`PARALLEL`] of them at the same time.
const JOBS: u32 = 24;
const PARALLEL: u32 = 6;
const CHUNKS: u32 = 14;
/// Duration of the shortest chunk; the longest takes three times as long.
const CHUNK_SECONDS: f64 = 0.1;
const SLOTS: u32 = 8;
/// Number of cuts while [`PARALLEL`] jobs come to their ends.
const CUTS: u32 = 4;
/// Range of the milliseconds between two cuts; a job takes some four seconds.
const GAP: std::ops::Range<u64> = 200..1800;
/// Time without progress after which no more connections are cut: orch must find a job that hangs without a further
/// event.
const QUIET_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time from the last chunk, callback or cut to the verdict.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a job hangs; orch then ends it.
const SITE_TIMEOUT: Duration = Duration::from_secs(90);
const GRACE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
struct Setup {
    own_redis: bool,
    late: bool,
    pool: &'static str,
}

impl Setup {
    const ALL: [Self; 8] = [
        Self::new(false, false, "prefork"),
        Self::new(true, true, "prefork"),
        Self::new(false, true, "prefork"),
        Self::new(true, false, "prefork"),
        Self::new(false, false, "threads"),
        Self::new(true, true, "solo"),
        Self::new(false, true, "threads"),
        Self::new(true, false, "prefork"),
    ];

    const fn new(own_redis: bool, late: bool, pool: &'static str) -> Self {
        Self { own_redis, late, pool }
    }

    /// Returns the number of jobs of a batch: in the same time, one slot does the work of a few jobs.
    fn jobs(self) -> u32 {
        if self.pool == "solo" { JOBS / 4 } else { JOBS }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redis = if self.own_redis { "own" } else { "external" };
        let acknowledgement = if self.late { "late" } else { "early" };
        write!(out, "{redis} Redis, {acknowledgement} acknowledgement, {}", self.pool)
    }
}

pub fn run(limits: Limits) -> Results {
    let mut results = Results::default();
    let mut delays = Vec::new();
    let mut batch = 0;
    while limits.allow(results.rounds) {
        let random = limits.random(batch);
        let setup = Setup::ALL[batch as usize % Setup::ALL.len()];
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            jobs(setup, random, &mut results, &mut delays)
        }));
        results.rounds += setup.jobs();
        let problems = outcome.unwrap_or_else(|_| vec!["the batch panicked, see above".to_owned()]);
        let named = problems
            .into_iter()
            .map(|problem| format!("batch {batch}, {setup}: {problem}"));
        results.violations.extend(named);
        batch += 1;
    }
    delays.sort();
    let shown =
        |delay: Option<&Duration>| delay.map_or_else(String::new, |delay| format!("{:.1} s", delay.as_secs_f64()));
    let figure = "from the last chunk, callback or cut to the verdict on a job that failed";
    let (median, longest) = (delays.get(delays.len() / 2), delays.last());
    results.figures.insert(
        figure.to_owned(),
        format!("median {}, longest {}", shown(median), shown(longest)),
    );
    results
}

fn configuration(setup: Setup, redis: &str) -> String {
    let Setup { late, pool, .. } = setup;
    let mut text = format!(
        r#"
[orch]
max_parallel_sites = {PARALLEL}
memory_reserve = "0"
[redis]
{redis}
[celery]
app = "connections_app"
concurrency = {SLOTS}
pool = "{pool}"
acks_late = {late}
restart = {{ limit = 1000, backoff = "50ms", backoff_max = "500ms" }}
[sites.defaults]
timeout = "{}s"
dispatch = {{ task = "connections.dispatch", kwargs = {{ site = "{{site}}", job_id = "{{job_id}}", chunks = {CHUNKS}, seconds = {CHUNK_SECONDS} }} }}
"#,
        SITE_TIMEOUT.as_secs()
    );
    for job in 0..setup.jobs() {
        text.push_str(&format!("[sites.job-{job}]\n"));
    }
    text
}

/// Record of the tasks of one job.
#[derive(Debug, Default)]
struct Ledger {
    /// Number of executions of each chunk.
    chunks: BTreeMap<u32, u32>,
    /// Ids of the callbacks that have run: a dispatch task that is delivered twice starts two chords.
    callbacks: BTreeSet<String>,
}

impl Ledger {
    fn read(project: &Project, site: &str) -> Self {
        let text = fs::read_to_string(project.file(&format!("ledger.{site}"))).unwrap_or_default();
        let mut ledger = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("total", id)) => drop(ledger.callbacks.insert(id.to_owned())),
                Some((number, _)) => *ledger.chunks.entry(number.parse().unwrap()).or_default() += 1,
                None => panic!("a line of the ledger is {line:?}"),
            }
        }
        ledger
    }

    fn is_complete(&self, chord: &Value) -> bool {
        let has_callback = chord.as_str().is_some_and(|chord| self.callbacks.contains(chord));
        has_callback && self.chunks.keys().copied().collect::<BTreeSet<_>>() == (0..CHUNKS).collect()
    }
}

/// Runs one whole batch; returns the problems.
fn jobs(setup: Setup, mut random: fastrand::Rng, results: &mut Results, delays: &mut Vec<Duration>) -> Vec<String> {
    let external = (!setup.own_redis).then(RedisServer::start);
    let redis = external.as_ref().map_or_else(
        || OWN_REDIS.to_owned(),
        |server| format!("mode = \"external\"\nport = {}", server.port),
    );
    let project = bookshop::project_with("connections_app", &configuration(setup, &redis));
    let mut orch = project.orch_with(&["run"], &[], GRACE);
    let began = Instant::now();
    orch.wait_for("the first job", |event| event["event"] == "site_job_started");
    let url = external
        .as_ref()
        .map_or_else(|| own_url(&project), |server| server.url(0));
    let mut redis = redis::Client::open(url).unwrap().get_connection().unwrap();
    let (mut cuts, mut moments) = (0_u32, Vec::new());
    let mut next = Instant::now();
    while crate::processes::lives(orch.pid) && began.elapsed() < SITE_TIMEOUT * 3 {
        // The pause before the next cut ends early with the run.
        if watch::ends(orch.pid, next.saturating_duration_since(Instant::now())) {
            break;
        }
        next = Instant::now() + Duration::from_millis(random.u64(GAP));
        let now = SystemTime::now();
        let is_calm =
            last_written(&project).is_some_and(|at| now.duration_since(at).unwrap_or_default() > QUIET_TIMEOUT);
        let finished = finished(&orch);
        if is_calm || finished >= setup.jobs() || cuts >= CUTS * (finished / PARALLEL + 1) {
            continue;
        }
        let mut cut = redis::pipe();
        for kind in ["normal", "pubsub"] {
            cut.cmd("CLIENT").arg("KILL").arg("TYPE").arg(kind);
        }
        // Redis has ended with orch.
        if cut.exec(&mut redis).is_err() {
            break;
        }
        moments.push(now);
        cuts += 1;
    }
    *results.faults.entry("all connections cut".to_owned()).or_default() += cuts;
    judge(&project, setup, orch.finish(), &moments, results, delays)
}

/// Returns the URL of orch's own Redis, with the password that orch has chosen.
fn own_url(project: &Project) -> String {
    let text = fs::read_to_string(project.state_dir().join("redis/redis.conf")).unwrap();
    let find = |begin: &str| text.lines().find_map(|line| line.strip_prefix(begin)).unwrap();
    let (_, password) = find("user orch ").split_once('>').unwrap();
    let password = password.split(' ').next().unwrap();
    format!("redis://orch:{password}@127.0.0.1:{}/0", find("port "))
}

/// Returns the time at which a task has last written into a ledger.
fn last_written(project: &Project) -> Option<SystemTime> {
    ledgers(project.path())
        .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
        .max()
}

fn ledgers(directory: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let paths = fs::read_dir(directory).into_iter().flatten().flatten();
    paths.map(|entry| entry.path()).filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("ledger."))
    })
}

fn finished(orch: &Orch<'_>) -> u32 {
    let events = orch.events();
    let finished = events.iter().filter(|event| event["event"] == "site_finished");
    u32::try_from(finished.count()).unwrap()
}

fn moment(event: &Value) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(event["at"].as_f64().unwrap())
}

fn judge(
    project: &Project,
    setup: Setup,
    ended: Ended,
    cuts: &[SystemTime],
    results: &mut Results,
    delays: &mut Vec<Duration>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if !ended.left.is_empty() {
        problems.push(format!("left behind: {:?}", ended.left));
    }
    let verdicts: BTreeMap<&str, &Value> = ended
        .events_of("site_finished")
        .into_iter()
        .map(|event| (event["site"].as_str().unwrap(), event))
        .collect();
    // Events before a verdict: the times of the files, which are those of their last lines only, and the cuts.
    let mut written: Vec<SystemTime> = ledgers(project.path())
        .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
        .collect();
    written.extend(cuts);
    let mut failed = 0;
    for job in 0..setup.jobs() {
        let site = format!("job-{job}");
        let ledger = Ledger::read(project, &site);
        let Some(verdict) = verdicts.get(site.as_str()) else {
            problems.push(format!("{site} has no verdict: {ledger:?}"));
            continue;
        };
        let started = ended.events_of("site_job_started");
        let started = started.into_iter().find(|event| event["site"] == site.as_str());
        let chord = started.map_or(Value::Null, |event| event["chord_id"].clone());
        let facts = || format!("{site}, ledger {ledger:?}; verdict of orch: {verdict}");
        let reason = verdict["reason"].as_str().unwrap_or_default();
        if verdict["status"] == "complete" {
            results.count("jobs complete");
            if !ledger.is_complete(&chord) || verdict["counts"]["completed_chunks"] != CHUNKS {
                problems.push(format!("complete, which is not so: {}", facts()));
            }
            continue;
        }
        failed += 1;
        // Celery has called the callback with no results, as orch reports.
        if verdict["status"] == "degraded" {
            results.count("jobs degraded");
            if !ledger.is_complete(&chord) || verdict["counts"]["results"] != 0 {
                problems.push(format!("degraded, which is not so: {}", facts()));
            }
            continue;
        }
        results.count("jobs failed");
        if verdict["status"] == "timed_out" || reason.contains("out of time") {
            problems.push(format!("it hung until its timeout: {}", facts()));
            continue;
        }
        if reason.is_empty() {
            problems.push(format!("failed without a reason: {}", facts()));
        }
        // The result of the callback was lost with the connection, or could not be stored: the job has no end that orch
        // could see.
        if ledger.is_complete(&chord) {
            results.count("jobs failed whose callback had run, and had lost its result");
            if !reason.contains("callback") && !reason.contains("ConnectionError") {
                problems.push(format!("failed, though its callback has run: {}", facts()));
            }
        }
        let at = moment(verdict);
        let last = written.iter().filter(|moment| **moment <= at).max();
        let delay = last.and_then(|last| at.duration_since(*last).ok()).unwrap_or_default();
        delays.push(delay);
        if delay > VERDICT_TIMEOUT {
            problems.push(format!(
                "failed {:.1} s after anything moved: {}",
                delay.as_secs_f64(),
                facts()
            ));
        }
        println!("    {setup}: {:.1} s: {}", delay.as_secs_f64(), facts());
    }
    let code = i32::from(failed > 0);
    if ended.code != Some(code) {
        problems.push(format!("{failed} jobs failed, exit code {:?}", ended.code));
    }
    if !problems.is_empty() {
        println!("{}\n{}", ended.stdout, ended.stderr);
        keep(project);
    }
    problems
}

/// Prints the end of the logs, since the project is removed.
fn keep(project: &Project) {
    if let Ok(directory) = std::env::var("ORCH_CHAOS_KEEP") {
        let name = project.path().file_name().unwrap().to_string_lossy().replace(' ', "-");
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(project.path())
            .arg(Path::new(&directory).join(name))
            .status();
        println!("kept: {copied:?}");
    }
}
