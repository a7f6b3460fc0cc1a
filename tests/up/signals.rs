//! Signals to orch: from the terminal, from wrappers, from its own services.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::project;

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
    // An exec keeps the pid and the ignored signals.
    let mut orch = project.shell("trap '' HUP; exec \"$ORCH\" up");
    orch.wait_for_service("service_ready", "web");
    orch.signal(Signal::SIGHUP);
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
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

/// Script that starts orch with all signals blocked, as a runtime does that masks signals in its threads.
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
            let sender = &event["problem"]["signal_ignored"]["sender"];
            event["event"] == "guard_problem_found" && sender.as_u64().is_some_and(|pid| pid > 0)
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
