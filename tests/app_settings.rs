//! Transport settings of the app: orch uses them everywhere, or refuses them by name before the worker starts.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project, wait_until};

/// Returns the priorities of the example in Celery's manual.
fn own_priorities() -> Value {
    json!({ "sep": ":", "priority_steps": (0..10).collect::<Vec<_>>(), "queue_order_strategy": "priority" })
}

/// Creates a project with the sites `short` (4 chunks), `long` (30 chunks of a second) and `waiting` (until the file
/// `go` exists); `celery` are further lines of the worker's section.
fn project(settings: &Value, celery: &str) -> Project {
    let site = |name: &str, task: &str, args: &str| {
        format!("[sites.{name}]\ntimeout = \"60s\"\ndispatch = {{ task = \"own.{task}\", args = [{args}] }}\n")
    };
    let project = bookshop::project_with(
        "own_settings",
        &[
            format!("[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"own_settings\"\nconcurrency = 2\n{celery}\n"),
            site("short", "dispatch", "\"{site}\", 4, 0.0"),
            site("long", "dispatch", "\"{site}\", 30, 1.0"),
            site("waiting", "wait", "\"go\""),
        ]
        .concat(),
    );
    set(&project, settings);
    project
}

fn set(project: &Project, settings: &Value) {
    fs::write(project.file("settings.json"), settings.to_string()).unwrap();
}

