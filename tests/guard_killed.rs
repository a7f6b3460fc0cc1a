//! Death of the guard, or of the guard and orch together; and the state that a service inherits from the guard.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

mod support;
use support::orch::{Orch, Project, WAIT_TIMEOUT, kill_both_at_once, lives, wait_until};
use support::skip::skip;
use support::watch::{self, Unmet, Watch};

/// Service whose grandchild has daemonised itself; the grandchild's pid is written to `stray.pid`.
const STRAY: &str = r#"
[redis]
mode = "off"
[services.stray]
kind = "daemon"
command = ["python3", "-c", '''
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open("stray.pid.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("stray.pid.new", "stray.pid")
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
''']
readiness = { file = "stray.pid" }
"#;

fn guard_of(orch: &mut Orch<'_>) -> Pid {
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    Pid::from_raw(i32::try_from(started["guard_pid"].as_i64().unwrap()).unwrap())
}

fn stray(project: &Project) -> i32 {
    fs::read_to_string(project.file("stray.pid")).unwrap().parse().unwrap()
}

#[test]
fn a_killed_guard_is_noticed_at_once_everything_ends_and_the_code_is_3() {
    let project = Project::new(STRAY);
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "stray");
    let guard = guard_of(&mut orch);
    let killed = Instant::now();
    kill(guard, Signal::SIGKILL).unwrap();
    let ended = orch.finish();
    ended.expect_code(3);
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(ended.stdout.contains("the guard was killed"), "{}", ended.stdout);
}

/// Service that leaves a daemon without any mark: its own session, no variables, no log, no parent. Its pid is written
/// to `stray.pid`.
const UNMARKED: &str = r#"
[redis]
mode = "off"
[services.stray]
kind = "daemon"
command = ["python3", "-c", '''
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in 0, 1, 2:
            os.dup2(null, descriptor)
        with open("stray.pid.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("stray.pid.new", "stray.pid")
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)
os.wait()
time.sleep(600)
''']
readiness = { file = "stray.pid" }
"#;

#[test]
fn under_a_wrapper_a_killed_guard_leaves_nothing_and_the_wrappers_own_child_lives() {
    let project = Project::new(UNMARKED);
    // As with `exec > >(tee log)`: orch has a child of its own before it starts the guard.
    let mut orch = project.shell("mkfifo pipe; cat pipe > copy & echo $! > helper.pid; exec \"$ORCH\" up > pipe");
    orch.wait_for_service("service_ready", "stray");
    let guard = guard_of(&mut orch);
    kill(guard, Signal::SIGKILL).unwrap();
    let ended = orch.finish();
    ended.expect_code(3);
    assert!(!lives(stray(&project)));
    let copy = fs::read_to_string(project.file("copy")).unwrap();
    assert!(copy.contains("nothing left") && copy.contains("exit code 3"), "{copy}");
}

#[test]
fn what_may_be_a_wrappers_own_is_not_touched_and_nothing_is_said_to_be_left_that_was_not_checked() {
    let project = Project::new(UNMARKED);
    // This child has children, so that it may have left a daemon as well.
    let mut orch = project.shell("mkfifo pipe; (sleep 0; cat pipe > copy; true) & exec \"$ORCH\" up > pipe");
    orch.wait_for_service("service_ready", "stray");
    let guard = guard_of(&mut orch);
    let stray = stray(&project);
    kill(guard, Signal::SIGKILL).unwrap();
    orch.wait_for("the end", |event| event["event"] == "run_finished");
    let lives_on = lives(stray);
    if lives_on {
        kill(Pid::from_raw(stray), Signal::SIGKILL).unwrap();
    }
    let ended = orch.finish();
    ended.expect_code(3);
    let copy = fs::read_to_string(project.file("copy")).unwrap();
    // In a control group of the run the kernel has ended the process.
    assert_eq!(lives_on, !copy.contains("nothing left"), "{copy}");
    assert_eq!(lives_on, copy.contains(&stray.to_string()), "{copy}");
}

#[test]
fn both_killed_at_once_services_die_and_the_next_start_ends_what_had_daemonised() {
    let project = Project::new(STRAY);
    let mut orch = project.orch_with(&["up"], &[], WAIT_TIMEOUT);
    let spawned = orch.wait_for_service("service_spawned", "stray");
    orch.wait_for_service("service_ready", "stray");
    let (guard, stray) = (guard_of(&mut orch), stray(&project));
    kill_both_at_once(orch.pid, guard.as_raw());
    let main = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    assert!(
        watch::ends(main, WAIT_TIMEOUT),
        "the parent-death signal did not end the service"
    );
    assert!(
        lives(stray),
        "a daemonised grandchild is the documented limit; if it died this test shows nothing"
    );
    // A stranger with a recorded pid but another start time, as after the reuse of a pid.
    #[expect(clippy::disallowed_methods, reason = "a stranger is started by somebody else")]
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let records = fs::read_dir(project.state_dir().join("pids"))
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let mut text = fs::read_to_string(&records).unwrap();
    text.push_str(&format!("{} 1 stranger\ntorn", stranger.id()));
    fs::write(&records, text).unwrap();

    fs::remove_file(project.file("stray.pid")).unwrap();
    let mut next = project.orch(&["up"]);
    next.wait_for_service("service_ready", "stray");
    assert!(
        !lives(stray),
        "the leftover of the dead run is ended before anything is started"
    );
    let is_reported = next.events().iter().any(|event| {
        let ended = event["ended"].as_array();
        event["event"] == "leftover_processes_ended"
            && ended.is_some_and(|ended| ended.iter().any(|process| process["pid"] == stray))
    });
    assert!(is_reported, "{:#?}", next.events());
    assert!(lives(stranger.id().cast_signed()), "a stranger was touched");
    next.signal(Signal::SIGTERM);
    next.finish().expect_code(143);
    assert!(lives(stranger.id().cast_signed()), "a stranger was touched");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(orch.finish().left.is_empty());
}

