//! The file of requests: several commands at once, killed ones, early requests, and any contents.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::orch::Orch;
use crate::support::skip::skip;
use crate::{ask, expect, expect_answers, finish, orch, project, started};

const WEB: &str = "[services.web]\ncommand = [\"sleep\", \"600\"]\n";

fn file_of(orch: &Orch<'_>) -> PathBuf {
    orch.run_directory().unwrap().join("requests.jsonl")
}

fn append(file: &PathBuf, text: &str) {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.create(true).append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn line(id: &str, verb: &str, service: &str) -> String {
    format!(
        "{{\"v\":1,\"id\":\"{id}\",\"by\":{{\"pid\":7,\"user\":\"alice\"}},\"verb\":\"{verb}\",\"service\":\"{service}\"}}\n"
    )
}

fn answer_to(orch: &mut Orch<'_>, id: &str) -> Value {
    orch.wait_for(&format!("the answer to {id}"), |event| {
        event["event"] == "request_answered" && event["id"] == id
    })
}

#[test]
fn lines_that_are_not_understood_are_refused_and_the_next_request_works() {
    let project = project(WEB);
    let mut up = started(&project);
    let file = file_of(&up);
    append(&file, "nonsense\n");
    let refused = up.wait_for("a refusal", |event| event["event"] == "request_answered");
    assert_eq!(refused["result"], "refused");
    assert!(
        refused["id"].is_null() && refused["detail"].as_str().unwrap().contains("it is no JSON object"),
        "{refused}"
    );
    append(&file, &line("future", "stop", "web").replace("\"v\":1", "\"v\":2"));
    let answer = answer_to(&mut up, "future");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("version 1 of requests, not 2"),
        "{answer}"
    );
    append(&file, &line("dance", "dance", "web"));
    let answer = answer_to(&mut up, "dance");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("pid 7 of user alice asked with the unknown verb \"dance\""),
        "{answer}"
    );
    append(&file, &line("nobody", "stop", "nobody"));
    assert_eq!(answer_to(&mut up, "nobody")["detail"], "the run has no service nobody");
    append(
        &file,
        "{\"v\":1,\"id\":\"site\",\"by\":{\"pid\":7,\"user\":\"alice\"},\"verb\":\"stop_site\",\"site\":\"books\"}\n",
    );
    assert_eq!(answer_to(&mut up, "site")["detail"], "`orch up` runs no sites");
    // A hostile name reaches neither terminal nor JSON as it is.
    append(&file, &line("escape", "stop", "\\u001b[2J"));
    assert_eq!(answer_to(&mut up, "escape")["result"], "refused");
    // A command was killed in the middle of its line.
    append(&file, "{\"v\":1,\"id\":\"half");
    ask(&project, &["stop", "web"], 0, "web is being stopped");
    // A hundred thousand lines are a few facts.
    append(&file, &"x\n".repeat(100_000));
    ask(&project, &["start", "web"], 0, "web starts ");
    let ended = finish(up);
    let refused = ended
        .events_of("request_answered")
        .into_iter()
        .filter(|answer| answer["id"].is_null());
    assert!((2..200).contains(&refused.count()));
    assert!(!ended.stdout.contains('\u{1b}'), "{}", ended.stdout);
}

#[test]
fn a_file_that_the_run_cannot_trust_is_reported_once_and_not_read() {
    let project = project(WEB);
    let mut up = started(&project);
    let file = file_of(&up);
    append(&file, "");
    OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    append(&file, "");
    let failed = up.wait_for("a report", |event| event["event"] == "run_file_failed");
    assert_eq!(failed["file"], "requests");
    assert!(
        failed["reason"].as_str().unwrap().contains("larger than 16 MiB"),
        "{failed}"
    );
    let ended = orch(&project, &["stop", "web"]);
    expect(&ended, 3, "the file is full: the run reads at most 16 MiB of requests");
    fs::remove_file(&file).unwrap();
    ask(&project, &["stop", "web"], 0, "web is being stopped");
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(&file, Some(nix::unistd::Uid::from_raw(65_534)), None).unwrap();
        append(&file, &line("other", "start", "web"));
        up.wait_for("a report", |event| {
            event["event"] == "run_file_failed" && event["reason"].as_str().unwrap().contains("belongs to user 65534")
        });
        expect(&orch(&project, &["start", "web"]), 3, "belongs to user 65534");
    } else {
        skip("only root can make another user's files");
    }
    let ended = finish(up);
    assert!(
        ended.events_of("run_file_failed").len() <= 2,
        "{:#?}",
        ended.events_of("run_file_failed")
    );
    assert!(
        !ended.events.iter().any(|event| event["id"] == "other"),
        "its line was not read"
    );
}

#[test]
fn an_early_request_and_a_late_one_are_answered() {
    let project = project(WEB);
    let mut up = project.orch(&["up"]);
    // The directory exists before the run watches it.
    up.wait_until("the directory of the run", || up.run_directory().is_some());
    append(&file_of(&up), &line("early", "stop", "web"));
    let answer = answer_to(&mut up, "early");
    let early = [
        "web was not running and stays down",
        "web is being stopped",
        "the run has not begun to start its services yet",
    ];
    assert!(early.contains(&answer["detail"].as_str().unwrap()), "{answer}");
    up.signal(Signal::SIGTERM);
    up.wait_for("the stop", |event| event["event"] == "stop_started");
    append(&file_of(&up), &line("late", "start", "web"));
    let ended = up.finish();
    ended.expect_code(143);
    // The request may have come after the last look of the run at its file.
    let late = ended
        .events
        .iter()
        .find(|event| event["event"] == "request_answered" && event["id"] == "late");
    assert!(
        late.is_none_or(|late| late["detail"] == "the run is being stopped"),
        "{late:?}"
    );
    expect_answers(&ended);
}

#[test]
fn many_commands_at_once_are_all_answered() {
    let project = project(WEB);
    let up = started(&project);
    thread::scope(|scope| {
        for verb in ["stop", "start", "restart", "stop", "start", "restart"] {
            let project = &project;
            scope.spawn(move || {
                let ended = orch(project, &[verb, "web", "--no-wait"]);
                assert!(matches!(ended.code, Some(0 | 1)), "{ended:?}");
            });
        }
    });
    // The state after all of them is one from which a start leads up.
    let ended = orch(&project, &["start", "web"]);
    assert!(matches!(ended.code, Some(0 | 1)), "{ended:?}");
    let ended = finish(up);
    assert_eq!(ended.events_of("request_received").len(), 7);
}

#[test]
fn a_command_that_is_killed_leaves_its_request_and_a_run_that_dies_is_noticed() {
    let project = project(
        "[services.slow]\ngrace = \"10m\"\nreadiness = { log = \"up\" }\n\
         command = [\"sh\", \"-c\", \"trap '' TERM; echo up; while [ ! -e go ]; do sleep 0.1; done\"]\n",
    );
    let mut up = started(&project);
    let command = project.orch_bare(&["stop", "slow"]);
    up.wait_for("the answer", |event| event["event"] == "request_answered");
    command.signal(Signal::SIGKILL);
    drop(command.finish());
    ask(&project, &["stop", "slow"], 1, "slow is already being stopped");
    let restart = project.orch_bare(&["restart", "slow"]);
    up.wait_for("the answer", |event| {
        event["event"] == "request_answered"
            && event["detail"] == "slow starts as soon as its last processes have ended"
    });
    up.signal(Signal::SIGKILL);
    fs::write(project.file("go"), "").unwrap();
    let ended = restart.finish();
    expect(&ended, 3, " has ended");
    drop(up.finish());
}
