//! Runs of several sites, each one job of many chunks that keeps a ledger, with a few faults at random moments of the run's
//! life: while services start, in a dispatch, among the chunks, in a callback. Each verdict is compared with the ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fault::Fault;
use crate::judge::{self, Asked, judge, verdicts};
use crate::ledger::{Ledger, Truth};
use crate::processes::lives;
use crate::report::Results;
use crate::scrape::OWN_REDIS;
use crate::settings::{Limits, chunks};
use crate::support::bookshop;
use crate::support::orch::{Orch, Project};
use crate::support::redis::RedisServer;

/// Of one run; each is a job.
const SITES: usize = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// A fault whose moment does not come is done all the same.
const MOMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long there may be nobody whom a fault could hit.
const VICTIM_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of orch to the end of the last process.
const GRACE: Duration = Duration::from_secs(15);
/// A run of whose sites nothing happens for so long hangs: longer than a worker of others is waited for.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(100);
const SILENCE_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Beyond this and the time of its chunks a round hangs.
const ROUND_TIMEOUT: Duration = Duration::from_secs(240);
/// Of one chunk, on a machine that builds at the same time.
const CHUNK_TIMEOUT: Duration = Duration::from_millis(40);
const RESTARTS: &str = "restart = { limit = 1000, backoff = \"50ms\", backoff_max = \"500ms\" }\n";

/// Whose Redis and worker a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Owned,
    /// Another's Redis, and a worker of the run's own.
    External,
    /// Those of the `orch up` of the same directory.
    BesideUp,
    /// Another's Redis and another's worker; an `orch up` of another directory restarts both.
    Reused,
}

impl Setup {
    const ALL: [Self; 4] = [Self::Owned, Self::External, Self::BesideUp, Self::Reused];

    fn faults(self) -> &'static [Fault] {
        use Fault::{
            BothKilled, GuardKilled, Interrupted, OrchKilled, PoolChildKilled, RedisKilled, UpKilled, WorkerKilled,
        };
        match self {
            Self::Owned | Self::External | Self::Reused => &[
                WorkerKilled,
                PoolChildKilled,
                RedisKilled,
                OrchKilled,
                GuardKilled,
                BothKilled,
                Interrupted,
            ],
            Self::BesideUp => &[
                WorkerKilled,
                PoolChildKilled,
                RedisKilled,
                OrchKilled,
                GuardKilled,
                BothKilled,
                Interrupted,
                UpKilled,
            ],
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Owned => "own Redis, own worker",
            Self::External => "another's Redis, own worker",
            Self::BesideUp => "Redis and worker of `orch up`",
            Self::Reused => "another's Redis, reused worker",
        })
    }
}

/// What the result of a dispatch task names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Chord,
    Job,
    Id,
    Nothing,
}

impl Names {
    fn word(self) -> &'static str {
        match self {
            Self::Chord => "chord",
            Self::Job => "job",
            Self::Id => "id",
            Self::Nothing => "nothing",
        }
    }
}

/// Which task of a job raises, each time that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Nothing,
    Chunk(u32),
    Callback,
    Dispatch,
}

#[derive(Clone, Copy, Debug)]
struct Site {
    names: Names,
    /// The app keeps progress keys.
    keys: bool,
    /// Each execution of a chunk has another result.
    stamped: bool,
    fails: Fails,
}

impl Site {
    fn random(random: &mut fastrand::Rng, chunks: u32) -> Self {
        let names = match random.u32(..10) {
            0..5 => Names::Chord,
            5..7 => Names::Job,
            7 => Names::Id,
            _ => Names::Nothing,
        };
        let fails = match random.u32(..40) {
            0..2 => Fails::Chunk(random.u32(..chunks)),
            2 => Fails::Callback,
            3 => Fails::Dispatch,
            _ => Fails::Nothing,
        };
        Self {
            names,
            keys: random.bool(),
            stamped: random.u32(..4) == 0,
            fails,
        }
    }

