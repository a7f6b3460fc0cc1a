//! Requests of other commands to an active run: `orch stop`, `start` and `restart` of services in every state, several
//! commands at once, and a file of requests with any contents.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../support/mod.rs"]
mod support;

mod file;
mod services;
mod sites;
mod storm;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::orch::{Ended, Orch, Project};

/// Time in which a command must return that does not wait for an effect. The run answers within milliseconds; the
/// machine may be busy with other tests.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between receipt and answer in the journal.
const ANSWER_SECONDS: f64 = 1.0;

fn project(services: &str) -> Project {
    Project::new(&format!("[redis]\nmode = \"off\"\n{services}"))
}

/// Starts `orch up` and waits until all of its services are ready.
fn started(project: &Project) -> Orch<'_> {
    let up = project.orch(&["up"]);
    let instance = project.file(".orch/instance.json");
    up.wait_until("the instance", || instance.exists());
    up
}

/// Runs a command of orch in the project to its end.
fn orch(project: &Project, arguments: &[&str]) -> Ended {
    let begun = Instant::now();
    let ended = project.orch_bare(arguments).finish();
    assert!(
        begun.elapsed() < COMMAND_TIMEOUT,
        "{arguments:?} took {:?}",
        begun.elapsed()
    );
    ended
}

/// Sends a request without waiting for the effect, and checks exit code and text.
#[track_caller]
fn ask(project: &Project, arguments: &[&str], code: i32, text: &str) {
    let ended = orch(project, &[arguments, &["--no-wait"]].concat());
    expect(&ended, code, text);
}

#[track_caller]
fn expect(ended: &Ended, code: i32, text: &str) {
    ended.expect_code(code);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    assert!(all.contains(text), "`{text}` is not in {all}");
}

/// Ends the run, and checks that every request has exactly one answer, in time.
#[track_caller]
fn finish(orch: Orch<'_>) -> Ended {
    orch.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    expect_answers(&ended);
    ended
}

#[track_caller]
fn expect_answers(ended: &Ended) {
    let mut answers: HashMap<&str, Vec<&Value>> = HashMap::new();
    for answer in ended.events_of("request_answered") {
        answers
            .entry(answer["id"].as_str().unwrap_or_default())
            .or_default()
            .push(answer);
    }
    for received in ended.events_of("request_received") {
        let of_request = answers
            .get(received["id"].as_str().unwrap())
            .map_or(&[][..], Vec::as_slice);
        assert_eq!(of_request.len(), 1, "{received} has the answers {of_request:?}");
        let elapsed = of_request[0]["elapsed"].as_f64().unwrap() - received["elapsed"].as_f64().unwrap();
        assert!(elapsed < ANSWER_SECONDS, "{received} was answered after {elapsed} s");
        assert!(
            received["by"]["pid"].is_i64() && received["by"]["user"].is_string(),
            "{received}"
        );
    }
}
