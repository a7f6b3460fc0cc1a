//! Services that end and are started again, or are given up.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::project;
use crate::support::orch::{Project, lives};

/// Service whose program the test can remove.
const REPLACED: &str = r#"
[services.web]
kind = "daemon"
command = ["./program", "600"]
[services.other]
kind = "daemon"
command = ["sleep", "600"]
"#;

#[test]
fn a_program_that_is_missing_for_a_moment_at_a_restart_is_tried_again() {
    let project = project(REPLACED);
    let (program, away) = (project.file("program"), project.file("program.new"));
    fs::copy("/bin/sleep", &program).unwrap();
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "other");
    let spawned = orch.wait_for_service("service_spawned", "web");
    fs::rename(&program, &away).unwrap();
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    orch.wait_for("a start that failed and is tried again", |event| {
        event["event"] == "service_restarting"
            && event["reason"].as_str().unwrap().contains("does not exist")
            && event["backoff_ms"].as_u64().unwrap() > 0
    });
    fs::rename(&away, &program).unwrap();
    orch.wait_for("another process", |event| {
        event["event"] == "service_spawned" && event["service"] == "web" && event["pid"] != spawned["pid"]
    });
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert!(ended.events_of("service_failed").is_empty(), "{:#?}", ended.events);
}

#[test]
fn a_program_that_stays_missing_is_given_up_after_its_limit() {
    let restart = "restart = { limit = 2, stable = \"1ms\", backoff = \"1ms\" }\n[services.other]";
    let project = project(&REPLACED.replace("[services.other]", restart));
    let program = project.file("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut orch = project.orch(&["up"]);
    let spawned = orch.wait_for_service("service_spawned", "web");
    // From here on all services are up, and one that is given up does not end the others.
    project.wait_for_file(".orch/instance.json");
    fs::remove_file(&program).unwrap();
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let failed = orch.wait_for_service("service_failed", "web");
    assert!(
        failed["reason"].as_str().unwrap().contains("tried again 2 times"),
        "{failed}"
    );
    orch.wait_for_service("service_given_up", "web");
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert!(ended.stdout.contains("does not exist"), "{}", ended.stdout);
}

#[test]
fn a_killed_command_is_started_again_at_once() {
    let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    let mut orch = project.orch(&["up"]);
    let spawned = orch.wait_for_service("service_spawned", "web");
    orch.wait_for_service("service_ready", "web");
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let restarting = orch.wait_for_service("service_restarting", "web");
    assert_eq!(restarting["backoff_ms"], 0);
    orch.wait_for("the second ready", |event| {
        event["event"] == "service_ready" && event["seq"].as_u64() > restarting["seq"].as_u64()
    });
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

#[test]
fn a_command_that_fails_at_its_start_ends_it_with_3_and_its_log() {
    let project = project(
        "[services.web]\nkind = \"daemon\"\ncommand = [\"sh\", \"-c\", \"echo no port left >&2; exit 7\"]\nreadiness = { file = \"never\" }\n",
    );
    let orch = project.orch(&["up"]);
    let ended = orch.finish();
    ended.expect_code(3);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        shown.contains("exit code 7") && shown.contains("no port left"),
        "{shown}"
    );
}

#[test]
fn a_command_that_dies_again_and_again_is_given_up_and_the_last_one_ends_it() {
    let project = project(
        "[services.web]\nkind = \"daemon\"\ncommand = [\"sh\", \"-c\", \"echo no port left >&2; exit 7\"]\n\
         restart = { limit = 2, backoff = \"1ms\" }\n",
    );
    let ended = project.orch(&["up"]).finish();
    ended.expect_code(3);
    assert_eq!(ended.events_of("service_restarting").len(), 2);
    assert!(
        ended.stdout.contains("after 2 restarts") && ended.stdout.contains("no port left"),
        "{}",
        ended.stdout
    );
}

/// Shows that a process of its own session, without a parent and without variables, is recognised by the log to which
/// it still writes.
#[test]
fn what_has_daemonised_and_wiped_its_environment_ends_before_the_restart() {
    let project = Project::new(
        r#"
[redis]
mode = "off"
[services.plain]
command = ["sleep", "600"]
[services.wiped]
command = ["sh", "-c", "env -i setsid -f sh -c 'echo $$ > new && mv new wiped.pid; exec sleep 600'; exec sleep 600"]
readiness = { file = "wiped.pid" }
"#,
    );
    let mut orch = project.orch(&["up"]);
    let first = orch.wait_for_service("service_spawned", "wiped");
    orch.wait_for_service("service_ready", "wiped");
    let stray = fs::read_to_string(project.file("wiped.pid")).unwrap();
    let stray = stray.trim().parse().unwrap();
    assert!(lives(stray));
    let main = i32::try_from(first["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(main), Signal::SIGKILL).unwrap();
    orch.wait_for("the replacement", |event| {
        event["event"] == "service_spawned" && event["service"] == "wiped" && event["pid"] != first["pid"]
    });
    assert!(!lives(stray));
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}