    fn configuration(self, name: &str, chunks: u32, callback_seconds: f64) -> String {
        let fails = match self.fails {
            Fails::Nothing => String::new(),
            Fails::Chunk(number) => format!(", fails = {number}"),
            Fails::Callback => ", fails = \"callback\"".to_owned(),
            Fails::Dispatch => ", fails = \"dispatch\"".to_owned(),
        };
        format!(
            "[sites.{name}.dispatch]\ntask = \"ledger.dispatch\"\n\
             kwargs = {{ site = \"{{site}}\", job_id = \"{{job_id}}\", chunks = {chunks}, names = \"{}\", keys = {}, \
             stamped = {}, callback_seconds = {callback_seconds:.3}{fails} }}\n",
            self.names.word(),
            self.keys,
            self.stamped
        )
    }
}

impl fmt::Display for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "names {}", self.names.word())?;
        if self.keys {
            out.write_str(", keys")?;
        }
        if self.stamped {
            out.write_str(", stamped")?;
        }
        match self.fails {
            Fails::Nothing => Ok(()),
            Fails::Chunk(number) => write!(out, ", chunk {number} raises"),
            Fails::Callback => out.write_str(", the callback raises"),
            Fails::Dispatch => out.write_str(", the dispatch raises"),
        }
    }
}

/// What a fault waits for, counted from the one before it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The start, or the fault before it.
    Now,
    /// A dispatch task begins.
    Dispatch,
    /// So many chunks end.
    Chunks(usize),
    /// A callback begins.
    Callback,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    fault: Fault,
    moment: Moment,
    /// After that moment.
    delay: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, {} ms after ", self.fault, self.delay.as_millis())?;
        match self.moment {
            Moment::Now => out.write_str("the start or the fault before"),
            Moment::Dispatch => out.write_str("a dispatch began"),
            Moment::Chunks(number) => write!(out, "{number} chunks ended"),
            Moment::Callback => out.write_str("a callback began"),
        }
    }
}

/// A round: everything that the seed decides.
#[derive(Clone, Debug)]
struct Plan {
    setup: Setup,
    late: bool,
    retries: u32,
    slots: u32,
    chunks: u32,
    callback_seconds: f64,
    sites: Vec<Site>,
    faults: Vec<Planned>,
    /// What remains of the randomness: which child of a pool is hit.
    random: fastrand::Rng,
}

impl Plan {
    fn new(number: u32, mut random: fastrand::Rng) -> Self {
        let chunks = chunks();
        // In turn, so that a few rounds have them all.
        let setup = Setup::ALL[number as usize % 4];
        let late = (number / 4).is_multiple_of(2);
        let retries = if random.bool() { 2 } else { 0 };
        let sites = (0..SITES).map(|_| Site::random(&mut random, chunks)).collect();
        let callback_seconds = random.f64() * 0.4;
        let count = [0, 1, 1, 2, 2, 3, 4][random.usize(..7)];
        let faults = (0..count)
            .map(|_| {
                let fault = setup.faults()[random.usize(..setup.faults().len())];
                let (moment, longest) = match random.u32(..10) {
                    0..2 => (Moment::Now, 3000),
                    2..4 => (Moment::Dispatch, 1500),
                    // All faults before the end.
                    4..8 => (Moment::Chunks(random.usize(..chunks as usize * SITES / count)), 20),
                    _ => (Moment::Callback, 500),
                };
                let delay = Duration::from_millis(random.u64(..=longest));
                Planned { fault, moment, delay }
            })
            .collect();
        Self {
            setup,
            late,
            retries,
            slots: random.u32(2..=4),
            chunks,
            callback_seconds,
            sites,
            faults,
            random,
        }
    }

    fn site_name(number: usize) -> String {
        format!("s{number}")
    }

    fn site(&self, name: &str) -> Option<&Site> {
        (0..self.sites.len())
            .find(|number| Self::site_name(*number) == name)
            .map(|number| &self.sites[number])
    }

    fn asked(&self, name: &str) -> Asked {
        Asked {
            chunks: self.chunks,
            names_callback: self
                .site(name)
                .is_some_and(|site| matches!(site.names, Names::Chord | Names::Id)),
        }
    }

