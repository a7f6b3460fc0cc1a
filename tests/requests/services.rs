//! Requests to services in every state that can be brought about.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::bookshop;
use crate::support::orch::{Orch, lives};
use crate::support::redis::RedisServer;
use crate::{ask, expect, expect_answers, finish, orch, project, started};

const WEB: &str = "[services.web]\ncommand = [\"sleep\", \"600\"]\n";

fn pid_of(event: &Value) -> i32 {
    i32::try_from(event["pid"].as_i64().unwrap()).unwrap()
}

/// Returns the next process of the service after an event.
fn spawned_after(orch: &mut Orch<'_>, service: &str, before: &Value) -> Value {
    let seq = before["seq"].as_u64();
    orch.wait_for("another process", |event| {
        event["event"] == "service_spawned" && event["service"] == service && event["seq"].as_u64() > seq
    })
}

#[test]
fn a_ready_service_is_stopped_started_and_restarted() {
    let project = project(&format!(
        "{WEB}[services.api]\ncommand = [\"sleep\", \"600\"]\nafter = [\"web\"]\n"
    ));
    expect(
        &orch(&project, &["stop", "web"]),
        1,
        "nothing to do: no run is active in ",
    );
    let mut up = started(&project);
    let first = up.wait_for_service("service_spawned", "web");
    let api = up.wait_for_service("service_spawned", "api");
    expect(
        &orch(&project, &["stop", "wbe"]),
        2,
        "did you mean `web`? its services: web, api",
    );

    expect(
        &orch(&project, &["stop", "web"]),
        0,
        "web is being stopped\nweb has stopped: it was killed by SIGTERM",
    );
    assert!(!lives(pid_of(&first)));
    assert!(lives(pid_of(&api)), "a dependent keeps running");
    ask(&project, &["stop", "web"], 1, "nothing to do: web is already stopped");

    expect(
        &orch(&project, &["start", "web"]),
        0,
        "web starts now\nweb is ready after ",
    );
    let second = spawned_after(&mut up, "web", &first);
    ask(&project, &["start", "web"], 1, "nothing to do: web is already running");

    expect(
        &orch(&project, &["restart", "web"]),
        0,
        "web is being restarted\nweb is ready after ",
    );
    let third = spawned_after(&mut up, "web", &second);
    assert!(!lives(pid_of(&second)) && lives(pid_of(&third)));
    // A restart of a stopped service starts it.
    ask(&project, &["stop", "web"], 0, "web is being stopped");
    up.wait_for("the stop", |event| {
        event["event"] == "service_stopped" && event["seq"].as_u64() > third["seq"].as_u64()
    });
    expect(&orch(&project, &["restart", "web"]), 0, "web is ready after ");

    let ended = finish(up);
    assert!(
        ended.events_of("service_restarting").is_empty(),
        "no restart policy was applied"
    );
    assert!(ended.stdout.contains(" asked to stop web\n"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("nothing to do: web is already stopped\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_service_that_waits_or_starts_answers() {
    let project = project(
        "[services.slow]\ncommand = [\"sleep\", \"600\"]\nreadiness = { file = \"never\" }\nstart_timeout = \"10m\"\n\
         [services.late]\ncommand = [\"sleep\", \"600\"]\nafter = [\"slow\"]\n",
    );
    let mut up = project.orch(&["up"]);
    let first = up.wait_for_service("service_spawned", "slow");
    // Waiting.
    ask(
        &project,
        &["restart", "late"],
        1,
        "late starts as soon as it can use slow",
    );
    ask(
        &project,
        &["start", "late"],
        1,
        "late starts as soon as it can use slow",
    );
    ask(&project, &["stop", "late"], 0, "late was not running and stays down");
    ask(&project, &["stop", "late"], 1, "late is already stopped");
    ask(
        &project,
        &["start", "late"],
        0,
        "late starts as soon as it can use slow",
    );
    // Starting.
    ask(&project, &["start", "slow"], 1, "slow is already starting");
    ask(&project, &["restart", "slow"], 0, "slow is being restarted");
    spawned_after(&mut up, "slow", &first);
    expect(
        &orch(&project, &["stop", "slow"]),
        0,
        "slow has stopped: it was killed by SIGTERM",
    );
    ask(
        &project,
        &["start", "late"],
        1,
        "late starts as soon as it can use slow, which is stopped",
    );
    // Nothing else is to be started: the instance counts as up, and commands may join it.
    project.wait_for_file(".orch/instance.json");
    ask(&project, &["start", "slow"], 0, "slow starts now");
    up.wait_for("a second start", |event| {
        event["event"] == "service_starting" && event["service"] == "slow" && event["attempt"].as_u64() == Some(3)
    });
    let ended = finish(up);
    assert!(ended.events_of("service_failed").is_empty(), "{:#?}", ended.events);
}

#[test]
fn a_service_that_waits_for_its_next_restart_or_has_failed_answers() {
    let project = project(&format!(
        "{WEB}[services.frail]\ncommand = [\"sleep\", \"600\"]\n\
         restart = {{ limit = 1, backoff = \"1h\", backoff_max = \"1h\", stable = \"1h\" }}\n"
    ));
    let mut up = started(&project);
    let mut last = up.wait_for_service("service_spawned", "frail");
    let kill_it = |process: &Value| kill(Pid::from_raw(pid_of(process)), Signal::SIGKILL).unwrap();
    kill_it(&last);
    // The first restart comes at once, and counts towards the limit.
    last = spawned_after(&mut up, "frail", &last);
    kill_it(&last);
    up.wait_for_service("service_failed", "frail");
    up.wait_for_service("service_given_up", "frail");
    // Failed.
    ask(&project, &["stop", "frail"], 1, "frail has failed and does not run");
    let instance = || fs::read_to_string(project.file(".orch/instance.json")).unwrap();
    up.wait_until("the given-up service in the instance file", || {
        instance().contains("frail")
    });
    expect(&orch(&project, &["start", "frail"]), 0, "frail is ready after ");
    up.wait_until("no given-up service in the instance file", || {
        !instance().contains("frail")
    });
    last = spawned_after(&mut up, "frail", &last);
    kill_it(&last);
    last = spawned_after(&mut up, "frail", &last);
    kill_it(&last);
    let ended = finish(up);
    // The request has reset the count of restarts.
    assert_eq!(ended.events_of("service_restarting").len(), 2, "{:#?}", ended.events);
}

#[test]
fn a_service_in_its_backoff_is_started_at_once_or_stays_down() {
    let project = project(&format!(
        "{WEB}[services.frail]\ncommand = [\"sleep\", \"600\"]\n\
         restart = {{ limit = 9, backoff = \"1h\", backoff_max = \"1h\", stable = \"1h\" }}\n"
    ));
    let mut up = started(&project);
    let mut last = up.wait_for_service("service_spawned", "frail");
    let to_backoff = |up: &mut Orch<'_>, mut last: Value| {
        loop {
            kill(Pid::from_raw(pid_of(&last)), Signal::SIGKILL).unwrap();
            let seq = last["seq"].as_u64();
            let restarting = up.wait_for("a restart", |event| {
                event["event"] == "service_restarting" && event["seq"].as_u64() > seq
            });
            if restarting["backoff_ms"].as_u64() > Some(0) {
                return last;
            }
            last = spawned_after(up, "frail", &last);
        }
    };
    last = to_backoff(&mut up, last);
    expect(
        &orch(&project, &["start", "frail"]),
        0,
        "frail starts now\nfrail is ready after ",
    );
    last = spawned_after(&mut up, "frail", &last);
    to_backoff(&mut up, last);
    expect(
        &orch(&project, &["stop", "frail"]),
        0,
        "frail was not running and stays down",
    );
    ask(&project, &["stop", "frail"], 1, "frail is already stopped");
    expect(&orch(&project, &["restart", "frail"]), 0, "frail is ready after ");
    drop(finish(up));
}

#[test]
fn a_service_that_is_being_stopped_answers_at_once() {
    let project = project(
        "[services.slow]\ngrace = \"10m\"\nreadiness = { log = \"up\" }\n\
         command = [\"sh\", \"-c\", \"trap 'echo asked' TERM; echo up; while [ ! -e go ]; do sleep 0.1; done; rm go\"]\n",
    );
    let mut up = started(&project);
    let first = up.wait_for_service("service_spawned", "slow");
    ask(&project, &["stop", "slow"], 0, "slow is being stopped");
    ask(&project, &["stop", "slow"], 1, "slow is already being stopped");
    ask(
        &project,
        &["start", "slow"],
        0,
        "slow starts as soon as its last processes have ended",
    );
    ask(&project, &["restart", "slow"], 1, "slow is already being restarted");
    ask(
        &project,
        &["stop", "slow"],
        0,
        "slow is being stopped and is not started again",
    );
    ask(
        &project,
        &["restart", "slow"],
        0,
        "slow starts as soon as its last processes have ended",
    );
    assert!(lives(pid_of(&first)), "it has its whole grace period");
    // A command that waits for the effect gives up at its own time.
    let ended = orch(&project, &["stop", "slow", "--timeout", "100ms"]);
    expect(&ended, 3, "could not see the end of the stop of slow within 0.1s");
    ask(
        &project,
        &["start", "slow"],
        0,
        "slow starts as soon as its last processes have ended",
    );
    fs::write(project.file("go"), "").unwrap();
    spawned_after(&mut up, "slow", &first);
    // The second process does not end in its grace period.
    up.hurry();
    let ended = up.finish();
    ended.expect_code(130);
    expect_answers(&ended);
}

#[test]
fn a_oneshot_and_a_service_that_ended_by_itself_answer() {
    let project = project(&format!(
        "{WEB}[services.tables]\nkind = \"oneshot\"\ncommand = [\"true\"]\n\
         [services.brief]\ncommand = [\"sh\", \"-c\", \"echo x; exit 0\"]\nrestart = {{ when = \"never\" }}\n"
    ));
    let mut up = project.orch(&["up"]);
    let completed = up.wait_for_service("service_completed", "tables");
    up.wait_for_service("service_stopped", "brief");
    project.wait_for_file(".orch/instance.json");
    ask(&project, &["stop", "tables"], 1, "tables has completed");
    ask(
        &project,
        &["start", "tables"],
        1,
        "tables has completed; `orch restart tables` runs it again",
    );
    expect(
        &orch(&project, &["restart", "tables"]),
        0,
        "tables starts now\ntables completed after ",
    );
    up.wait_for("another end", |event| {
        event["event"] == "service_completed" && event["seq"].as_u64() > completed["seq"].as_u64()
    });
    ask(&project, &["stop", "brief"], 1, "brief has ended by itself");
    ask(&project, &["start", "brief"], 0, "brief starts now");
    drop(finish(up));
}

#[test]
fn a_start_that_fails_is_reported_with_its_reason() {
    let project = project(&format!(
        "{WEB}[services.broken]\ncommand = [\"sh\", \"-c\", \"[ -e fine ] || exit 7; echo up; exec sleep 600\"]\n\
         readiness = {{ log = \"up\" }}\nrestart = {{ limit = 0 }}\n"
    ));
    fs::write(project.file("fine"), "").unwrap();
    let up = started(&project);
    expect(
        &orch(&project, &["stop", "broken"]),
        0,
        "broken has stopped: it was killed by SIGTERM",
    );
    fs::remove_file(project.file("fine")).unwrap();
    expect(&orch(&project, &["start", "broken"]), 3, "broken failed: ");
    expect(
        &orch(&project, &["stop", "broken"]),
        1,
        "broken has failed and does not run",
    );
    drop(finish(up));
}

#[test]
fn a_redis_that_orch_did_not_start_is_neither_stopped_nor_restarted() {
    let redis = RedisServer::start();
    let project = bookshop::project_with(
        "workshop",
        &format!("[redis]\nport = {}\nmode = \"auto\"\nauth = false\n{WEB}", redis.port),
    );
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_reused", "redis");
    project.wait_for_file(".orch/instance.json");
    ask(
        &project,
        &["stop", "redis"],
        1,
        "refused: redis was running before orch",
    );
    ask(
        &project,
        &["restart", "redis"],
        1,
        "refused: redis was running before orch",
    );
    ask(
        &project,
        &["start", "redis"],
        1,
        "nothing to do: redis is already running, and orch did not start it",
    );
    drop(finish(up));
    assert!(
        redis::Client::open(format!("redis://127.0.0.1:{}/", redis.port))
            .unwrap()
            .get_connection()
            .is_ok()
    );
}

#[test]
fn redis_and_a_worker_are_restarted_while_the_instance_is_up() {
    let project = bookshop::project_with(
        "workshop",
        "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\n",
    );
    let mut up = started(&project);
    let worker = up.wait_for_service("service_spawned", "celery");
    let ended = project.orch_bare(&["restart", "redis"]).finish();
    expect(&ended, 0, "redis is ready after ");
    assert!(lives(pid_of(&worker)), "the worker connects again");
    let ended = project.orch_bare(&["restart", "celery"]).finish();
    expect(&ended, 0, "celery is ready after ");
    assert!(!lives(pid_of(&worker)));
    let ping = project.orch_bare(&["celery", "ping"]).finish();
    ping.expect_code(0);
    drop(finish(up));
}
