//! `orch run` with its own Redis, a Celery worker and a job; SIGKILL of orch at a random moment of its life.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::report::Results;
use crate::settings::Limits;
use crate::support::bookshop;
use crate::support::orch::Project;
use crate::support::schedule::pause_until;

const CHUNKS: u32 = 40;
/// Time after the stop bound in which everything must have ended.
const END_GRACE: Duration = Duration::from_secs(1);
/// Number of rounds at the same time. The start of a worker needs CPU: more rounds would only make each of them longer.
const PARALLEL_ROUNDS: usize = 2;

/// Configuration of orch's own Redis, on a free port.
pub const OWN_REDIS: &str = "port = 0\nmode = \"own\"";

/// Returns a configuration whose one site, `shop`, is a chord of this number of chunks of this many seconds; `further`
/// are lines of `[celery]`.
pub fn configuration(redis: &str, (chunks, seconds): (u32, f64), retries: u32, further: &str) -> String {
    format!(
        r#"
[redis]
{redis}
restart = {{ limit = 1000, backoff = "50ms", backoff_max = "500ms" }}
[celery]
app = "ledger_app"
concurrency = 4
restart = {{ limit = 1000, backoff = "50ms", backoff_max = "500ms" }}
{further}
[sites.shop]
timeout = "10m"
retries = {retries}
retry_backoff = "1s"
dispatch = {{ task = "ledger.dispatch", kwargs = {{ site = "{{site}}", job_id = "{{job_id}}", chunks = {chunks}, names = "chord", seconds = {seconds:?} }} }}
"#
    )
}

struct Life {
    whole: Duration,
    bound: Duration,
}

pub fn run(limits: Limits) -> Results {
    let (next, results) = (AtomicU32::new(0), Mutex::new(Results::default()));
    let slowest = Mutex::new(Duration::ZERO);
    thread::scope(|scope| {
        for _ in 0..PARALLEL_ROUNDS {
            scope.spawn(|| {
                let project = project();
                let life = undisturbed(&project);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !limits.allow(number) {
                        break;
                    }
                    let moment = life.whole.mul_f64(limits.random(number).f64());
                    let round = catch_unwind(AssertUnwindSafe(|| round(&project, &life, moment)));
                    let mut results = results.lock().unwrap();
                    results.rounds += 1;
                    match round {
                        Ok(Ok((part, gone_after))) => {
                            results.count(part);
                            let mut slowest = slowest.lock().unwrap();
                            *slowest = gone_after.max(*slowest);
                        }
                        Ok(Err(problem)) => results.violations.push(format!("round {number}: {problem}")),
                        Err(_) => {
                            let problem = format!("round {number}: the round panicked, see above");
                            results.violations.push(problem);
                        }
                    }
                }
                // After all rounds the state directory still serves an undisturbed run.
                if catch_unwind(AssertUnwindSafe(|| undisturbed(&project))).is_err() {
                    let problem = "after all rounds an undisturbed `orch run` failed, see above".to_owned();
                    results.lock().unwrap().violations.push(problem);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    let slowest = slowest.into_inner().unwrap();
    results.figures.insert(
        "longest from the end of orch to the end of the last process".to_owned(),
        format!("{} ms", slowest.as_millis()),
    );
    results
}

fn project() -> Project {
    bookshop::project_with(
        "ledger_app",
        &configuration(OWN_REDIS, (CHUNKS, 0.05), 0, "grace = \"2s\"\nquit_grace = \"1s\""),
    )
}

fn undisturbed(project: &Project) -> Life {
    let orch = project.orch(&["run"]);
    let began = Instant::now();
    let ended = orch.finish();
    let whole = began.elapsed();
    ended.expect_code(0);
    let stop = ended.events_of("stop_started");
    let bound = stop
        .first()
        .and_then(|stop| stop["bound_ms"].as_u64())
        .expect("the printed bound");
    Life {
        whole,
        bound: Duration::from_millis(bound),
    }
}

/// Runs one round; returns the part of the life in which orch was killed, and the time from its end to the end of the
/// last process.
fn round(project: &Project, life: &Life, moment: Duration) -> Result<(&'static str, Duration), String> {
    let orch = project.orch_with(&["run"], &[], life.bound + END_GRACE);
    pause_until(Instant::now() + moment);
    orch.signal(Signal::SIGKILL);
    let ended = orch.finish();
    let shown = || format!("at {moment:?} of {:?}\n{}{}", life.whole, ended.stdout, ended.stderr);
    if !ended.left.is_empty() {
        return Err(format!("left behind: {:?} {}", ended.left, shown()));
    }
    match (ended.signal, ended.code) {
        (Some(9), None) | (None, Some(0)) => {}
        other => return Err(format!("ended with {other:?} {}", shown())),
    }
    let happened = |kind: &str| !ended.events_of(kind).is_empty();
    let part = match ended.code {
        Some(_) => "after its end",
        None if happened("stop_started") => "while stopping",
        None if happened("site_job_started") => "while the job ran",
        None if happened("site_queued") => "while the job was dispatched",
        None => "while starting",
    };
    Ok((part, ended.gone_after))
}