    fn timeout(&self) -> Duration {
        ROUND_TIMEOUT + CHUNK_TIMEOUT * self.chunks * u32::try_from(SITES).unwrap_or(u32::MAX) * (self.retries + 1)
    }

    fn worker(&self) -> String {
        format!(
            "[celery]\napp = \"ledger_app\"\nlog_level = \"WARNING\"\nconcurrency = {}\nacks_late = {}\n{RESTARTS}",
            self.slots, self.late
        )
    }

    fn configuration(&self, redis: &str) -> String {
        let worker = self.worker();
        let reuse = self.setup != Setup::External;
        let mut text = format!(
            "[orch]\nmax_parallel_sites = {SITES}\nmemory_reserve = \"0\"\n[redis]\n{redis}\n{worker}reuse = {reuse}\n\
             [sites.defaults]\ntimeout = \"{}s\"\nretries = {}\nretry_backoff = \"300ms\"\n",
            self.timeout().as_secs(),
            self.retries,
        );
        for (number, site) in self.sites.iter().enumerate() {
            text += &site.configuration(&Self::site_name(number), self.chunks, self.callback_seconds);
        }
        text
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledgement = if self.late { "late" } else { "early" };
        write!(
            out,
            "{}, {acknowledgement} acknowledgement, {} retries, {} slots, {} chunks a site",
            self.setup, self.retries, self.slots, self.chunks
        )?;
        for (number, site) in self.sites.iter().enumerate() {
            write!(out, "\n      {}: {site}", Self::site_name(number))?;
        }
        for fault in &self.faults {
            write!(out, "\n      planned: {fault}")?;
        }
        Ok(())
    }
}

