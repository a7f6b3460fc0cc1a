//! orch or its guard is stopped for long (SIGSTOP, a machine that sleeps) and goes on: answers that orch only missed
//! lead to no verdict.
//!
//! The length of the stop is the input: it exceeds every timeout of a run, so that orch could mistake each for the
//! silence of another process. A site with a rival for its lease is tested in `lease`.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::bookshop::{self, ledger};
use support::orch::{Orch, Project, WAIT_TIMEOUT, is_stopped, wait_until};
use support::schedule::pause_until;

/// Length of a stop: more than the 10 s of silence after which a subscription asks whether its server lives, and the 5
/// s for the answer; more than the lease of 3 s, the liveness of 1 s and the 2 s for a worker that takes nothing.
const STOP_DELAY: Duration = Duration::from_secs(16);

/// Seconds of each chunk.
const SECONDS: f64 = 0.5;

/// Returns a site with retries for the tests in which a worker is killed: Celery takes a message from its queue and
/// records that in two steps, and a message is lost if the kill comes between them. orch reports that, and repeats the
/// site.
fn site(name: &str, chunks: u64) -> String {
    format!(
        "[sites.{name}]\nretries = 2\nretry_backoff = \"100ms\"\n\
         dispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", job_id = \"{{job_id}}\", \
         chunks = {chunks}, seconds = {SECONDS}, ledger = \"ledger.{name}\" }} }}\n"
    )
}

/// Creates a project with two parallel sites and the shortest timeouts.
fn project(first: u64, second: u64) -> Project {
    let configuration = [
        "[orch]\nmax_parallel_sites = 2\nlease = \"3s\"\n\
         [redis]\nport = 0\nmode = \"own\"\n[redis.liveness]\ninterval = \"300ms\"\ntimeout = \"1s\"\nfailures = 2\n\
         [celery]\napp = \"chaos_app\"\nconcurrency = 4\nacks_late = true\nstalled_after = \"2s\"\n\
         [celery.liveness]\ninterval = \"300ms\"\ntimeout = \"1s\"\nfailures = 2\n"
            .to_owned(),
        site("first", first),
        site("second", second),
    ]
    .concat();
    bookshop::project_with("chaos_app", &configuration)
}

fn done(project: &Project, site: &str) -> u64 {
    ledger(project.path(), site).values().sum()
}

/// Keeps a process stopped until `length` has passed since `stopped`. The length of the stop is the input of these tests: it must
/// exceed the timeouts of orch, and nothing happens at its end that a test could wait for.
fn keep_stopped(stopped: Instant, length: Duration) {
    pause_until(stopped + length);
}

fn pid_of(orch: &mut Orch<'_>, service: &str) -> Pid {
    let spawned = orch.wait_for_service("service_spawned", service);
    Pid::from_raw(i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap())
}

fn guard_of(orch: &mut Orch<'_>) -> Pid {
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    Pid::from_raw(i32::try_from(started["guard_pid"].as_i64().unwrap()).unwrap())
}

/// Events that must not occur in a run in which only orch itself was stopped.
const VERDICTS: [&str; 14] = [
    "service_unhealthy",
    "service_restarting",
    "service_exited",
    "consumer_added",
    "site_retrying",
    "leftovers_found",
    "site_chunks_lost",
    "crashing_task_revoked",
    "stale_executions_found",
    "queue_unconsumed",
    "guard_problem_found",
    "redis_problem_found",
    "worker_problem_found",
    "run_file_failed",
];

#[test]
fn orch_stopped_for_long_goes_on_and_counts_each_chunk_once() {
    // The first job ends while orch is stopped (its 40 chunks and as many of the second's take 4 slots 10 s), the
    // second goes on after that.
    let (first, second) = (40, 120);
    let project = project(first, second);
    let mut orch = project.orch(&["run"]);
    for name in ["first", "second"] {
        orch.wait_for("both jobs", |event| {
            event["event"] == "site_job_started" && event["site"] == name
        });
    }
    wait_until("work", || done(&project, "first") > 0 && done(&project, "second") > 0);
    orch.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_until("orch stopped", || is_stopped(orch.pid));
    let reported = orch.events().len();
    keep_stopped(stopped, STOP_DELAY);
    // On a busy machine the chunks take longer.
    wait_until("the end of the first job", || done(&project, "first") == first);
    assert!(
        done(&project, "second") < second,
        "the second job goes on after the stop"
    );
    assert_eq!(orch.events().len(), reported, "orch was not stopped");
    orch.signal(Signal::SIGCONT);
    let ended = orch.finish();
    ended.expect_code(0);
    for (name, chunks) in [("first", first), ("second", second)] {
        let finished = ended.events_of("site_finished");
        let finished = finished.iter().find(|event| event["site"] == name).unwrap();
        assert_eq!(finished["status"], "complete", "{finished}");
        let counts = &finished["counts"];
        assert_eq!(counts["completed_chunks"], chunks, "{finished}");
        assert_eq!(counts["results"], chunks, "{finished}");
        assert_eq!(counts["errors"], 0, "{finished}");
        let done = ledger(project.path(), name);
        assert_eq!(done.len() as u64, chunks, "{done:?}");
        assert!(done.values().all(|times| *times == 1), "{done:?}");
    }
    let false_verdicts: Vec<&Value> = ended
        .events
        .iter()
        .take_while(|event| event["event"] != "stop_started")
        .filter(|event| {
            VERDICTS.contains(&event["event"].as_str().unwrap())
                || (event["event"] == "noticed" && event["level"] != "info")
        })
        .collect();
    assert!(false_verdicts.is_empty(), "{false_verdicts:#?}");
}

