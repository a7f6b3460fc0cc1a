//! Texts of tasks, services and configurations reach a terminal as text, never as a control sequence.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use serde_json::Value;

mod support;
use support::celery::{Worker, WorkerOptions, python};
use support::orch::{Project, wait_until};
use support::redis::RedisServer;

/// Text, equal to that in `tests/fixtures/apps/hostile_app.py`.
const HOSTILE: &str = "\x1b]0;pwned\x07\x1b[2J\u{9b}2J\u{202e}kcab\u{200b}hidden\u{2066}\x7f\rover";

/// Returns whether a terminal obeys or hides a character, by the meaning of the character and not by orch's own list.
fn is_hostile(character: char) -> bool {
    (character.is_control() && character != '\n')
        || "\u{ad}\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}"
            .contains(character)
        || "\u{2028}\u{2029}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}".contains(character)
}

/// Asserts that the bytes are text without a hostile character.
#[track_caller]
fn assert_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = text.find(is_hostile);
    let around = found.map(|at| text[at..].chars().take(40).collect::<String>());
    assert_eq!(around, None, "{what}: {text:?}");
}

/// Asserts the same as [`assert_harmless`] of output to a terminal, in which orch's own colours are allowed.
#[track_caller]
fn assert_harmless_in_colour(what: &str, bytes: &[u8]) {
    let mut text = String::from_utf8(bytes.to_vec()).unwrap().replace("\r\n", "\n");
    while let Some(at) = text.find("\x1b[") {
        let parameters = text[at + 2..].trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ';');
        let end = text.len() - parameters.len();
        assert!(parameters.starts_with('m'), "{what}: {:?}", &text[at..]);
        text.replace_range(at..=end, "");
    }
    assert_harmless(what, text.as_bytes());
}

fn celery(redis: &RedisServer, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.arg("celery").args(arguments);
    command.envs([
        ("CELERY_BROKER_URL", redis.url(0)),
        ("CELERY_RESULT_BACKEND", redis.url(1)),
    ]);
    command.stdin(Stdio::null());
    command
}

#[track_caller]
fn run(redis: &RedisServer, arguments: &[&str]) -> Output {
    let output = celery(redis, arguments).output().unwrap();
    assert_harmless(&format!("{arguments:?}"), &output.stdout);
    assert_harmless(&format!("{arguments:?}"), &output.stderr);
    output
}

/// Starts a command that shows events and ends by itself after some of them.
#[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
fn tail(redis: &RedisServer, arguments: &[&str]) -> Child {
    let mut command = celery(redis, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Returns whether a value or a key of the JSON is the whole hostile text.
fn contains_hostile_text(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(HOSTILE),
        Value::Array(items) => items.iter().any(contains_hostile_text),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains(HOSTILE) || contains_hostile_text(value)),
        _ => false,
    }
}

#[test]
fn what_tasks_say_is_shown_and_never_obeyed() {
    let redis = RedisServer::start();
    let _worker = Worker::start(
        &redis,
        WorkerOptions {
            app: "hostile_app",
            concurrency: 1,
            ..WorkerOptions::default()
        },
    );
    let tails = [
        tail(
            &redis,
            &["events", "--type", "task-failed", "--limit", "1", "--for", "60s"],
        ),
        tail(
            &redis,
            &[
                "events",
                "--type",
                "task-failed",
                "--limit",
                "1",
                "--for",
                "60s",
                "--json",
            ],
        ),
    ];
    let subscribed = || {
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut redis.connection(0))
            .unwrap();
        // The third subscription is that of the worker.
        clients.lines().filter(|client| !client.contains(" psub=0 ")).count() >= 3
    };
    wait_until("both tails are subscribed", subscribed);
    // orch itself refuses to publish such names.
    let publish = |kind: &str| {
        let arguments = format!("(hostile_app.HOSTILE,), task_id='{kind}-' + hostile_app.HOSTILE");
        python(
            &redis,
            "hostile_app",
            &format!("hostile_app.{kind}.apply_async({arguments})"),
        );
        format!("{kind}-{HOSTILE}")
    };
    let (failed, answered, held) = (publish("fails"), publish("answers"), publish("sleeps"));
    let [people, programs] = tails.map(|tail| tail.wait_with_output().unwrap().stdout);
    assert_harmless("events", &people);
    assert!(String::from_utf8_lossy(&people).contains("pwned"), "{people:?}");
    assert_harmless("events --json", &programs);
    assert!(
        contains_hostile_text(&serde_json::from_slice(&programs).unwrap()),
        "{programs:?}"
    );

    for id in [&failed, &answered] {
        let shown = run(&redis, &["result", id, "--wait"]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("pwned"), "{shown:?}");
    }
    wait_until("the last one is taken", || {
        let tasks = run(&redis, &["tasks", "--json"]).stdout;
        contains_hostile_text(&serde_json::from_slice(&tasks).unwrap())
    });
    for arguments in [
        &["tasks"][..],
        &["queues", "--unacked"],
        &["queues", "--check"],
        &["inspect", "registered"],
        &["inspect", "active"],
        &["inspect", "report"],
        &["top", "--once", "--interval", "10ms"],
        &["ping", "--node", HOSTILE, "--timeout", "50ms"],
        &["ping", "--queues", HOSTILE],
        &["control", "add-consumer", HOSTILE],
        &["result", "--group", HOSTILE],
        &["result", HOSTILE],
        &["revoke", HOSTILE],
        &["ping", "--broker", HOSTILE],
        &["publish", "task", "--args", HOSTILE],
        &["publish", "task", "--priority", HOSTILE],
        &[HOSTILE],
    ] {
        let shown = run(&redis, arguments);
        assert!(!shown.stdout.is_empty() || !shown.stderr.is_empty(), "{arguments:?}");
        if !matches!(arguments[0], "publish" | HOSTILE) && !arguments.contains(&"--broker") {
            let json = run(&redis, &[arguments, &["--json"]].concat()).stdout;
            serde_json::from_slice::<Value>(&json).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        }
    }
    for id in [&failed, &answered, &held] {
        let json = run(&redis, &["result", id, "--json"]).stdout;
        assert!(
            contains_hostile_text(&serde_json::from_slice(&json).unwrap()),
            "a program reads what was meant"
        );
    }
}