pub fn run(limits: Limits) -> Results {
    judge::check_itself();
    let mut results = Results::default();
    let mut table = Table::default();
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

/// Verdicts by what became of their jobs.
#[derive(Debug, Default)]
struct Table {
    jobs: u32,
    /// Ends of sites.
    cells: BTreeMap<(Truth, String), u32>,
    again: u32,
}

impl Table {
    fn finish(self, results: &mut Results) {
        let count = |wanted: &dyn Fn(Truth, &str) -> bool| -> u32 {
            let cells = self.cells.iter();
            cells
                .filter(|((truth, status), _)| wanted(*truth, status))
                .map(|(_, times)| times)
                .sum()
        };
        let judged = count(&|_, status| !status.starts_with("retried") && status != "cancelled");
        let unknown = count(&|_, status| status == "unknown");
        let violations = |kind: &str| results.violations.iter().filter(|text| text.contains(kind)).count();
        let figures = [
            ("jobs (sites of all rounds)", self.jobs.to_string()),
            ("ends of sites that were judged", judged.to_string()),
            ("false COMPLETE", violations("FALSE COMPLETE").to_string()),
            ("false FAILED", violations("FALSE FAILED").to_string()),
            (
                "other violations",
                (results.violations.len() - violations("FALSE ")).to_string(),
            ),
            (
                "UNKNOWN",
                format!(
                    "{unknown} ({:.1} %)",
                    f64::from(unknown) * 100.0 / f64::from(judged.max(1))
                ),
            ),
            ("executions of chunks beyond the first", self.again.to_string()),
        ];
        for (name, figure) in figures {
            results.figures.insert(name.to_owned(), figure);
        }
        for ((truth, status), times) in self.cells {
            let name = format!("verdict {} where the job was: {truth}", status.to_uppercase());
            results.figures.insert(name, times.to_string());
        }
    }
}

/// New lines of the ledgers, by their kind: for the moments of faults.
struct Tail {
    ledgers: Vec<(PathBuf, u64)>,
    dispatches: usize,
    chunks: usize,
    callbacks: usize,
}

impl Tail {
    fn new(directory: &Path) -> Self {
        let name = |number| directory.join(format!("ledger.{}", Plan::site_name(number)));
        Self {
            ledgers: (0..SITES).map(|number| (name(number), 0)).collect(),
            dispatches: 0,
            chunks: 0,
            callbacks: 0,
        }
    }

    fn read(&mut self) {
        for (ledger, read) in &mut self.ledgers {
            let Ok(mut file) = fs::File::open(ledger) else { continue };
            let mut text = Vec::new();
            if file.seek(SeekFrom::Start(*read)).is_err() || file.read_to_end(&mut text).is_err() {
                continue;
            }
            // What is being written is read the next time.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            *read += whole as u64;
            let text = String::from_utf8_lossy(&text[..whole]);
            self.dispatches += text.matches("\"dispatch_started\"").count();
            self.chunks += text.matches("\"chunk_ended\"").count();
            self.callbacks += text.matches("\"callback_started\"").count();
        }
    }
}

/// A fault that waits for its moment.
struct Armed {
    planned: Planned,
    since: Instant,
    dispatches: usize,
    chunks: usize,
    callbacks: usize,
    due: Option<Instant>,
}

impl Armed {
    fn new(planned: Planned, tail: &Tail) -> Self {
        Self {
            planned,
            since: Instant::now(),
            dispatches: tail.dispatches,
            chunks: tail.chunks,
            callbacks: tail.callbacks,
            due: None,
        }
    }

    fn is_due(&mut self, tail: &Tail) -> bool {
        let now = Instant::now();
        let has_come = match self.planned.moment {
            Moment::Now => true,
            Moment::Dispatch => tail.dispatches > self.dispatches,
            Moment::Chunks(number) => tail.chunks >= self.chunks + number,
            Moment::Callback => tail.callbacks > self.callbacks,
        };
        // Only what may not come at all: chunks do, unless the run ends before.
        let is_overdue = !matches!(self.planned.moment, Moment::Chunks(_)) && now > self.since + MOMENT_TIMEOUT;
        if self.due.is_none() && (has_come || is_overdue) {
            self.due = Some(now + self.planned.delay);
        }
        self.due.is_some_and(|due| now >= due)
    }
}

/// Since when nothing has happened to the sites of a run.
struct Silence {
    looked: Instant,
    since: Instant,
    /// Bytes of the ledgers and events of sites.
    seen: (u64, usize),
}

impl Silence {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            looked: now,
            since: now,
            seen: (0, 0),
        }
    }

    fn is_too_long(&mut self, tail: &Tail, project: &Project, pid: i32) -> bool {
        let now = Instant::now();
        if now < self.looked + SILENCE_POLL_INTERVAL {
            return false;
        }
        self.looked = now;
        let is_of_site = |event: &&Value| event["event"] != "end_expected";
        let events = journal(project, pid).iter().filter(is_of_site).count();
        let seen = (tail.ledgers.iter().map(|(_, read)| read).sum(), events);
        if seen != self.seen {
            (self.seen, self.since) = (seen, now);
        }
        now > self.since + SILENCE_TIMEOUT
    }
}

/// The events of the run of this process so far. Beside an `orch up` the state directory has runs of both.
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
    let is_ready = || {
        let events = journal(project, up.pid);
        let is_worker = |event: &Value| event["event"] == "service_ready" && event["service"] == "celery";
        events.iter().any(is_worker) && file.exists()
    };
    crate::support::orch::wait_until("`orch up` is ready", is_ready);
    up
}

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

