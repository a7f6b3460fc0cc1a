//! Time from SIGTERM to the end of an `orch up` with its own Redis and a Celery worker, with an idle and a busy pool,
//! compared with the same worker as a plain service, which orch stops only with SIGTERM: `cargo bench --bench
//! worker_stop`.
//!
//! `ORCH_STOPS` (default 10) is the number of stops of each kind, `ORCH_TEST_CELERY` (default 5.4) is the Celery
//! version.
#![allow(clippy::unwrap_used, reason = "in a bench an unwrap is an assertion")]

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

#[path = "../tests/support/mod.rs"]
mod support;
use support::bookshop;
use support::orch::Project;
use support::redis::RedisServer;

const APP: &str = r#"
import os, time
from celery import Celery
app = Celery("stop_app", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])

@app.task(name="stop.sleep")
def sleep(seconds):
    with open("began", "a") as file:
        file.write(".")
    time.sleep(seconds)
"#;
const SLOTS: usize = 2;
/// Duration of a task that runs at the stop: a warm shutdown waits for the end.
const TASK_SECONDS: f64 = 0.3;
const TASKS: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerKind {
    /// Worker of `[celery]`, which orch handles as a Celery worker.
    Known,
    /// Worker as `[services.worker]`, to which orch sends SIGTERM and then waits.
    Plain,
}

fn main() {
    let stops = std::env::var("ORCH_STOPS").map_or(10, |text| text.parse().expect("ORCH_STOPS is a number"));
    let version = std::env::var("ORCH_TEST_CELERY").unwrap_or_else(|_| "5.4".to_owned());
    println!(
        "Celery {version}, {SLOTS} slots, {stops} stops of each kind, in turn; seconds from SIGTERM to the end of orch"
    );
    for busy in [false, true] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..stops {
            for (worker, times) in [WorkerKind::Known, WorkerKind::Plain].into_iter().zip(&mut times) {
                times.push(stop(worker, busy));
            }
        }
        let pool = if busy { "busy" } else { "idle" };
        for (worker, times) in [WorkerKind::Known, WorkerKind::Plain].into_iter().zip(&mut times) {
            times.sort();
            let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64();
            println!(
                "{pool} pool, {worker:?}: median {:.2}, shortest {:.2}, longest {:.2}",
                at(50),
                at(0),
                at(100)
            );
        }
    }
}

fn stop(worker: WorkerKind, busy: bool) -> Duration {
    let redis = RedisServer::start();
    let url = redis.url(0);
    let configuration = match worker {
        WorkerKind::Known => format!(
            "[redis]\nmode = \"external\"\nport = {}\n[celery]\napp = \"stop_app\"\nconcurrency = {SLOTS}\n",
            redis.port
        ),
        WorkerKind::Plain => format!(
            "[redis]\nmode = \"off\"\n[services.worker]\ngrace = \"10s\"\ncommand = [\".venv/bin/celery\", \"-A\", \
             \"stop_app\", \"worker\", \"-c\", \"{SLOTS}\", \"-E\", \"--without-mingle\", \"--without-gossip\"]\n\
             env = {{ CELERY_BROKER_URL = \"{url}\", CELERY_RESULT_BACKEND = \"{url}\" }}\n"
        ),
    };
    let project = Project::new(&configuration);
    fs::write(project.file("stop_app.py"), APP).unwrap();
    std::os::unix::fs::symlink(bookshop::environment().join(".venv"), project.file(".venv")).unwrap();
    let mut orch = project.orch(&["up"]);
    let service = if worker == WorkerKind::Known {
        "celery"
    } else {
        "worker"
    };
    orch.wait_for_service("service_ready", service);
    publish(&project, &url, "0", SLOTS);
    // Waits until all processes of the pool execute tasks.
    support::orch::wait_until("the first tasks", || began(&project) == SLOTS);
    if busy {
        publish(&project, &url, &TASK_SECONDS.to_string(), TASKS);
        support::orch::wait_until("tasks that run", || began(&project) > 2 * SLOTS);
    }
    let asked = Instant::now();
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
    asked.elapsed()
}

fn publish(project: &Project, url: &str, seconds: &str, count: usize) {
    let lines = format!("{{\"task\": \"stop.sleep\", \"args\": [{seconds}]}}\n").repeat(count);
    fs::write(project.file("tasks"), lines).unwrap();
    let script = format!("$ORCH celery publish --broker {url} --stdin < tasks");
    project.shell(&script).finish().expect_code(0);
}

fn began(project: &Project) -> usize {
    fs::metadata(project.file("began")).map_or(0, |file| usize::try_from(file.len()).unwrap())
}
