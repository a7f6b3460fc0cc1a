//! `orch logs`: the logs of services and sites, read from another process.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::bookshop;
use support::orch::{Ended, Orch, Project, wait_until};

fn project(services: &str) -> Project {
    Project::new(&format!("[redis]\nmode = \"off\"\n{services}"))
}

fn ask(project: &Project, arguments: &[&str]) -> Ended {
    project.orch_bare(arguments).finish()
}

#[track_caller]
fn printed(project: &Project, arguments: &[&str]) -> Vec<String> {
    let ended = ask(project, arguments);
    ended.expect_code(0);
    ended.stdout.lines().map(str::to_owned).collect()
}

#[track_caller]
fn refused(project: &Project, arguments: &[&str], text: &str) {
    let ended = ask(project, arguments);
    ended.expect_code(2);
    assert!(ended.stderr.contains(text), "`{text}` is not in {}", ended.stderr);
}

fn stop(orch: Orch<'_>) -> Ended {
    orch.signal(Signal::SIGTERM);
    orch.finish()
}

/// Creates the directory of a run that is over, and returns the directory.
fn write_run(project: &Project, logs: &[(&str, &str)]) -> PathBuf {
    let directory = project.state_dir().join("runs/past");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("journal.jsonl"), "").unwrap();
    for (name, text) in logs {
        fs::write(directory.join(format!("{name}.log")), text).unwrap();
    }
    directory
}

#[test]
fn several_logs_are_merged_by_their_times_and_chosen_by_lines_time_and_pattern() {
    let project = project("");
    let ended = ask(&project, &["logs"]);
    ended.expect_code(3);
    assert!(ended.stderr.contains("there is no run in "), "{}", ended.stderr);
    let now = jiff::Timestamp::now();
    let ago = |seconds: i64| {
        (now - jiff::SignedDuration::from_secs(seconds))
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string()
    };
    let web = format!(
        "{} begin\n{} broken\nTraceback\n  ValueError: http://user:hidden-password@host/\n{} end\x1b[2J\n",
        ago(9000),
        ago(60),
        ago(20)
    );
    let base = format!("{} one\n{} two\n", ago(100), ago(40));
    write_run(
        &project,
        &[
            ("web", &web),
            ("base", &base),
            ("guard", "of the guard\n"),
            ("orch", "of orch\n"),
        ],
    );
    let without_times = |lines: Vec<String>| -> Vec<String> {
        let text = |line: String| {
            line.split_once('Z').map_or(line.clone(), |(before, after)| {
                format!("{}{after}", &before[..before.len() - 19])
            })
        };
        lines.into_iter().map(text).collect()
    };
    assert_eq!(
        without_times(printed(&project, &["logs"])),
        [
            "web  |  begin",
            "base |  one",
            "web  |  broken",
            "web  | Traceback",
            "web  |   ValueError: http://user:**@host/",
            "base |  two",
            "web  |  end\u{fffd}[2J",
        ]
    );
    assert_eq!(without_times(printed(&project, &["logs", "base", "-n", "1"])), [" two"]);
    assert_eq!(
        without_times(printed(&project, &["logs", "--since", "2m", "web"])).len(),
        4
    );
    assert_eq!(
        without_times(printed(&project, &["logs", "--grep", "(?i)valueerror"])),
        ["web  |   ValueError: http://user:**@host/"]
    );
    assert_eq!(printed(&project, &["logs", "guard"]), ["of the guard"]);
    assert_eq!(printed(&project, &["logs", "-n", "0"]).len(), 0);
    assert_eq!(printed(&project, &["logs", "-n", "all", "--run", "pa"]).len(), 7);
    refused(
        &project,
        &["logs", "wep"],
        "the run has no log `wep`\n  hint:  did you mean `web`? its logs: ",
    );
    refused(&project, &["logs", "site:books"], "has no site `books`");
    refused(
        &project,
        &["logs", "--grep", "("],
        "`--grep (` is no regular expression\n  cause: ",
    );
    refused(&project, &["logs", "-n", "some"], "neither a number nor `all`");
    // The reader goes after one line; the command ends without a word.
    let long = "a line of a long log\n".repeat(100_000);
    write_run(&project, &[("web", &long)]);
    let piped = project.shell("(\"$ORCH\" logs -n all web 2> said; echo $? > code) | head -n 1 > line");
    piped.finish().expect_code(0);
    let read = |name: &str| fs::read_to_string(project.file(name)).unwrap();
    assert_eq!((read("said").as_str(), read("code").as_str()), ("", "0\n"));
    assert_eq!(read("line"), "a line of a long log\n");
}

