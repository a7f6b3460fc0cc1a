//! A worker that lives and does not work, or dies while it executes tasks, is replaced while the run goes on.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Orch, Project, wait_until};

/// Creates a project of the workshop app whose worker is probed often; `sites` are the rest of the configuration.
fn workshop(celery: &str, sites: &str) -> Project {
    bookshop::project_with(
        "workshop",
        &format!(
            "[orch]\nmax_parallel_sites = 1\n[redis]\nmode = \"own\"\nport = 0\nauth = false\n\
             [celery]\napp = \"workshop\"\nconcurrency = 1\nstalled_after = \"2s\"\n{celery}\n\
             [celery.liveness]\ninterval = \"300ms\"\ntimeout = \"1s\"\nfailures = 2\n{sites}"
        ),
    )
}

/// Two sites one after the other: the end of the second shows the state of the worker.
const TWO_SITES: &str = "[sites.first]\ndispatch = { task = \"workshop.work\", args = [1.5] }\n\
     [sites.second]\ndispatch = { task = \"workshop.append\", args = [\"done\", \"{site}\"] }\n";

fn pid_of(orch: &mut Orch<'_>, service: &str) -> Pid {
    let spawned = orch.wait_for_service("service_spawned", service);
    Pid::from_raw(i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap())
}