/// Service that writes all of the text into its log, in every way, and fails.
const FAILING: &str = r#"
[redis]
mode = "off"
[services.loud]
kind = "daemon"
command = ["python3", "-c", 'import sys; sys.stdout.write("""HOSTILE\n"""); sys.stdout.buffer.write(b"\xff\xfe\n"); sys.exit(1)']
env = { PYTHONIOENCODING = "utf-8" }
restart = { limit = 0 }
readiness = { log = "never" }
"#;

/// Returns the inside of a basic string of TOML or Python: every character of the text by its number.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|letter| format!("\\u{:04x}", u32::from(letter)))
        .collect()
}

fn failing() -> Project {
    Project::new(&FAILING.replace("HOSTILE", &escaped(HOSTILE)))
}

/// Checks every file of the project's runs but the logs of the services; returns the number of files.
fn assert_files_harmless(project: &Project, services: &[&str]) -> usize {
    let mut looked_at = 0;
    for run in fs::read_dir(project.state_dir().join("runs")).unwrap().flatten() {
        for file in fs::read_dir(run.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            if services.iter().all(|service| name != format!("{service}.log")) {
                assert_harmless(&name, &fs::read(file.path()).unwrap());
                looked_at += 1;
            }
        }
    }
    looked_at
}

#[test]
fn a_services_last_words_are_shown_and_never_obeyed() {
    for flags in [&["up"][..], &["up", "-vv"], &["up", "--output", "json"]] {
        let project = failing();
        let ended = project
            .orch_with(flags, &[("ORCH_LOG", "trace")], Duration::from_secs(15))
            .finish();
        ended.expect_code(3);
        assert!(
            ended.stdout.contains("pwned"),
            "the log's end is shown: {}",
            ended.stdout
        );
        assert_harmless(&format!("{flags:?}"), ended.stdout.as_bytes());
        assert_harmless(&format!("{flags:?}"), ended.stderr.as_bytes());
        assert!(
            assert_files_harmless(&project, &["loud"]) >= 4,
            "journal, summary, two logs"
        );
    }
}

/// Returns everything that orch writes to a terminal, including its standard error.
#[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
fn in_a_terminal(project: &Project, arguments: &[&str]) -> Vec<u8> {
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_orch"))
        .args(arguments)
        .current_dir(project.path())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("ORCH_LOG")
        .stdin(Stdio::null())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .unwrap();
    drop(pty.slave);
    let mut master = File::from(pty.master);
    let (mut written, mut buffer) = (Vec::new(), [0; 4096]);
    // EIO: the last writer is gone.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        written.extend_from_slice(&buffer[..length]);
    }
    child.wait().unwrap();
    written
}