#[test]
fn a_log_of_ten_gigabytes_is_read_from_its_end() {
    let project = project("");
    let directory = write_run(&project, &[]);
    let mut log = File::create(directory.join("web.log")).unwrap();
    log.seek(SeekFrom::Start(10 << 30)).unwrap();
    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    log.write_all(lines.as_bytes()).unwrap();
    let begun = Instant::now();
    let last = printed(&project, &["logs", "-n", "3"]);
    let elapsed = begun.elapsed();
    assert_eq!(last, ["line 997", "line 998", "line 999"]);
    assert_eq!(printed(&project, &["logs", "--grep", "line 9.9"]).len(), 10);
    assert_eq!(
        printed(&project, &["logs", "--since", "1h"]).len(),
        50,
        "the lines have no times"
    );
    // Most of this time is the start of the processes on a busy machine.
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
}

/// Service that prints each line of the file `lines` as it is written.
const ECHO: &str = r#"
[services.echo]
kind = "daemon"
command = ["sh", "-c", "touch lines begun; exec tail -n +1 -f lines"]
readiness = { file = "begun" }
"#;

fn append(path: PathBuf, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_log_is_followed_through_truncation_and_rotation_to_the_end_of_the_run() {
    let project = project(ECHO);
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "echo");
    let log = up.run_directory().unwrap().join("echo.log");
    append(project.file("lines"), "one\n");
    let follow = project.shell("exec \"$ORCH\" logs -f > followed");
    let wait_for = |line: &str| {
        wait_until(line, || {
            fs::read_to_string(project.file("followed"))
                .unwrap_or_default()
                .lines()
                .any(|found| found == line)
        });
    };
    wait_for("one");
    append(project.file("lines"), "two\n");
    wait_for("two");
    OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    append(project.file("lines"), "three\n");
    wait_for("three");
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    fs::write(&log, "four\n").unwrap();
    wait_for("four");
    append(log, "fi");
    let interrupted = project.shell("exec \"$ORCH\" logs -f -n 0");
    stop(up).expect_code(143);
    let ended = follow.finish();
    ended.expect_code(0);
    interrupted.finish().expect_code(0);
    assert_eq!(
        fs::read_to_string(project.file("followed")).unwrap(),
        "one\ntwo\nthree\nfour\nfi\n"
    );
    for text in ["was truncated", "was replaced by a new file"] {
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    }
}

#[test]
fn ctrl_c_ends_a_follower_and_a_new_log_is_followed_from_its_start() {
    let project = project(ECHO);
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "echo");
    let directory = up.run_directory().unwrap();
    append(project.file("lines"), "one\n");
    let follow = project.shell("exec \"$ORCH\" logs -f > followed");
    let followed = || fs::read_to_string(project.file("followed")).unwrap_or_default();
    wait_until("the first line", || followed() == "one\n");
    fs::write(directory.join("celery@books.log"), "of the site's worker\n").unwrap();
    wait_until("the new log", || {
        followed().contains("celery@books | of the site's worker\n")
    });
    append(project.file("lines"), "two\n");
    wait_until("a prefix", || followed().contains("echo         | two\n"));
    follow.signal(Signal::SIGINT);
    follow.finish().expect_code(0);
    stop(up).expect_code(143);
}

#[test]
fn the_lines_of_a_site_are_those_of_its_tasks() {
    let site = |name: &str| {
        format!(
            "[sites.{name}]\ndispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", job_id = \"{{job_id}}\", \
             chunks = 2, seconds = 0.1, ledger = \"ledger.{name}\" }} }}\n"
        )
    };
    let configuration = format!(
        "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 2\n{}{}",
        site("books"),
        site("toys")
    );
    let project = bookshop::project_with("chaos_app", &configuration);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let task_of = |site: &str| {
        let dispatched = ended.events_of("site_dispatched");
        let of_site = dispatched.into_iter().find(|event| event["site"] == site).unwrap();
        of_site["task_id"].as_str().unwrap().to_owned()
    };
    let lines = printed(&project, &["logs", "site:books", "-n", "all"]);
    assert!(lines.iter().any(|line| line.contains(&task_of("books"))), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(&task_of("toys"))), "{lines:#?}");
    refused(&project, &["logs", "site:boks"], "did you mean `site:books`?");
}
