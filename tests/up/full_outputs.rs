//! Outputs and files that take no more: a pipe that nobody reads, a limit of the size of files.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::project;
use crate::support::orch::{lives, wait_until};

/// Service that dies at once and is restarted, for ever.
const RESTLESS: &str = r#"
[services.web]
kind = "daemon"
command = ["sh", "-c", "sleep 0.01; exit 1"]
restart = { limit = 100000, backoff = "5ms", backoff_max = "5ms" }
"#;

#[test]
fn nobody_reads_the_log_on_standard_error_and_the_supervision_goes_on() {
    let project = project(RESTLESS);
    // A full pipe that a process holds open and never reads.
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
fn a_start_whose_record_takes_no_more_is_a_failed_start_and_no_service_is_ready_that_was_not_executed() {
    let project = project(
        "[services.web]\ncommand = [\"sh\", \"-c\", \"printf . >> begun; exit 1\"]\n\
         restart = { limit = 100000, backoff = \"5ms\", backoff_max = \"5ms\" }\n",
    );
    // The limit applies to orch and its services, not to the process that writes the output of orch.
    let script = "(ulimit -f 4; exec \"$ORCH\" up --output json) & echo $! > pid; wait $!";
    let orch = project.shell(&format!("{{ {script}; }} | cat > printed"));
    let printed = || fs::read_to_string(project.file("printed")).unwrap_or_default();
    wait_until("a start that is refused", || printed().contains("File too large"));
    let pid: i32 = fs::read_to_string(project.file("pid")).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    let ended = orch.finish();
    assert!(ended.left.is_empty(), "left behind: {:?}", ended.left);
    let ready = printed().matches("\"event\":\"service_ready\"").count();
    let begun = fs::metadata(project.file("begun")).unwrap().len();
    assert!(ready > 0 && ready as u64 <= begun, "{ready} ready, {begun} begun");
    assert!(!printed().contains("SIGXFSZ"), "{}", printed());
}
