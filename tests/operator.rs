//! A night with a failing site, handled from another terminal: the failing site, the reason, the log, another try, no
//! further sites, the end. Each step is one command, and no file is read.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Project};

const CONFIG: [&str; 2] = ["--config", "bad-night.toml"];

/// Runs a command of orch while the night runs, or after it.
fn orch(project: &Project, arguments: &[&str]) -> Ended {
    project.orch_bare(&[arguments, &CONFIG].concat()).finish()
}

#[track_caller]
fn expect(ended: &Ended, code: i32, wanted: &[&str]) {
    ended.expect_code(code);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    for text in wanted {
        assert!(all.contains(text), "`{text}` is not in:\n{all}");
    }
}

#[test]
fn a_failing_night_is_understood_and_ended_from_another_terminal() {
    let project = bookshop::project();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookshop/bad-night.toml");
    fs::copy(example, project.file("bad-night.toml")).expect("could not copy the configuration");
    // As cron starts it.
    let mut night = project.orch_bare(&[&["run", "-q"], &CONFIG[..]].concat());
    let failed = |event: &Value| event["event"] == "site_finished" && event["site"] == "tools";
    night.wait_for("the end of tools", failed);

    // The failing site, and the time since its failure.
    expect(&orch(&project, &["status"]), 1, &["tools", "FAILED", "celery", "ready"]);
    expect(&orch(&project, &["status", "tools"]), 1, &["FAILED"]);
    // The reason: exception and URL.
    expect(
        &orch(&project, &["errors", "tools"]),
        0,
        &["ChunkError: none of ", "http://127.0.0.1:", "404 Not Found"],
    );
    // The log of its worker.
    expect(
        &orch(&project, &["logs", "-n", "20", "site:tools"]),
        0,
        &["404 Not Found"],
    );
    // Nothing else begins while a person looks; then the failed site is tried again, and fails again.
    expect(&orch(&project, &["pause"]), 0, &["no further site begins"]);
    expect(&orch(&project, &["status"]), 1, &["paused"]);
    expect(&orch(&project, &["resume"]), 0, &["sites begin again"]);
    expect(&orch(&project, &["retry", "site", "tools", "--no-wait"]), 0, &["tools"]);
    let begun_again = |event: &Value| event["event"] == "site_dispatched" && event["site"] == "tools";
    night.wait_for("another try of tools", begun_again);
    night.wait_for("the second end of tools", failed);
    // The running sites may end, then the night ends.
    expect(&orch(&project, &["drain"]), 0, &["no further site begins"]);
    let ended = night.finish();
    ended.expect_code(1);
    let asked = ended.events_of("request_received");
    assert_eq!(asked.len(), 4, "each request is an event: {asked:#?}");
    // The next morning: the same command, without the run.
    expect(
        &orch(&project, &["errors"]),
        0,
        &["tools FAILED", "ChunkError: none of "],
    );
    expect(&orch(&project, &["status"]), 3, &["nothing runs"]);
}