/// Shows that a probe has not failed whose answer came while orch was stopped.
#[test]
fn a_probe_that_was_under_way_while_orch_was_stopped_has_not_failed() {
    let project = bookshop::project_with(
        "workshop",
        "[redis]\nmode = \"own\"\nport = 0\nauth = false\n[celery]\napp = \"workshop\"\nconcurrency = 1\n\
         [celery.liveness]\ninterval = \"100ms\"\ntimeout = \"2s\"\nfailures = 1\n",
    );
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "celery");
    let worker = pid_of(&mut orch, "celery");
    let ready = orch.wait_for_service("service_ready", "redis");
    let (_, address) = ready["detail"].as_str().unwrap().rsplit_once(' ').unwrap();
    let mut connection = redis::Client::open(format!("redis://{address}/"))
        .unwrap()
        .get_connection()
        .unwrap();
    connection.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    for _ in 0..2 {
        let mut requests = connection.as_pubsub();
        requests.psubscribe("*.celery.pidbox").unwrap();
        kill(worker, Signal::SIGSTOP).unwrap();
        wait_until("the worker stopped", || is_stopped(worker.as_raw()));
        // The pending question, or the next one; no answer can come.
        requests.get_message().unwrap();
        orch.signal(Signal::SIGSTOP);
        let stopped = Instant::now();
        wait_until("orch stopped", || is_stopped(orch.pid));
        kill(worker, Signal::SIGCONT).unwrap();
        // Longer than the 2 s for one answer, and the 4 s for all of a probe.
        keep_stopped(stopped, Duration::from_secs(5));
        orch.signal(Signal::SIGCONT);
        // By then orch has judged the pending probe.
        for _ in 0..2 {
            requests.get_message().unwrap();
        }
    }
    let touched = |event: &Value| VERDICTS.contains(&event["event"].as_str().unwrap());
    assert!(!orch.events().iter().any(touched), "{:#?}", orch.events());
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// Stops orch during the start of a service. The deadline of the start does not count the time in which orch could not
/// see the service.
fn stopped_through_the_start(project: &Project, service: &str, stop: Duration) {
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_spawned", service);
    orch.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_until("orch stopped", || is_stopped(orch.pid));
    let done = |event: &Value| {
        let usable = ["service_ready", "service_completed"].contains(&event["event"].as_str().unwrap());
        usable && event["service"] == service
    };
    assert!(!orch.events().iter().any(done), "it was stopped too late");
    keep_stopped(stopped, stop);
    orch.signal(Signal::SIGCONT);
    orch.wait_for("the start", done);
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert!(ended.events_of("service_failed").is_empty(), "{}", ended.stdout);
}

#[test]
fn a_worker_that_got_ready_while_orch_was_stopped_is_ready() {
    let project = bookshop::project_with(
        "workshop",
        "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\nstart_timeout = \"5s\"\n",
    );
    stopped_through_the_start(&project, "celery", Duration::from_secs(7));
}

#[test]
fn a_oneshot_that_ended_while_orch_was_stopped_has_ended_in_time() {
    let project = Project::new(
        "[redis]\nmode = \"off\"\n[services.once]\nkind = \"oneshot\"\ntimeout = \"1s\"\ncommand = [\"sleep\", \"0.5\"]\n\
         [services.web]\ncommand = [\"sleep\", \"600\"]\n",
    );
    stopped_through_the_start(&project, "once", Duration::from_secs(2));
}