/// Runs `orch celery ...` in the directory of an instance, which it finds by itself.
fn orch_celery(project: &Project, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_orch"))
        .arg("celery")
        .args(arguments)
        .current_dir(project.path())
        .env_remove("CELERY_BROKER_URL")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Cancels the consumer once the task of the first site runs.
fn cancel_the_consumer(orch: &mut Orch<'_>, project: &Project) {
    orch.wait_until("the first site's task", || project.file("begun").exists());
    let (code, text) = orch_celery(project, &["control", "cancel-consumer", "celery"]);
    assert_eq!(code, Some(0), "{text}");
}

fn extend_app(project: &Project, code: &str) {
    let app = project.file("workshop.py");
    let text = fs::read_to_string(&app).unwrap();
    fs::write(app, text + code).unwrap();
}

fn at(event: &Value) -> f64 {
    event["at"].as_f64().unwrap()
}

#[test]
fn a_worker_whose_consumer_was_cancelled_consumes_again_and_the_run_completes() {
    let project = workshop("", TWO_SITES);
    let mut orch = project.orch(&["run"]);
    cancel_the_consumer(&mut orch, &project);
    let ended = orch.finish();
    ended.expect_code(0);
    let added = ended.events_of("consumer_added");
    assert!(!added.is_empty(), "{}", ended.stdout);
    let reason = added[0]["reason"].as_str().unwrap();
    // The reason depends on whether the task of the second site is in the queue already.
    let reasons = [
        "answers but consumes no queue",
        "answers but is no consumer of `celery`, where 1 message waits",
    ];
    assert!(reasons.iter().any(|text| reason.ends_with(text)), "{reason}");
    assert!(ended.events_of("service_restarting").is_empty(), "{}", ended.stdout);
    assert_eq!(fs::read_to_string(project.file("done")).unwrap(), "second\n");
}

/// Shows that a worker is restarted that claims to consume, but takes nothing: probes without a new finding do not
/// count as good ones in between.
#[test]
fn a_worker_whose_consumer_cannot_be_given_back_is_restarted() {
    let project = workshop("", TWO_SITES);
    let deaf = "from celery.worker.control import control_command\n\n\
                @control_command(args=[('queue', str)])\n\
                def cancel_consumer(state, queue, **_):\n    \
                    state.consumer.call_soon(state.consumer.task_consumer.cancel)\n    \
                    return {'ok': 'still listed'}\n\n\
                @control_command(args=[('queue', str)])\n\
                def add_consumer(state, queue, **_):\n    \
                    return {'ok': 'nothing done'}\n";
    extend_app(&project, deaf);
    let mut orch = project.orch(&["run"]);
    cancel_the_consumer(&mut orch, &project);
    let ended = orch.finish();
    ended.expect_code(0);
    assert_eq!(ended.events_of("consumer_added").len(), 1, "{}", ended.stdout);
    let restart = ended.events_of("service_restarting")[0];
    let reason = restart["reason"].as_str().unwrap();
    assert!(
        reason.contains("answers but does not consume") && reason.ends_with("though its consumer was added again"),
        "{reason}"
    );
    assert_eq!(fs::read_to_string(project.file("done")).unwrap(), "second\n");
}

#[test]
fn a_worker_that_has_fallen_silent_is_restarted_and_the_run_completes() {
    let project = workshop("", TWO_SITES);
    let mut orch = project.orch(&["run"]);
    let worker = pid_of(&mut orch, "celery");
    orch.wait_until("the site's task", || project.file("begun").exists());
    kill(worker, Signal::SIGSTOP).unwrap();
    let ended = orch.finish();
    ended.expect_code(0);
    let restart = ended.events_of("service_restarting")[0];
    assert_eq!(restart["service"], "celery");
    assert!(
        restart["reason"].as_str().unwrap().contains("does not answer a ping"),
        "{restart}"
    );
}

/// Shows that the run completes: by its version, the worker either connects again by itself or falls silent and is
/// restarted.
#[test]
fn a_worker_whose_connections_are_cut_works_again_and_the_run_completes() {
    let project = workshop("", TWO_SITES);
    let mut orch = project.orch(&["run"]);
    let redis = orch.wait_for_service("service_ready", "redis");
    orch.wait_until("the first site's task", || project.file("begun").exists());
    let (_, address) = redis["detail"].as_str().unwrap().rsplit_once(' ').unwrap();
    let mut connection = redis::Client::open(format!("redis://{address}"))
        .unwrap()
        .get_connection()
        .unwrap();
    // Also the connections of orch, which must not mistake its own loss for that of the worker.
    for kind in ["pubsub", "normal"] {
        let cut: u64 = redis::cmd("CLIENT")
            .arg("KILL")
            .arg("TYPE")
            .arg(kind)
            .query(&mut connection)
            .unwrap();
        assert!(cut > 0, "no {kind} connection");
    }
    let ended = orch.finish();
    ended.expect_code(0);
    assert_eq!(fs::read_to_string(project.file("done")).unwrap(), "second\n");
}

#[test]
fn a_broker_that_is_away_is_no_reason_to_restart_the_worker() {
    let project = workshop("", "[redis.restart]\nbackoff = \"1500ms\"\nlimit = 9\n");
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "celery");
    // After some deaths in a row comes a pause, in which the worker is probed several times.
    let mut seen = 0.0;
    let pause = loop {
        let spawned = orch.wait_for("a Redis", |event| {
            event["event"] == "service_spawned" && event["service"] == "redis" && at(event) > seen
        });
        let ready = orch.wait_for("that it is ready", |event| {
            event["event"] == "service_ready" && event["service"] == "redis" && at(event) > at(&spawned)
        });
        let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let restart = orch.wait_for("its restart", |event| {
            event["event"] == "service_restarting" && event["service"] == "redis" && at(event) > at(&ready)
        });
        seen = at(&ready);
        if restart["backoff_ms"].as_u64() > Some(1000) {
            break restart;
        }
    };
    orch.wait_for("the last Redis", |event| {
        event["event"] == "service_ready" && event["service"] == "redis" && at(event) > at(&pause) + 1.0
    });
    wait_until("the worker consumes", || {
        orch_celery(&project, &["ping", "--consuming"]).0 == Some(0)
    });
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    let restarted: Vec<_> = ended
        .events_of("service_restarting")
        .into_iter()
        .filter(|event| event["service"] == "celery")
        .collect();
    assert!(restarted.is_empty(), "{restarted:?}");
}

/// Shows that orch asks again when the answers of a worker are lost with Redis during its start.
#[test]
fn a_redis_that_dies_while_a_worker_becomes_ready_is_no_failure() {
    let project = workshop(
        "",
        "[sites.only]\ndispatch = { task = \"workshop.append\", args = [\"done\", \"{site}\"] }\n",
    );
    let strikes = "from celery.worker.control import Panel\n\n\
                   registered = Panel.data['registered']\n\n\
                   def strike(state, **options):\n    \
                       if not os.path.exists('struck'):\n        \
                           open('struck', 'w').close()\n        \
                           server = redis.Redis.from_url(os.environ['CELERY_BROKER_URL']).info('server')\n        \
                           os.kill(server['process_id'], signal.SIGKILL)\n    \
                       return registered(state, **options)\n\n\
                   Panel.data['registered'] = strike\n";
    extend_app(&project, strikes);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    assert!(project.file("struck").exists());
    let restarted: Vec<&Value> = ended.events_of("service_restarting");
    assert!(
        restarted.iter().all(|event| event["service"] == "redis"),
        "{restarted:?}"
    );
    assert_eq!(restarted.len(), 1, "{}", ended.stdout);
    assert_eq!(fs::read_to_string(project.file("done")).unwrap(), "only\n");
}

