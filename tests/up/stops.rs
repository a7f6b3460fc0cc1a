//! The stop of all services: its order, its bound, after SIGKILL of orch, and with services that do not end by themselves.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::orch::{Project, wait_until};
use crate::support::silent_files::{SilentFiles, waits_for_answer};
use crate::{STUBBORN, project};

#[test]
fn ctrl_c_ends_everything_in_order_with_130() {
    let project = project(
        r#"
[services.first]
kind = "oneshot"
command = ["sh", "-c", "echo made > made"]
[services.base]
kind = "daemon"
command = ["sleep", "600"]
after = ["first"]
[services.web]
kind = "daemon"
command = ["sleep", "600"]
after = ["base"]
"#,
    );
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    assert!(
        project.file("made").exists(),
        "the oneshot runs to its end before its dependents start"
    );
    orch.signal(Signal::SIGINT);
    let ended = orch.finish();
    ended.expect_code(130);
    let stopped: Vec<_> = ended
        .events_of("service_stopped")
        .iter()
        .map(|event| event["service"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(stopped, ["web", "base"], "dependents first");
    assert_eq!(ended.events.last().unwrap()["event"], "run_finished");
}

#[test]
fn stubborn_trees_are_ended_by_force_within_the_bound() {
    let project = project(STUBBORN);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "stubborn");
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    let started = ended.events_of("stop_started")[0];
    let finished = ended.events_of("stop_finished")[0];
    let (bound, took) = (
        started["bound_ms"].as_u64().unwrap(),
        finished["elapsed_ms"].as_u64().unwrap(),
    );
    assert!((300..bound + 1000).contains(&took), "took {took} ms, bound {bound} ms");
}

#[test]
fn kill_9_of_orch_leaves_nothing() {
    let project = project(STUBBORN);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "stubborn");
    orch.signal(Signal::SIGKILL);
    let ended = orch.finish();
    assert_eq!(ended.signal, Some(9));
    assert!(ended.left.is_empty(), "{:?}", ended.left);
    assert!(ended.gone_after < Duration::from_millis(1300), "{:?}", ended.gone_after);
}

#[test]
fn two_ctrl_c_skip_the_grace() {
    let project = project(&STUBBORN.replace("300ms", "30s"));
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "stubborn");
    orch.signal(Signal::SIGINT);
    orch.wait_for("the stop", |event| event["event"] == "stop_started");
    let hurried = Instant::now();
    orch.hurry();
    orch.finish().expect_code(130);
    assert!(hurried.elapsed() < Duration::from_secs(2), "{:?}", hurried.elapsed());
}

#[test]
fn a_second_one_is_refused_with_75_naming_the_holder() {
    let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    let mut first = project.orch(&["up"]);
    first.wait_for_service("service_ready", "web");
    let second = project.orch(&["up"]).finish();
    second.expect_code(75);
    assert!(second.stderr.contains(&first.pid.to_string()), "{}", second.stderr);
    first.signal(Signal::SIGTERM);
    first.finish().expect_code(143);
}

#[test]
fn kill_9_followed_at_once_by_the_same_command_waits_for_the_guard() {
    let project = project(STUBBORN);
    let mut first = project.orch(&["up"]);
    first.wait_for_service("service_ready", "stubborn");
    first.signal(Signal::SIGKILL);
    let mut second = project.orch(&["up"]);
    second.wait_for_service("service_ready", "stubborn");
    assert!(first.finish().left.is_empty());
    second.signal(Signal::SIGTERM);
    second.finish().expect_code(143);
}