#[test]
fn a_command_that_got_ready_while_orch_was_stopped_is_ready() {
    // A probe takes longer than the start of the command, so that one is pending all the time.
    let project = Project::new(
        "[redis]\nmode = \"off\"\n[services.web]\nstart_timeout = \"1s\"\n\
         command = [\"sh\", \"-c\", \"sleep 0.3; echo > up; exec sleep 600\"]\n\
         readiness = { exec = [\"sh\", \"-c\", \"test -e up || { sleep 0.5; exit 1; }\"] }\n",
    );
    stopped_through_the_start(&project, "web", Duration::from_secs(3));
}

/// Shows that a stopped guard catches up afterwards: only the guard can report a death and start a process.
#[test]
fn a_guard_that_was_stopped_makes_up_for_what_it_missed() {
    let project = project(20, 40);
    let mut orch = project.orch(&["run"]);
    let guard = guard_of(&mut orch);
    let worker = pid_of(&mut orch, "celery");
    wait_until("work", || done(&project, "second") > 0);
    kill(guard, Signal::SIGSTOP).unwrap();
    wait_until("the guard stopped", || is_stopped(guard.as_raw()));
    kill(worker, Signal::SIGKILL).unwrap();
    // orch notices the silence of the worker; the failed attempt to kill the worker does no harm.
    orch.wait_for_service("service_unhealthy", "celery");
    kill(guard, Signal::SIGCONT).unwrap();
    let ended = orch.finish();
    ended.expect_code(0);
    let again = ended.events_of("service_spawned");
    let again = again.iter().filter(|event| event["service"] == "celery").count();
    assert_eq!(again, 2, "one worker instead of the dead one");
    for (name, chunks) in [("first", 20), ("second", 40)] {
        assert_eq!(ledger(project.path(), name).len() as u64, chunks, "{name}");
    }
}

/// Service that ignores SIGTERM, with a grandchild that has daemonised.
const STUBBORN: &str = "[redis]\nmode = \"off\"\n[services.web]\ngrace = \"300ms\"\n\
     command = [\"sh\", \"-c\", \"trap '' TERM; setsid -f sleep 600; while :; do sleep 600; done\"]\n";

#[test]
fn a_stop_does_not_wait_for_a_stopped_guard_beyond_its_bound() {
    let project = Project::new(STUBBORN);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    let guard = guard_of(&mut orch);
    kill(guard, Signal::SIGSTOP).unwrap();
    let asked = Instant::now();
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    let took = asked.elapsed();
    // The guard was ordered to have ended by then; orch kills a guard that has not.
    ended.expect_code(3);
    let bound = Duration::from_millis(ended.events_of("stop_started")[0]["bound_ms"].as_u64().unwrap());
    assert!(
        took < bound + Duration::from_secs(3),
        "{took:?}, the bound is {bound:?}"
    );
}

/// Shows that a late report to orch is no failure: the guard has ended everything in time.
#[test]
fn orch_stopped_through_its_own_stop_has_stopped_in_time() {
    let project = Project::new(STUBBORN);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    let guard = guard_of(&mut orch);
    orch.signal(Signal::SIGTERM);
    let started = orch.wait_for("the stop", |event| event["event"] == "stop_started");
    orch.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_until("orch stopped", || is_stopped(orch.pid));
    let bound = Duration::from_millis(started["bound_ms"].as_u64().unwrap());
    // Longer than orch waits for the report of its guard after the bound.
    let long = bound + Duration::from_secs(3);
    keep_stopped(stopped, long);
    assert!(is_stopped(orch.pid) && !is_stopped(guard.as_raw()));
    orch.signal(Signal::SIGCONT);
    orch.finish().expect_code(143);
}

#[test]
fn orch_killed_beside_a_stopped_guard_is_made_up_for_when_that_goes_on() {
    let project = Project::new(STUBBORN);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    let guard = guard_of(&mut orch);
    kill(guard, Signal::SIGSTOP).unwrap();
    orch.signal(Signal::SIGKILL);
    // Another start is refused in time, with the pid of the guard.
    let asked = Instant::now();
    let refused = project.orch(&["up"]).finish();
    refused.expect_code(3);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(refused.stderr.contains(&guard.to_string()), "{}", refused.stderr);
    kill(guard, Signal::SIGCONT).unwrap();
    let ended = orch.finish();
    assert_eq!(ended.signal, Some(9));
    assert!(ended.left.is_empty(), "{:?}", ended.left);
    let mut next = project.orch(&["up"]);
    next.wait_for_service("service_ready", "web");
    next.signal(Signal::SIGTERM);
    next.finish().expect_code(143);
}
