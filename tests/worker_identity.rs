//! Properties of a worker by its own report: its pool, its import path.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Ended, Project};
use support::process::Process;
use support::redis::RedisServer;

/// The shortest liveness: one probe without an answer leads to a restart.
const IMPATIENT: &str = "[celery.liveness]\ninterval = \"200ms\"\ntimeout = \"300ms\"\nfailures = 1";

/// Creates a project of the workshop app with one site; `celery` are further lines of its section.
fn workshop(celery: &str, task: &str, args: &str) -> Project {
    bookshop::project_with(
        "workshop",
        &format!(
            "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\n{celery}\n\
             [sites.shop]\ndispatch = {{ task = \"workshop.{task}\", args = [{args}] }}\n"
        ),
    )
}

fn run(project: &Project, environment: &[(&str, &str)]) -> Ended {
    project
        .orch_with(&["run"], environment, Duration::from_secs(15))
        .finish()
}

fn expect_no_restart(ended: &Ended) {
    ended.expect_code(0);
    for kind in ["service_restarting", "service_unhealthy"] {
        assert!(ended.events_of(kind).is_empty(), "{}", ended.stdout);
    }
}

#[test]
fn a_solo_pool_that_the_app_or_an_argument_chooses_is_known_by_the_worker_s_word() {
    let by_the_app = workshop(IMPATIENT, "work", "2.5");
    expect_no_restart(&run(&by_the_app, &[("WORKSHOP_POOL", "solo")]));
    let by_argument = workshop(&format!("extra_args = [\"-P\", \"solo\"]\n{IMPATIENT}"), "work", "2.5");
    expect_no_restart(&run(&by_argument, &[]));
}

#[test]
fn a_task_that_computes_in_the_main_process_is_no_death() {
    let project = workshop(
        &format!("extra_args = [\"-P\", \"threads\"]\n{IMPATIENT}"),
        "compute",
        "3",
    );
    expect_no_restart(&run(&project, &[]));
}

#[test]
fn a_task_may_import_a_module_beside_the_app() {
    let project = workshop("", "lazy", "");
    fs::write(project.file("sidekick.py"), "SAVED = 5\n").unwrap();
    let ended = run(&project, &[("PYTHONPATH", "/somewhere/else")]);
    ended.expect_code(0);
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], 5);
}

#[test]
fn the_import_path_stays_what_it_was() {
    let project = workshop("", "environment", "[\"PYTHONPATH\"]");
    run(&project, &[("PYTHONPATH", "/somewhere/else")]).expect_code(0);
    let found = fs::read_to_string(project.file("environment")).unwrap();
    let expected = format!("PYTHONPATH={}:/somewhere/else\n", project.path().display());
    assert_eq!(found, expected);
    // Celery would import this in place of Python's own module, and not start.
    let project = workshop("", "environment", "[\"PYTHONPATH\"]");
    fs::write(project.file("types.py"), "").unwrap();
    let ended = run(&project, &[("PYTHONPATH", "")]);
    ended.expect_code(0);
    assert_eq!(
        fs::read_to_string(project.file("environment")).unwrap(),
        "PYTHONPATH=\n"
    );
    let problems = ended.events_of("app_problem_found");
    let is_hidden = |event: &&Value| event["problem"]["modules_hidden"]["files"] == json!(["types.py"]);
    assert!(problems.iter().any(is_hidden), "{problems:?}");
}

/// Creates a project on another owner's Redis whose site works until the file `finish` exists.
fn beside_others(redis: &RedisServer, celery: &str) -> Project {
    bookshop::project_with(
        "workshop",
        &format!(
            "[redis]\nmode = \"external\"\nport = {}\n[celery]\napp = \"workshop\"\nconcurrency = 1\n{celery}\n\
             [celery.liveness]\ninterval = \"200ms\"\n\
             [sites.shop]\ndispatch = {{ task = \"workshop.wait\", args = [\"finish\"] }}\n",
            redis.port
        ),
    )
}