#[test]
fn clean_shows_what_dead_runs_left_and_ends_it() {
    let project = Project::new(STRAY);
    let mut orch = project.orch_with(&["up"], &[], WAIT_TIMEOUT);
    orch.wait_for_service("service_ready", "stray");
    let (guard, stray) = (guard_of(&mut orch), stray(&project));
    let state = project.state_dir();
    fs::write(state.join("instance.json.being-written-by-7"), "{").unwrap();

    let held = project.orch(&["clean"]).finish();
    assert_eq!(held.code, Some(75), "{}", held.stderr);
    assert!(held.stderr.contains(&orch.pid.to_string()), "{}", held.stderr);
    assert!(lives(stray), "what lives is no leftover");

    kill_both_at_once(orch.pid, guard.as_raw());
    let shown = project.orch(&["clean", "--dry-run"]).finish();
    shown.expect_code(0);
    let expected = format!("would end stray (pid {stray})");
    assert!(shown.stderr.contains(&expected), "{}", shown.stderr);
    assert!(
        shown.stderr.contains("instance.json.being-written-by-7"),
        "{}",
        shown.stderr
    );
    assert!(
        lives(stray) && state.join("instance.json.being-written-by-7").exists(),
        "only shown"
    );

    let cleaned = project.orch(&["clean"]).finish();
    cleaned.expect_code(0);
    let expected = format!("ended stray (pid {stray})");
    assert!(cleaned.stderr.contains(&expected), "{}", cleaned.stderr);
    assert!(!lives(stray) && !state.join("instance.json.being-written-by-7").exists());
    assert!(state.join("runs").read_dir().unwrap().count() > 0, "logs stay");
    let again = project.orch(&["clean"]).finish();
    again.expect_code(0);
    assert!(again.stderr.contains("nothing is left"), "{}", again.stderr);
    assert!(orch.finish().left.is_empty());
}

#[test]
fn a_state_directory_of_a_newer_orch_is_refused_and_left_as_it_is() {
    let project = Project::new(STRAY);
    let version = project.state_dir().join("version");
    fs::create_dir(project.state_dir()).unwrap();
    fs::write(&version, "2\n").unwrap();
    for arguments in [&["up"][..], &["clean"]] {
        let ended = project.orch(arguments).finish();
        ended.expect_code(3);
        assert!(ended.stderr.contains("newer orch"), "{}", ended.stderr);
    }
    assert_eq!(fs::read_to_string(version).unwrap(), "2\n");
    assert_eq!(
        fs::read_dir(project.state_dir()).unwrap().count(),
        1,
        "nothing was added"
    );
}

#[test]
fn a_service_inherits_no_descriptor_and_no_blocked_signal() {
    let project = Project::new(
        r#"
[redis]
mode = "off"
[services.look]
kind = "oneshot"
command = ["python3", "-c", '''
import os
def is_open(descriptor):
    try:
        os.fstat(descriptor)
        return True
    except OSError:
        return False
open_now = [descriptor for descriptor in range(4096) if is_open(descriptor)]
for name in ("status", "environ"):
    with open(f"/proc/self/{name}") as source, open(name, "w") as target:
        target.write(source.read())
with open("fds", "w") as file:
    file.write(str(open_now))
''']
"#,
    );
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_completed", "look");
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
    assert_eq!(fs::read_to_string(project.file("fds")).unwrap(), "[0, 1, 2]");
    let status = fs::read_to_string(project.file("status")).unwrap();
    let mask = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(mask("SigBlk:"), "0000000000000000", "{status}");
    // Python itself ignores SIGPIPE and SIGXFSZ; no other of the standard signals may be ignored.
    let ignored = u64::from_str_radix(&mask("SigIgn:"), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0x0100_1000, "{status}");
    let environ = fs::read_to_string(project.file("environ")).unwrap();
    assert!(
        environ.contains("ORCH_SERVICE=look") && environ.contains("ORCH_RUN_ID="),
        "{environ}"
    );
}