fn shown(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

fn lines(project: &Project, file: &str) -> usize {
    fs::read_to_string(project.file(file))
        .unwrap_or_default()
        .lines()
        .count()
}

/// Runs the short site; asserts that all chunks are executed and counted.
#[track_caller]
fn runs(project: &Project) {
    let ended = project.orch(&["run", "--sites", "short"]).finish();
    ended.expect_code(0);
    let ends = ended.events_of("site_finished");
    assert_eq!(
        ends.first().map(|end| &end["status"]),
        Some(&json!("complete")),
        "{ends:?}"
    );
    assert_eq!(ends[0]["counts"]["completed_chunks"], 4, "{ends:?}");
    // A run before this one may be interrupted; nothing else is reported.
    for kind in [
        "noticed",
        "app_problem_found",
        "worker_problem_found",
        "redis_problem_found",
    ] {
        let notices = ended.events_of(kind);
        assert!(notices.is_empty(), "{notices:?}");
    }
}

fn depth(project: &Project) -> u64 {
    let ended = project
        .orch_bare(&["celery", "queues", "--queues", "celery", "--json"])
        .finish();
    ended.expect_code(0);
    let object: Value = serde_json::from_str(&ended.stdout).unwrap();
    let steps = object["queues"]["celery"].as_object().unwrap();
    steps.values().filter_map(Value::as_u64).sum()
}

fn interrupted(orch: Orch<'_>) {
    orch.signal(Signal::SIGINT);
    orch.finish().expect_code(130);
}

#[test]
fn names_of_the_apps_own_are_followed() {
    let project = project(
        &json!({
            "broker_transport_options": {
                "global_keyprefix": "shop-", "unacked_key": "taken", "unacked_index_key": "taken_at",
                "sep": "|", "priority_steps": [0, 5],
            },
            "result_backend_transport_options": { "global_keyprefix": "results" },
            "control_exchange": "shop", "event_exchange": "shop_events", "task_default_priority": 6,
        }),
        "",
    );
    runs(&project);
}

#[test]
fn channels_without_prefix_and_patterns_are_followed() {
    let options = json!({ "fanout_prefix": false, "fanout_patterns": false });
    runs(&project(&json!({ "broker_transport_options": options }), ""));
    let options = json!({ "fanout_prefix": "/shop.", "global_keyprefix": "a*b" });
    runs(&project(&json!({ "broker_transport_options": options }), ""));
}

#[test]
fn what_an_interrupted_run_has_queued_with_a_separator_of_the_apps_own_is_not_done_by_the_next() {
    let settings = json!({
        "task_default_priority": 5, "worker_prefetch_multiplier": 1, "broker_transport_options": own_priorities(),
    });
    let project = project(&settings, "");
    let orch = project.orch(&["run", "--sites", "long"]);
    wait_until("a chunk", || lines(&project, "ledger.long") > 0);
    assert!(depth(&project) >= 10, "{}", depth(&project));
    interrupted(orch);
    let done = lines(&project, "ledger.long");
    runs(&project);
    assert_eq!(lines(&project, "ledger.long"), done);
}

#[test]
fn the_stop_of_a_site_removes_its_messages_from_lists_of_the_apps_own_names() {
    let settings = json!({
        "task_default_priority": 7, "worker_prefetch_multiplier": 1,
        "broker_transport_options": { "global_keyprefix": "p:", "sep": ":", "priority_steps": [0, 2, 7] },
    });
    let project = project(&settings, "");
    let mut orch = project.orch(&["run", "--sites", "long,waiting"]);
    orch.wait_for("the job", |event| {
        event["event"] == "site_job_started" && event["site"] == "long"
    });
    wait_until("a chunk", || lines(&project, "ledger.long") > 0);
    let ended = project.orch_bare(&["stop", "site", "long"]).finish();
    ended.expect_code(0);
    assert_eq!(depth(&project), 0);
    fs::write(project.file("go"), "").unwrap();
    let ended = orch.finish();
    ended.expect_code(1);
    let waiting = ended.events_of("site_finished");
    let waiting = waiting.iter().find(|event| event["site"] == "waiting").unwrap();
    assert_eq!(waiting["status"], "complete", "{waiting}");
}

#[test]
fn what_orch_cannot_follow_is_refused_before_the_worker_starts() {
    for (settings, name, celery) in [
        (
            json!({ "worker_enable_remote_control": false }),
            "worker_enable_remote_control = False",
            "",
        ),
        (
            json!({ "accept_content": ["pickle"] }),
            "accept_content = [\"pickle\"]",
            "",
        ),
        (
            json!({ "task_serializer": "pickle" }),
            "task_serializer = \"pickle\"",
            "",
        ),
        // The setting may also come from the command line of the worker.
        (
            json!({}),
            "event_serializer = \"yaml\"",
            "settings = { \"event.serializer\" = \"yaml\" }",
        ),
    ] {
        let project = project(&settings, celery);
        let ended = project.orch(&["run", "--sites", "short"]).finish();
        ended.expect_code(2);
        let shown = shown(&ended);
        assert!(shown.contains(name), "{name}: {shown}");
        assert!(shown.contains("`own_settings`") && shown.contains("hint:"), "{shown}");
        // Only the child imports the app.
        assert_eq!(lines(&project, "imports"), 1, "{shown}");
    }
}

#[test]
fn the_cure_of_a_refusal_is_one() {
    let project = project(
        &json!({ "worker_enable_remote_control": false }),
        "settings = { \"worker.enable_remote_control\" = 1 }",
    );
    runs(&project);
}

#[test]
fn options_by_which_orch_names_the_worker_are_refused_where_they_stand() {
    for (arguments, what) in [
        ("\"-n\", \"mine@%h\"", "set the node name"),
        ("\"-nmine@%h\"", "set the node name"),
        ("\"--hostname=mine@%h\"", "set the node name"),
        ("\"-Q\", \"a,b\"", "set the queues"),
        ("\"--detach\"", "detach the worker"),
    ] {
        let project = project(&json!({}), &format!("extra_args = [{arguments}]"));
        let ended = project.orch(&["run", "--sites", "short"]).finish();
        ended.expect_code(2);
        assert!(shown(&ended).contains(what), "{arguments}: {}", shown(&ended));
    }
}

#[test]
fn an_app_is_asked_again_only_when_what_it_has_read_has_changed() {
    let project = project(&json!({}), "");
    runs(&project);
    assert_eq!(lines(&project, "imports"), 2, "the child and the worker");
    runs(&project);
    assert_eq!(lines(&project, "imports"), 3, "the worker alone");
    set(&project, &json!({ "control_exchange": "other" }));
    runs(&project);
    assert_eq!(lines(&project, "imports"), 5, "the child again");
    fs::write(project.state_dir().join("app-settings.json"), "[{").unwrap();
    runs(&project);
    assert_eq!(lines(&project, "imports"), 7, "the child again");
}

#[test]
fn commands_and_runs_next_to_an_instance_use_what_it_has_learnt() {
    let project = project(
        &json!({
            "broker_transport_options": { "global_keyprefix": "shop-", "sep": "/", "priority_steps": [0, 4, 8] },
            "result_backend_transport_options": { "global_keyprefix": "r" },
            "task_default_priority": 8, "control_exchange": "shop", "event_exchange": "ev",
        }),
        "",
    );
    let mut orch = project.orch(&["up"]);
    bookshop::wait_until_up(&mut orch, &project);
    let ping = project.orch_bare(&["celery", "ping"]).finish();
    ping.expect_code(0);
    assert!(ping.stdout.starts_with("healthy: "), "{}", ping.stdout);
    // The variables name the broker of the instance.
    let within = project
        .orch_bare(&["exec", "--", env!("CARGO_BIN_EXE_orch"), "celery", "ping"])
        .finish();
    within.expect_code(0);
    let published = project
        .orch_bare(&[
            "celery",
            "publish",
            "own.chunk",
            "--args",
            "[\"by hand\", 1, 0]",
            "--priority",
            "9",
            "--wait",
        ])
        .finish();
    published.expect_code(0);
    assert_eq!(lines(&project, "ledger.by hand"), 1);
    assert_eq!(depth(&project), 0);
    runs(&project);
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

#[test]
fn an_app_that_a_wrapper_starts_is_asked_through_its_worker() {
    let project = project(
        &json!({ "broker_transport_options": own_priorities(), "task_default_priority": 3 }),
        "",
    );
    let wrapper = project.file("celery-wrapper");
    fs::write(&wrapper, "#!/bin/sh\nexec .venv/bin/celery \"$@\"\n").unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let orch = project.orch(&["run", "--sites", "long", "--set", "celery.program=./celery-wrapper"]);
    wait_until("a chunk", || lines(&project, "ledger.long") > 0);
    assert_eq!(lines(&project, "imports"), 1, "the worker alone");
    assert!(depth(&project) > 0);
    interrupted(orch);
}