/// Starts a worker as a person starts one by hand.
fn worker(project: &Project, redis: &RedisServer, node: &str, pool: &str) -> Process {
    let mut command = Command::new(project.file(".venv/bin/celery"));
    command
        .args([
            "-A", "workshop", "worker", "-c", "1", "-l", "INFO", "-P", pool, "-n", node,
        ])
        .current_dir(project.path())
        .envs([
            ("CELERY_BROKER_URL", redis.url(0)),
            ("CELERY_RESULT_BACKEND", redis.url(0)),
        ]);
    let log = project.file(&format!("by-hand-{}.log", uuid::Uuid::new_v4()));
    let mut process = Process::start(node, &mut command, &log);
    process.wait_until("ready", support::orch::WAIT_TIMEOUT, |process| {
        process.log().contains(" ready.")
    });
    process
}

#[test]
fn workers_that_share_a_name_are_not_used_and_another_is() {
    let redis = RedisServer::start();
    let project = beside_others(&redis, "");
    for pool in ["prefork", "solo"] {
        let workers = [(); 2].map(|()| worker(&project, &redis, "same@test", pool));
        let refused = project.orch(&["run"]).finish();
        refused.expect_code(2);
        let mut said: Vec<String> = workers
            .iter()
            .map(|worker| format!("pid {} (on this host)", worker.pid()))
            .collect();
        said.extend(["could not use the worker `same@test`".into(), "-n worker2@%h".into()]);
        for words in said {
            assert!(refused.stdout.contains(&words), "{words} is not in {}", refused.stdout);
        }
        assert!(refused.events_of("site_dispatched").is_empty(), "{}", refused.stdout);
    }
    let _same = [(); 2].map(|()| worker(&project, &redis, "same@test", "solo"));
    let _other = worker(&project, &redis, "other@test", "solo");
    fs::write(project.file("finish"), "").unwrap();
    let used = project.orch(&["run"]).finish();
    used.expect_code(0);
    let reused = used.events_of("service_reused");
    assert!(
        reused
            .iter()
            .any(|event| event["detail"].as_str().unwrap().contains("other@test")),
        "{reused:?}"
    );
}

#[test]
fn a_worker_whose_name_another_takes_in_the_middle_is_unhealthy_and_not_restarted() {
    for (is_reused, celery) in [(true, ""), (false, "reuse = false")] {
        let redis = RedisServer::start();
        let project = beside_others(&redis, celery);
        let first = is_reused.then(|| worker(&project, &redis, "same@test", "prefork"));
        let mut run = project.orch(&["run"]);
        let begun = project.file("begun");
        run.wait_until("the task", || begun.exists());
        let node = match &first {
            Some(_) => "same@test".to_owned(),
            None => {
                let ready = run.wait_for_service("service_ready", "celery");
                let detail = ready["detail"].as_str().unwrap();
                detail.split(' ').next().unwrap().to_owned()
            }
        };
        let second = worker(&project, &redis, &node, "prefork");
        let unhealthy = run.wait_for_service("service_unhealthy", "celery");
        let reason = unhealthy["reason"].as_str().unwrap();
        let words = format!("2 workers have the same name {node}: pid ");
        assert!(
            reason.starts_with(&words) && reason.contains("-n worker2@%h"),
            "{reason}"
        );
        assert!(
            reason.contains(&format!("pid {} (on this host)", second.pid())),
            "{reason}"
        );
        fs::write(project.file("finish"), "").unwrap();
        let ended = run.finish();
        ended.expect_code(0);
        let words = format!("service celery: was unhealthy: {words}");
        assert!(ended.stdout.contains(&words), "{words} is not in {}", ended.stdout);
        assert!(ended.events_of("service_restarting").is_empty(), "{}", ended.stdout);
        let gone = ended.stdout.contains("has ended") || ended.stdout.contains("does not answer");
        assert!(!gone, "neither has died: {}", ended.stdout);
    }
}