/// Shows that neither the guard nor a service holds the pipe after SIGKILL of orch: `x=$(orch up)` reads until no
/// process has it open.
#[test]
fn a_pipe_on_its_output_is_closed_with_it() {
    let project = Project::new(&STRAY.replace("600", "60"));
    #[expect(
        clippy::disallowed_methods,
        reason = "the shell whose command substitution is tested"
    )]
    let mut shell = Command::new("sh")
        .args(["-c", "x=$(\"$0\" up); echo done > done", env!("CARGO_BIN_EXE_orch")])
        .current_dir(project.path())
        .spawn()
        .unwrap();
    let journal = || -> Option<Value> {
        let run = fs::read_dir(project.state_dir().join("runs")).ok()?.flatten().next()?;
        let text = fs::read_to_string(run.path().join("journal.jsonl")).ok()?;
        text.contains("service_ready")
            .then(|| serde_json::from_str(text.lines().next()?).ok())?
    };
    let started = Watch::new().until(WAIT_TIMEOUT, || project.watched_directories(), journal);
    let started = started.expect("it starts");
    kill(
        Pid::from_raw(i32::try_from(started["pid"].as_i64().unwrap()).unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let killed = Instant::now();
    shell.wait().unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "the pipe was held open for {:?}",
        killed.elapsed()
    );
    let guard = i32::try_from(started["guard_pid"].as_i64().unwrap()).unwrap();
    assert!(watch::ends(guard, WAIT_TIMEOUT), "the guard does not end");
}

/// Shows that orch as PID 1 of a container reaps the orphans of strangers, and still ends cleanly after Ctrl+C.
#[test]
fn as_pid_1_it_reaps_strangers() {
    let project =
        Project::new("[redis]\nmode = \"off\"\n[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    #[expect(
        clippy::disallowed_methods,
        reason = "the container's runtime, as far as the kernel is concerned"
    )]
    let spawned = Command::new("unshare")
        .args([
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            env!("CARGO_BIN_EXE_orch"),
            "up",
        ])
        .current_dir(project.path())
        .stdout(fs::File::create(project.file("pid1.stdout")).unwrap())
        .stderr(fs::File::create(project.file("pid1.stderr")).unwrap())
        .spawn();
    let Ok(mut container) = spawned else {
        skip("there is no `unshare`");
        return;
    };
    let output = || fs::read_to_string(project.file("pid1.stdout")).unwrap();
    let ready = Watch::with_child(&container).until(
        WAIT_TIMEOUT,
        || vec![project.path().to_owned()],
        || output().contains("web ready").then_some(()),
    );
    match ready {
        Ok(()) => {}
        Err(Unmet::ProcessEnded) => {
            let error = fs::read_to_string(project.file("pid1.stderr")).unwrap();
            assert!(error.contains("unshare"), "{error}{}", output());
            skip(format_args!("pid namespaces are forbidden here: {error}"));
            return;
        }
        Err(Unmet::TimedOut) => panic!("not ready within {WAIT_TIMEOUT:?}: {}", output()),
    }
    // The pid of orch outside the namespace: the only child of `unshare`.
    let children = format!("/proc/{0}/task/{0}/children", container.id());
    let orch: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    // A stranger enters the namespace, forks and ends: the child now belongs to orch, and ends too.
    let enter = format!("nsenter --target {orch} --pid --mount sh -c 'sh -c \"sleep 0.05\" & echo $!'");
    let entered = Command::new("sh").args(["-c", &enter]).output().unwrap();
    assert!(entered.status.success(), "{entered:?}");
    let zombies = || {
        let listing = fs::read_to_string(format!("/proc/{orch}/task/{orch}/children")).unwrap_or_default();
        let pids = listing
            .split_whitespace()
            .filter_map(|pid| pid.parse::<i32>().ok())
            .collect::<Vec<_>>();
        pids.into_iter().filter(|pid| !lives(*pid)).count()
    };
    let children_now = || {
        let listing = fs::read_to_string(format!("/proc/{orch}/task/{orch}/children")).unwrap_or_default();
        listing.split_whitespace().count()
    };
    wait_until("a stranger's zombie is reaped", || {
        children_now() <= 1 && zombies() == 0
    });
    kill(Pid::from_raw(orch), Signal::SIGINT).unwrap();
    let status = container.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{}", output());
}

/// Shows that two ends are seen that are easily missed: by a real-time signal, and under a caller that ignores SIGCHLD.
#[test]
fn no_end_is_missed() {
    let project =
        Project::new("[redis]\nmode = \"off\"\n[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    let script = "trap '' CHLD; exec \"$ORCH\" up";
    let mut orch = project.shell(script);
    let spawned = orch.wait_for_service("service_spawned", "web");
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    // The `kill` of the shell: the type `Signal` has no real-time signals.
    let status = Command::new("sh")
        .args(["-c", &format!("kill -40 {pid}")])
        .status()
        .unwrap();
    assert!(status.success());
    orch.wait_for_service("service_restarting", "web");
    orch.wait_for("the second start", |event| {
        event["event"] == "service_spawned" && event["pid"] != pid
    });
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}