fn round(plan: &Plan, table: &mut Table, results: &mut Results) -> Vec<String> {
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
    // A run that finds no worker of theirs starts its own, which writes into the same ledgers.
    let ledgers = theirs.as_ref().map_or_else(String::new, |theirs| {
        format!("[celery.env]\nLEDGER = {:?}\n", theirs.path().display().to_string())
    });
    let project = bookshop::project_with("ledger_app", &format!("{}{ledgers}", plan.configuration(&redis)));
    let own_up = (plan.setup == Setup::BesideUp).then(|| start_up(&project));
    // Their worker writes where it was started.
    let directory = theirs.as_ref().map_or(project.path(), Project::path);
    let mut round = Round {
        plan,
        project: &project,
        sharer: theirs.as_ref().unwrap_or(&project),
        up: their_up.or(own_up),
        broker: server.as_ref().map(|server| server.url(0)),
        random: plan.random.clone(),
        tail: Tail::new(directory),
        events: Vec::new(),
        began: Instant::now(),
    };
    let mut problems = round.go(server.as_mut(), results).err().into_iter().collect::<Vec<_>>();
    // No task runs any more when the ledgers are judged.
    problems.extend(round.up.take().and_then(end_up));
    problems.extend(judge_all(plan, &round.events, directory, table, results));
    if !problems.is_empty() {
        let runs = round.events.iter().map(|(code, events)| {
            let shown = events.iter().filter(|event| is_telling(event));
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

/// The directories of a round with a violation, for whoever looks into it.
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

fn is_telling(event: &Value) -> bool {
    let kind = event["event"].as_str().unwrap_or_default();
    (kind.starts_with("site_") && kind != "site_progressed" && kind != "site_queued")
        || matches!(
            kind,
            "noticed" | "service_exited" | "service_ready" | "run_finished" | "run_started" | "stop_started"
        )
}

fn port(project: &Project) -> u64 {
    let text = fs::read(project.state_dir().join("instance.json")).expect("read instance.json");
    let instance: Value = serde_json::from_slice(&text).expect("instance.json");
    instance["redis"]["port"].as_u64().expect("the port of Redis")
}

struct Round<'a> {
    plan: &'a Plan,
    project: &'a Project,
    /// Whose `orch up` it is, if there is one.
    sharer: &'a Project,
    up: Option<Orch<'a>>,
    /// Of another's Redis.
    broker: Option<String>,
    random: fastrand::Rng,
    tail: Tail,
    /// What each run of orch wrote, and its exit code.
    events: Vec<(Option<i32>, Vec<Value>)>,
    began: Instant,
}

impl Round<'_> {
    /// Runs and resumes until all sites have ended.
    fn go(&mut self, mut server: Option<&mut RedisServer>, results: &mut Results) -> Result<(), String> {
        let plan = self.plan;
        let mut faults = plan.faults.iter();
        let mut next = faults.next().map(|planned| Armed::new(*planned, &self.tail));
        // A run of which it is known why it ended early is resumed, also once more than was planned.
        let mut resumes_left = plan.faults.len() + 2;
        let mut disturbed = Disturbed::default();
        loop {
            let has_begun = self
                .events
                .iter()
                .flat_map(|(_, events)| events)
                .any(|event| event["event"] == "site_dispatched");
            let arguments: &[&str] = if has_begun { &["run", "--resume"] } else { &["run"] };
            let orch = self.project.orch_with(arguments, &[], GRACE);
            let mut silence = Silence::new();
            while lives(orch.pid) {
                if silence.is_too_long(&self.tail, self.project, orch.pid) || self.began.elapsed() > plan.timeout() {
                    let events = journal(self.project, orch.pid);
                    self.print_broker();
                    let last: String = events
                        .iter()
                        .rev()
                        .take(12)
                        .rev()
                        .map(|event| format!("\n      {event}"))
                        .collect();
                    self.events.push((None, events));
                    return Err(format!("the round hangs:{last}"));
                }
                std::thread::sleep(POLL_INTERVAL);
                self.tail.read();
                let Some(armed) = &mut next else { continue };
                if !armed.is_due(&self.tail) {
                    continue;
                }
                let fault = armed.planned.fault;
                let due = armed.due.unwrap_or(armed.since);
                let at = self.began.elapsed().as_secs_f64();
                if !self.strike(fault, &orch, server.as_deref_mut()) {
                    if due.elapsed() < VICTIM_TIMEOUT {
                        continue;
                    }
                    *results
                        .skipped
                        .entry(format!("{fault}: there was nobody to hit"))
                        .or_default() += 1;
                } else {
                    println!("    {at:>6.1} s: {fault}, {} chunks ended", self.tail.chunks);
                    results.count(fault.to_string());
                    disturbed.add(fault);
                }
                next = faults.next().map(|planned| Armed::new(*planned, &self.tail));
                if fault.ends_the_run() {
                    break;
                }
            }
            let pid = orch.pid;
            let ended = orch.finish();
            let events = journal(self.project, pid);
            self.events.push((ended.code, events));
            if !ended.left.is_empty() {
                return Err(format!("left behind: {:?}", ended.left));
            }
            let code = (ended.code, ended.signal);
            if disturbed.explains_end_by(code) && resumes_left > 0 {
                resumes_left -= 1;
                if let Some(up) = self.up.take_if(|up| !lives(up.pid)) {
                    let left = up.finish().left;
                    if !left.is_empty() {
                        return Err(format!("`orch up` left behind: {left:?}"));
                    }
                    self.up = Some(start_up(self.sharer));
                }
                disturbed = Disturbed::default();
                continue;
            }
            let is_end = matches!(code, (Some(0 | 1), None));
            return if is_end {
                self.check_code(ended.code)
            } else {
                Err(format!("orch ended with {code:?}: {}{}", ended.stdout, ended.stderr))
            };
        }
    }

    /// Whether there was anybody to hit.
    fn strike(&mut self, fault: Fault, orch: &Orch<'_>, server: Option<&mut RedisServer>) -> bool {
        if let (Fault::RedisKilled, Some(server)) = (fault, server) {
            server.kill();
            std::thread::sleep(Duration::from_millis(self.random.u64(..1500)));
            server.start_again();
            return true;
        }
        let events = journal(self.project, orch.pid);
        let up = self.up.as_ref().map(|up| (up.pid, journal(self.sharer, up.pid)));
        let Some(mut cast) = crate::job::cast(&events) else {
            return false;
        };
        if let Some((pid, events)) = up {
            let services = crate::job::cast(&events);
            cast.up = Some(pid);
            cast.redis = services.as_ref().and_then(|services| services.redis);
            cast.worker = services.as_ref().and_then(|services| services.worker);
        }
        cast.strike(fault, &mut self.random)
    }

    /// What the broker and the workers have, for whoever looks into a job that hangs.
    fn print_broker(&self) {
        for what in ["queues", "tasks"] {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orch"));
            command.args(["celery", what]).current_dir(self.sharer.path());
            if let Some(broker) = &self.broker {
                command.args(["--broker", broker]);
            }
            let output = command.output().expect("start orch");
            let text = [output.stdout, output.stderr].concat();
            println!("    orch celery {what}:\n{}", String::from_utf8_lossy(&text));
        }
    }

    /// Exit code 0 says that all sites are complete.
    fn check_code(&self, code: Option<i32>) -> Result<(), String> {
        let mut ends: BTreeMap<String, bool> = BTreeMap::new();
        for verdict in self.events.iter().flat_map(|(_, events)| verdicts(events)) {
            ends.insert(verdict.site.clone(), verdict.is_success());
        }
        let all = ends.len() == self.plan.sites.len() && ends.values().all(|complete| *complete);
        if (code == Some(0)) == all {
            Ok(())
        } else {
            Err(format!(
                "exit code {code:?}, and the sites ended (complete or not) {ends:?}"
            ))
        }
    }
}

/// Faults that were done to the run that is under way.
#[derive(Debug, Default)]
struct Disturbed(Vec<Fault>);

impl Disturbed {
    fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    fn explains_end_by(&self, (code, signal): (Option<i32>, Option<i32>)) -> bool {
        let by = |faults: &[Fault]| self.0.iter().any(|fault| faults.contains(fault));
        match (code, signal) {
            (None, Some(9)) => by(&[Fault::OrchKilled, Fault::BothKilled]),
            (Some(130), None) => by(&[Fault::Interrupted]),
            (Some(3), None) => by(&[Fault::GuardKilled, Fault::UpKilled]),
            _ => false,
        }
    }
}

fn judge_all(
    plan: &Plan,
    runs: &[(Option<i32>, Vec<Value>)],
    directory: &Path,
    table: &mut Table,
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
            let reason = plain(&verdict.reason);
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

/// A reason without what differs from job to job.
fn plain(reason: &str) -> String {
    let words = reason.split(' ').map(|word| {
        let differs = word.chars().any(|letter| letter.is_ascii_digit());
        if differs { "N" } else { word }
    });
    let mut words: Vec<_> = words.collect();
    words.dedup();
    words.join(" ")
}