/// Returns twenty services that resist their end: trees that ignore signals, some that have left their session, some
/// that fork when they are stopped, five times forty processes at once, and some that are another process every few
/// milliseconds.
fn twenty_stubborn() -> String {
    let deaf = "trap '' TERM HUP INT; setsid -f sh -c 'sleep 600; sleep 600'; while :; do sleep 600; done";
    let forking =
        "trap 'for n in 1 2 3 4 5 6 7 8 9; do setsid -f sleep 600; done' TERM; while :; do sleep 600 & wait; done";
    let many = "trap '' TERM; n=0; while [ $n -lt 40 ]; do sleep 600 & n=$((n+1)); done; touch many; wait";
    // At most 2,000 generations; each leaves the session and goes on as a child of itself.
    let fleeing = "trap '' TERM; echo 'trap \"\" TERM; n=$1; [ $n -gt 2000 ] || { sleep 0.003; setsid -f sh flee $((n+1)); }' > flee; sh flee 0; sleep 600";
    let mut configuration = "[redis]\nmode = \"off\"\n".to_owned();
    for number in 0..20 {
        let script = [deaf, forking, many, fleeing][number % 4];
        configuration.push_str(&format!(
            "[services.s{number}]\ngrace = \"300ms\"\ncommand = [\"sh\", \"-c\", {}]\n",
            serde_json::to_string(script).unwrap()
        ));
    }
    configuration
}

#[test]
fn twenty_stubborn_services_end_within_the_printed_bound() {
    let project = Project::new(&twenty_stubborn());
    let mut orch = project.orch_with(&["up"], &[], Duration::from_secs(1));
    for number in 0..20 {
        orch.wait_for_service("service_ready", &format!("s{number}"));
    }
    project.wait_for_file("many");
    let asked = Instant::now();
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    let took = asked.elapsed();
    ended.expect_code(143);
    let bound = ended.events_of("stop_started")[0]["bound_ms"].as_u64().unwrap();
    assert!(
        took <= Duration::from_millis(bound + 1000),
        "{took:?}, and the bound is {bound} ms"
    );
    println!("20 stubborn services: stopped in {took:?}, bound {bound} ms");
}

/// Services of which the one that depends on the others waits for a dead disk; `cat` does so as the main process.
fn on_a_dead_disk(stuck: &str) -> Project {
    project(&format!(
        r#"
[services.base]
kind = "daemon"
grace = "2s"
command = ["sh", "-c", "trap 'echo asked > asked; exit 0' TERM; echo up; while :; do sleep 0.05; done"]
readiness = {{ log = "up" }}
[services.stuck]
kind = "daemon"
grace = "200ms"
after = ["base"]
command = ["sh", "-c", '{stuck}']
"#
    ))
}

#[test]
fn the_stop_goes_on_below_a_process_that_nothing_ends() {
    for stuck in [
        "echo $$ > pid; exec cat dead/file",
        "cat dead/file & echo $! > pid; exec sleep 600",
        "setsid -f sh -c \"echo \\$\\$ > pid; exec cat dead/file\"; exec sleep 600",
    ] {
        let project = on_a_dead_disk(stuck);
        let Some(disk) = SilentFiles::mount(project.file("dead")) else {
            return;
        };
        let mut orch = project.orch_with(&["up"], &[], Duration::from_millis(100));
        orch.wait_for_service("service_ready", "stuck");
        let pid = || {
            let text = std::fs::read_to_string(project.file("pid")).unwrap_or_default();
            text.trim().parse().ok()
        };
        wait_until("a process waits for the disk", || pid().is_some_and(waits_for_answer));
        orch.signal(Signal::SIGTERM);
        let ended = orch.finish();
        assert_eq!(ended.code, Some(3), "{stuck}: {}", ended.stdout);
        assert!(
            project.file("asked").exists(),
            "{stuck}: a service that can end is asked to"
        );
        let pid = pid().unwrap();
        for said in [format!("stuck (pid {pid}, `cat`)"), "waits in the kernel".to_owned()] {
            assert!(
                ended.stdout.contains(&said),
                "{stuck}: {said} is not in {}",
                ended.stdout
            );
        }
        assert!(!ended.stdout.contains("nothing left"), "{stuck}: {}", ended.stdout);
        let bound = ended.events_of("stop_started")[0]["bound_ms"].as_u64().unwrap();
        assert_eq!(bound, 2200);
        assert_eq!(ended.left.len(), 1, "{stuck}: {:?}", ended.left);
        drop(disk);
    }
}