#[test]
fn a_live_view_draws_with_its_own_sequences_alone() {
    let written = String::from_utf8(in_a_terminal(&failing(), &["up"])).unwrap();
    assert!(written.contains("pwned"), "{written:?}");
    // Cursor hidden and shown, frame erased, cursor up, to the first column.
    let mut rest = written
        .replace("\r\n", "\n")
        .replace("\x1b[?25l", "")
        .replace("\x1b[?25h", "");
    rest = rest.replace("\r\x1b[J", "");
    for rows in 1..24 {
        rest = rest.replace(&format!("\x1b[{rows}A"), "");
    }
    let rest = rest.replace('\r', "");
    assert_harmless_in_colour("the live view", rest.as_bytes());
}

#[test]
fn a_site_that_fails_hostilely_is_told_plainly() {
    let project = support::bookshop::project_with(
        "hostile_app",
        "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"hostile_app\"\nconcurrency = 1\n\
         [sites.shop]\ndispatch = { task = \"hostile.dispatch\", args = [\"{site}\"] }\n",
    );
    let ended = project.orch(&["run", "-v"]).finish();
    ended.expect_code(1);
    assert!(ended.stdout.contains("pwned"), "{}", ended.stdout);
    assert_harmless("the output", ended.stdout.as_bytes());
    assert_harmless("the messages", ended.stderr.as_bytes());
    assert_files_harmless(&project, &["celery", "redis"]);
}

#[test]
fn wrong_configurations_are_quoted_and_never_obeyed() {
    let hostile = escaped(HOSTILE);
    // Characters that TOML accepts unescaped; other hostile characters can only be written by their numbers.
    let raw = "\u{9b}2J\u{202e}kcab\u{200b}pwned\u{ad}\u{e0041}";
    let sites_file = "[orch]\nsites_file = \"sites.yaml\"\n[celery]\napp = \"a\"\n".to_owned();
    let configurations = [
        format!("[redis]\nmode = \"{hostile}\"\n"),
        format!("[redis]\nmode = \"{raw}\"\n"),
        format!("[redis]\n\"{hostile}\" = 1\n"),
        format!("[redis]\n\"{raw}\" = 1 # {raw}\n"),
        format!("[services.\"{hostile}\"]\ncommand = [\"true\"]\n"),
        format!("[services.x]\nkind = \"daemon\"\ncommand = [\"{hostile}\"]\nafter = [\"{hostile}\"]\n"),
        format!("[orch]\nenv_file = \"{hostile}\"\n"),
        format!("[orch]\ngrace = \"{hostile}\"\ninstance = \"{hostile}\"\n"),
        format!("[sites.\"{hostile}\"]\ndispatch = \"{hostile}\"\nkeys = \"{{{hostile}}}\"\n"),
        format!("[redis]\nmode = \"{HOSTILE}\n"),
        "[redis] \u{1b}[2J pwned\n".to_owned(),
        sites_file,
    ];
    for configuration in configurations {
        let project = Project::new(&configuration);
        fs::write(
            project.file("sites.yaml"),
            format!("sites:\n  \"{HOSTILE}\": {{x: \"{HOSTILE}\"}}\n- {raw}: [\n"),
        )
        .unwrap();
        let plain = Command::new(env!("CARGO_BIN_EXE_orch"))
            .arg("up")
            .current_dir(project.path())
            .output()
            .unwrap();
        assert_eq!(plain.status.code(), Some(2), "{configuration:?}: {plain:?}");
        assert_harmless(&configuration, &plain.stderr);
        assert_harmless_in_colour(&configuration, &in_a_terminal(&project, &["up"]));
    }
}

#[test]
fn arguments_and_paths_are_quoted_and_never_obeyed() {
    let project = Project::new("[redis]\nmode = \"off\"\n");
    let set = format!("redis.mode={HOSTILE}");
    let named = Path::new(std::ffi::OsStr::from_bytes(HOSTILE.as_bytes()));
    fs::write(project.path().join(named), "[redis]\nmode = 1\n").unwrap();
    fs::create_dir(project.file("empty")).unwrap();
    for arguments in [
        &["up", "--set", &set][..],
        &["up", "--set", HOSTILE],
        &["up", "--config", HOSTILE],
        &["up", "--config", &format!("{HOSTILE}/absent")],
        &["run", "--sites", HOSTILE],
        &["run", "--wait", HOSTILE],
        &["init", &format!("orch.toml/{HOSTILE}")],
        &["exec", "--set", &format!("orch.state_dir=\"{HOSTILE}\""), "--", "true"],
        &["clean", "--set", &format!("orch.state_dir=\"{}\"", escaped(HOSTILE))],
        &[HOSTILE],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(arguments)
            .current_dir(project.path())
            .output()
            .unwrap();
        assert!(!output.stderr.is_empty(), "{arguments:?}");
        assert_harmless(&format!("{arguments:?}"), &output.stderr);
        assert_harmless_in_colour(&format!("{arguments:?}"), &in_a_terminal(&project, arguments));
    }
}
