//! `orch up` with commands only: the process supervisor, started, broken and stopped from outside.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::orch::{Project, lives, wait_until};

const BASE: &str = "[redis]\nmode = \"off\"\n";

fn project(services: &str) -> Project {
    Project::new(&format!("{BASE}{services}"))
}

/// A daemon that sleeps, with a grandchild that has daemonised itself.
const STUBBORN: &str = r#"
[services.stubborn]
kind = "daemon"
grace = "300ms"
command = ["python3", "-c", '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        print("daemonised", flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
print("up", flush=True)
time.sleep(600)
''']
readiness = { log = "up" }
"#;

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
fn sigterm_and_sighup_have_their_own_codes() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
        let mut orch = project.orch(&["up"]);
        orch.wait_for_service("service_ready", "web");
        orch.signal(signal);
        orch.finish().expect_code(code);
    }
}

#[test]
fn under_nohup_a_hangup_is_nothing() {
    let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    // An exec keeps the pid, and what is ignored.
    let mut orch = project.shell("trap '' HUP; exec \"$ORCH\" up");
    orch.wait_for_service("service_ready", "web");
    orch.signal(Signal::SIGHUP);
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// A service whose program the test can take away.
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
    // From here on all are up, and one that is given up does not end the others.
    wait_until("instance.json", || project.state_dir().join("instance.json").exists());
    fs::remove_file(&program).unwrap();
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let failed = orch.wait_for_service("service_failed", "web");
    assert!(
        failed["reason"].as_str().unwrap().contains("tried again 2 times"),
        "{failed}"
    );
    orch.wait_for("that the others are kept up", |event| {
        event["message"].as_str().is_some_and(|text| text.contains("kept up"))
    });
    orch.signal(Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert!(ended.stdout.contains("does not exist"), "{}", ended.stdout);
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
    let hurried = std::time::Instant::now();
    orch.hurry();
    orch.finish().expect_code(130);
    assert!(hurried.elapsed() < Duration::from_secs(2), "{:?}", hurried.elapsed());
}

#[test]
fn a_ctrl_c_that_a_wrapper_relays_takes_no_grace_away() {
    let project = project(
        r#"
[services.web]
kind = "daemon"
grace = "30s"
command = ["sh", "-c", "trap 'sleep 0.7; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"]
readiness = { log = "up" }
"#,
    );
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    for _ in 0..3 {
        orch.signal(Signal::SIGINT);
    }
    let run = orch.run_directory().unwrap();
    let ended = orch.finish();
    ended.expect_code(130);
    assert!(ended.events_of("stop_hurried").is_empty(), "{:#?}", ended.events);
    assert!(fs::read_to_string(run.join("web.log")).unwrap().contains("saved"));
}

/// Starts orch with all signals blocked, as a runtime does that masks signals in its threads.
const BLOCKING: &str = r#"exec python3 -c 'import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
os.execv(os.environ["ORCH"], ["orch", "up"])'"#;

#[test]
fn signals_that_the_caller_has_blocked_are_heard_by_orch_and_by_services() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let project = project(
            r#"
[services.web]
kind = "daemon"
command = ["sh", "-c", "grep SigBlk /proc/self/status; exec sleep 600"]
readiness = { log = "SigBlk" }
"#,
        );
        let mut orch = project.shell(BLOCKING);
        orch.wait_for_service("service_ready", "web");
        let run = orch.run_directory().unwrap();
        orch.signal(signal);
        orch.finish().expect_code(code);
        let log = fs::read_to_string(run.join("web.log")).unwrap();
        assert_eq!(log.trim(), "SigBlk:\t0000000000000000");
    }
}

#[test]
fn a_real_time_signal_stops_a_service_by_number_and_by_name() {
    for (written, number) in [("40", 40), ("\"SIGRTMIN+3\"", 37), ("\"rtmax-1\"", 63)] {
        let project = project(
            &r#"
[services.web]
kind = "daemon"
stop_signal = WRITTEN
grace = "30s"
readiness = { log = "up" }
command = ["python3", "-c", '''
import os, signal, time
signal.signal(NUMBER, lambda number, frame: (print("got", number, flush=True), os._exit(0)))
print("up", flush=True)
while True:
    time.sleep(1)
''']
"#
            .replace("WRITTEN", written)
            .replace("NUMBER", &number.to_string()),
        );
        let mut orch = project.orch(&["up"]);
        orch.wait_for_service("service_ready", "web");
        let run = orch.run_directory().unwrap();
        orch.signal(Signal::SIGTERM);
        orch.finish().expect_code(143);
        let log = fs::read_to_string(run.join("web.log")).unwrap();
        assert!(log.contains(&format!("got {number}")), "{written}: {log}");
    }
}

#[test]
fn a_signal_that_orch_has_no_use_for_ends_it_with_a_word_and_leaves_nothing() {
    for signal in [Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGXCPU] {
        let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
        let mut orch = project.shell("ulimit -c 0; exec \"$ORCH\" up");
        orch.wait_for_service("service_ready", "web");
        orch.signal(signal);
        let ended = orch.finish();
        assert_eq!(ended.signal, Some(signal as i32), "{}", ended.stderr);
        assert!(ended.left.is_empty(), "{:?}", ended.left);
        assert!(ended.stderr.contains(signal.as_str()), "{}", ended.stderr);
    }
}

/// A service that dies at once and comes back, for ever.
const RESTLESS: &str = r#"
[services.web]
kind = "daemon"
command = ["sh", "-c", "sleep 0.01; exit 1"]
restart = { limit = 100000, backoff = "5ms", backoff_max = "5ms" }
"#;

#[test]
fn nobody_reads_the_log_on_standard_error_and_the_supervision_goes_on() {
    let project = project(RESTLESS);
    // A full pipe that somebody holds open and never reads.
    let mut orch = project.shell(
        r#"exec python3 -c 'import os
reader, writer = os.pipe()
os.set_inheritable(reader, True)
os.set_blocking(writer, False)
try:
    while True: os.write(writer, bytes(4096))
except BlockingIOError: pass
os.set_blocking(writer, True)
os.dup2(writer, 2)
os.execve(os.environ["ORCH"], ["orch", "up", "-vv"], dict(os.environ, ORCH_LOG="trace"))'"#,
    );
    orch.wait_for("twenty restarts", |event| {
        event["event"] == "service_restarting" && event["attempt"].as_u64() >= Some(20)
    });
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

#[test]
fn a_limit_of_the_size_of_files_ends_neither_orch_nor_its_guard() {
    let project = project(RESTLESS);
    let mut orch = project.shell("ulimit -f 8; exec \"$ORCH\" up");
    orch.wait_for_service("service_restarting", "web");
    let journal = orch.run_directory().unwrap().join("journal.jsonl");
    wait_until("the journal that takes no more", || {
        fs::metadata(&journal).unwrap().len() == 4096
    });
    assert!(lives(orch.pid), "{}", orch.stderr());
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

#[test]
fn a_service_that_asks_its_parent_to_end_is_named_and_what_is_no_such_request_does_nothing() {
    let rude = |signal: &str| {
        format!(
            "[services.base]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n\
             [services.rude]\nkind = \"daemon\"\nafter = [\"base\"]\n\
             command = [\"sh\", \"-c\", \"kill -{signal} $PPID; exec sleep 600\"]\n"
        )
    };
    for signal in ["TERM", "INT", "HUP"] {
        let project = project(&rude(signal));
        let ended = project.orch(&["up"]).finish();
        ended.expect_code(3);
        let end = ended.events_of("run_finished")[0]["error"].as_str().unwrap().to_owned();
        assert!(
            end.contains(&format!("asked to end, by SIG{signal} from process")),
            "{end}"
        );
        assert!(ended.events_of("service_restarting").is_empty(), "{:#?}", ended.events);
    }
    for signal in ["USR1", "QUIT", "TSTP", "40"] {
        let project = project(&rude(signal));
        let mut orch = project.orch(&["up"]);
        orch.wait_for("a word about the signal", |event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.contains("took no notice"))
        });
        orch.signal(Signal::SIGTERM);
        orch.finish().expect_code(143);
    }
}

#[test]
fn killall_ends_orch_and_its_guard_as_one_request() {
    let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "web");
    let started = orch.wait_for("the start", |event| event["event"] == "run_started");
    let guard = i32::try_from(started["guard_pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(guard), Signal::SIGTERM).unwrap();
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

#[test]
fn a_killed_command_is_started_again_at_once() {
    let project = project("[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"600\"]\n");
    let mut orch = project.orch(&["up"]);
    let spawned = orch.wait_for_service("service_spawned", "web");
    orch.wait_for_service("service_ready", "web");
    let pid = i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
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

/// Twenty services that do not want to end: trees that ignore what asks them, some that have left their session, some
/// that fork when they are asked, five times forty processes at once, and some that are another process every few
/// milliseconds.
fn twenty_stubborn() -> String {
    let deaf = "trap '' TERM HUP INT; setsid -f sh -c 'sleep 600; sleep 600'; while :; do sleep 600; done";
    let forking =
        "trap 'for n in 1 2 3 4 5 6 7 8 9; do setsid -f sleep 600; done' TERM; while :; do sleep 600 & wait; done";
    let many = "trap '' TERM; n=0; while [ $n -lt 40 ]; do sleep 600 & n=$((n+1)); done; touch many; wait";
    // At most 2,000 generations; each leaves its session and goes on as its own child.
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
    let mut orch = project.orch_with(&["up"], &[], std::time::Duration::from_secs(1));
    for number in 0..20 {
        orch.wait_for_service("service_ready", &format!("s{number}"));
    }
    orch.wait_for("the many", |_| project.file("many").exists());
    let asked = std::time::Instant::now();
    orch.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = orch.finish();
    let took = asked.elapsed();
    ended.expect_code(143);
    let bound = ended.events_of("stop_started")[0]["bound_ms"].as_u64().unwrap();
    assert!(
        took <= std::time::Duration::from_millis(bound + 1000),
        "{took:?}, and the bound is {bound} ms"
    );
    println!("20 stubborn services: stopped in {took:?}, bound {bound} ms");
}

/// Of its own session, without a parent, without a variable: the log that it still writes to tells whose it is.
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

/// Somebody else's answer on the port of a service says nothing about the service: neither by tcp nor by http.
#[test]
fn who_listened_on_the_port_before_the_start_is_named_and_makes_nothing_ready() {
    for probe in ["tcp = \"127.0.0.1:PORT\"", "http = \"http://localhost:PORT/\""] {
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stranger.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for connection in stranger.incoming() {
                let Ok(mut connection) = connection else { return };
                std::io::Write::write_all(&mut connection, b"HTTP/1.0 200 OK\r\n\r\n").ok();
            }
        });
        let probe = probe.replace("PORT", &port.to_string());
        let services = format!(
            "[services.web]\ncommand = [\"sleep\", \"60\"]\nstart_timeout = \"1s\"\nreadiness = {{ {probe} }}\n"
        );
        let project = project(&services);
        let ended = project.orch(&["up"]).finish();
        ended.expect_code(3);
        let pid = std::process::id();
        for part in [
            &*format!("{port} is held by"),
            &*format!("pid {pid} of user"),
            "listened there before this start",
            "give the service another port",
        ] {
            assert!(ended.stdout.contains(part), "{probe}: {part}\n{}", ended.stdout);
        }
    }
}

/// A service that waits until its port is free is ready once it has the port itself.
#[test]
fn a_service_is_ready_once_it_has_the_port_itself() {
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let waits = "import socket, time\nwhile True:\n try:\n  s = socket.create_server(('127.0.0.1', PORT))\n  break\n except \
                 OSError:\n  print('held', flush=True)\n  time.sleep(0.02)\nwhile True: s.accept()\n";
    let services = format!(
        "[services.web]\ncommand = [\"python3\", \"web.py\"]\nstart_timeout = \"60s\"\nreadiness = {{ tcp = \
         \"127.0.0.1:{port}\" }}\n"
    );
    let project = project(&services);
    fs::write(project.file("web.py"), waits.replace("PORT", &port.to_string())).unwrap();
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_spawned", "web");
    let log = orch.run_directory().unwrap().join("web.log");
    wait_until("it has found its port held", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("held"))
    });
    drop(stranger);
    orch.wait_for_service("service_ready", "web");
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// Python holds back what it prints to a file, so that a probe of the log waits in vain and a crash leaves nothing.
/// The caller of the tests may have set the variable; an empty one is as none.
#[test]
fn pythons_buffered_output_is_named_where_the_log_is_empty() {
    let service = |environment: &str, script: &str| {
        format!(
            "[services.web]\nenv = {{ PYTHONUNBUFFERED = \"\" }}\ncommand = [\"sh\", \"-c\", \"{environment} python3 -c '{script}'; true\"]\nstart_timeout = \
             \"2s\"\nreadiness = {{ log = \"ready\" }}\n"
        )
    };
    let script = "import time; print(1); time.sleep(60)";
    let ended = project(&service("", script)).orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(ended.stdout.contains("PYTHONUNBUFFERED"), "{}", ended.stdout);
    let ended = project(&service("PYTHONUNBUFFERED=1", script)).orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(!ended.stdout.contains("PYTHONUNBUFFERED"), "{}", ended.stdout);

    let crash = "import os, time; print(1); time.sleep(0.3); os.kill(os.getpid(), 9)";
    for (option, is_told) in [("", true), ("\"-u\", ", false)] {
        let services = format!(
            "[services.web]\nenv = {{ PYTHONUNBUFFERED = \"\" }}\ncommand = [\"python3\", {option}\"-c\", \"{crash}\"]\nrestart = {{ limit = 1, backoff = \"1ms\" }}\n"
        );
        let ended = project(&services).orch(&["up"]).finish();
        ended.expect_code(3);
        let notices = ended.events_of("noticed");
        let told = notices
            .iter()
            .any(|event| event["message"].to_string().contains("PYTHONUNBUFFERED"));
        assert_eq!(told, is_told, "{notices:?}\n{}", ended.stdout);
    }
}