#[test]
fn tasks_that_a_killed_worker_held_run_again_within_seconds_and_once() {
    const TASKS: usize = 20;
    let project = workshop(
        "",
        &format!(
            "[celery.settings]\n\"worker_prefetch_multiplier\" = 40\n\
             [sites.late]\ndispatch = {{ task = \"workshop.late_chord\", args = [{TASKS}, 0.1] }}\n"
        ),
    );
    let mut orch = project.orch(&["run"]);
    let worker = pid_of(&mut orch, "celery");
    orch.wait_until("the first task", || project.file("late").exists());
    kill(worker, Signal::SIGKILL).unwrap();
    let ended = orch.finish();
    ended.expect_code(0);
    let ready = at(ended
        .events_of("service_ready")
        .into_iter()
        .rfind(|event| event["service"] == "celery")
        .unwrap());

    let text = fs::read_to_string(project.file("late")).unwrap();
    let mut runs: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let (number, time) = line.split_once(' ').unwrap();
        runs.entry(number.parse().unwrap())
            .or_default()
            .push(time.parse().unwrap());
    }
    assert_eq!(runs.len(), TASKS, "{text}");
    let again: Vec<f64> = runs
        .values()
        .map(|times| times.iter().copied().filter(|time| *time > ready).collect::<Vec<f64>>())
        .inspect(|times| assert!(times.len() <= 1, "a task ran more than twice:\n{text}"))
        .flatten()
        .collect();
    assert!(again.len() >= TASKS - 3, "only {} were held:\n{text}", again.len());
    let last = again.iter().copied().fold(0.0, f64::max) - ready;
    let first = again.iter().copied().fold(f64::MAX, f64::min) - ready;
    println!(
        "{} held tasks ran again {first:.2} s to {last:.2} s after the new worker's readiness",
        again.len()
    );
    assert!(last < 5.0, "the last began after {last:.2} s:\n{text}");
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
}

#[test]
fn with_late_acknowledgement_a_task_whose_process_was_killed_runs_again() {
    let project = workshop(
        "acks_late = true",
        "[sites.dies]\ndispatch = { task = \"workshop.dies\", args = [1] }\n",
    );
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    assert_eq!(fs::read_to_string(project.file("died")).unwrap().lines().count(), 2);
    assert!(
        ["crashing_task_revoked", "stale_executions_found"]
            .iter()
            .all(|kind| ended.events_of(kind).is_empty()),
        "{}",
        ended.stdout
    );
    let problems = ended.events_of("worker_problem_found");
    // The one task of the app that sets early acknowledgement, and no other.
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let early = json!({ "acknowledged_early": { "count": 1, "tasks": ["workshop.early"] } });
    assert_eq!(problems[0]["problem"], early);
}

#[test]
fn tasks_of_an_app_that_is_finalised_at_import_are_named() {
    let project = workshop("acks_late = true", "");
    let mut app = fs::read_to_string(project.file("workshop.py")).unwrap();
    app.push_str("\n\napp.finalize()\nfor task in app.tasks.values():\n    task.acks_late\n");
    fs::write(project.file("workshop.py"), app).unwrap();
    let mut orch = project.orch(&["up"]);
    orch.wait_for("the warning", |event| {
        let tasks = event["problem"]["acknowledged_early"]["tasks"].as_array();
        tasks.is_some_and(|tasks| tasks.contains(&json!("workshop.append")))
    });
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

#[test]
fn a_task_that_always_kills_its_process_is_revoked() {
    let project = workshop(
        "acks_late = true",
        "[sites.dies]\ndispatch = { task = \"workshop.dies\", args = [1000] }\n",
    );
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    // The third death is reported; a fourth process may have begun by then.
    let deaths = fs::read_to_string(project.file("died")).unwrap().lines().count();
    assert!((3..=5).contains(&deaths), "{deaths}");
    let is_reported = ended
        .events_of("crashing_task_revoked")
        .into_iter()
        .any(|event| event["name"] == "workshop.dies" && event["crashes"] == 3);
    assert!(is_reported, "{}", ended.stdout);
    let finished = ended.events_of("site_finished");
    assert_eq!(finished[0]["status"], "failed", "{finished:?}");
    assert!(
        finished[0]["reason"].as_str().unwrap().contains("revoked"),
        "{finished:?}"
    );
}
