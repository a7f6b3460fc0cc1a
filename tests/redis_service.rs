//! Redis as a service: reused, owned, refused; and apps that do not use the configured Redis.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

mod support;
use support::bookshop;
use support::orch::{Orch, Project};

/// Creates a project whose only task uses a Redis client of its own.
fn hard_wired(redis: &str) -> Project {
    let configuration = format!(
        "[redis]\n{redis}\n[celery]\napp = \"hard_wired\"\nconcurrency = 1\n\
         [sites.shop]\ndispatch = {{ task = \"hard_wired.dispatch\", args = [\"{{site}}\"] }}\n"
    );
    bookshop::project_with("hard_wired", &configuration)
}

/// Starts a listener that answers every connection with `words`, until it is dropped.
fn foreign(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut heard = [0; 64];
            if connection.read(&mut heard).is_ok() {
                connection.write_all(words).ok();
            }
        }
    });
    port
}

fn shown(ended: &support::orch::Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

#[test]
fn what_is_not_redis_on_its_port_is_an_error_that_says_so() {
    let port = foreign(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let project = hard_wired(&format!("port = {port}"));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(3);
    let shown = shown(&ended);
    assert!(
        shown.contains("is not a Redis") && shown.contains("HTTP/1.1 400"),
        "{shown}"
    );
    assert!(shown.contains(&port.to_string()), "{shown}");
}

#[test]
fn an_external_redis_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = hard_wired(&format!("mode = \"external\"\nstart_timeout = \"1s\"\nport = {free}"));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(3);
    assert!(
        shown(&ended).contains(&format!("no Redis answers on 127.0.0.1:{free}")),
        "{}",
        shown(&ended)
    );
}

/// Creates a project whose `orch up` owns the Redis that serves as an external one in a test; returns its port too.
fn somebodys_redis(auth: bool) -> (Project, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = Project::new(&format!("[redis]\nmode = \"own\"\nport = {port}\nauth = {auth}\n"));
    (project, port)
}

fn started(project: &Project) -> Orch<'_> {
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "redis");
    orch
}

#[test]
fn a_redis_that_is_there_is_reused_and_left_running() {
    let (theirs, port) = somebodys_redis(false);
    let mut up = started(&theirs);
    let project = hard_wired(&format!("port = {port}"));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let reused = ended.events_of("service_reused");
    assert_eq!(reused.len(), 1, "{}", ended.stdout);
    let whose = reused[0]["detail"].as_str().unwrap();
    assert!(
        whose.contains("(redis-server, pid ") || whose.contains("(valkey-server, pid "),
        "{whose}"
    );
    assert!(whose.contains(" of user "), "{whose}");
    let again = project.orch(&["run"]).finish();
    again.expect_code(0);
    assert!(
        up.events().iter().all(|event| event["event"] != "service_exited"),
        "their Redis was touched"
    );
    up.signal(nix::sys::signal::Signal::SIGTERM);
    up.wait_for("their stop", |event| event["event"] == "stop_started");
    up.finish().expect_code(143);
}

#[test]
fn own_refuses_to_reuse_and_a_locked_one_is_explained() {
    let (theirs, port) = somebodys_redis(true);
    let up = started(&theirs);
    let project = hard_wired(&format!("mode = \"own\"\nport = {port}"));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(2);
    assert!(shown(&ended).contains("refuses to reuse"), "{}", shown(&ended));
    assert!(shown(&ended).contains("already (it is "), "{}", shown(&ended));
    let project = hard_wired(&format!("port = {port}"));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(2);
    assert!(shown(&ended).contains("wants a password"), "{}", shown(&ended));
    up.signal(nix::sys::signal::Signal::SIGTERM);
    up.finish().expect_code(143);
}

#[test]
fn an_app_whose_tasks_connect_without_the_password_ends_it_with_2() {
    let project = hard_wired("mode = \"own\"\nport = 0");
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(2);
    assert!(shown(&ended).contains("auth = false"), "{}", shown(&ended));
    let project = hard_wired("mode = \"own\"\nport = 0\nauth = false");
    project.orch(&["run"]).finish().expect_code(0);
}

#[test]
fn an_app_whose_broker_url_has_no_password_is_found_while_it_starts() {
    let project = hard_wired("mode = \"own\"\nport = 0");
    let orch = project.orch_with(&["run"], &[("HARD_WIRED_BROKER", "1")], Duration::from_secs(15));
    let ended = orch.finish();
    ended.expect_code(2);
    assert!(shown(&ended).contains("without a password"), "{}", shown(&ended));
}

#[test]
fn an_app_without_the_password_is_found_before_a_site_begins() {
    for (variable, value, evidence) in [
        (
            "HARD_WIRED_BACKEND",
            "1",
            "its setting `result_backend` is redis://127.0.0.1:",
        ),
        ("HARD_WIRED_EARLY", "1", "AuthenticationError: Authentication required"),
        (
            "HARD_WIRED_PASSWORD",
            "no-longer-valid",
            "invalid username-password pair",
        ),
    ] {
        let project = hard_wired("mode = \"own\"\nport = 0");
        let orch = project.orch_with(&["run"], &[(variable, value)], Duration::from_secs(15));
        let ended = orch.finish();
        ended.expect_code(2);
        let shown = shown(&ended);
        assert!(shown.contains(evidence), "{variable}: {shown}");
        assert!(!shown.contains("no-longer-valid"), "{shown}");
        assert!(ended.events_of("site_started").is_empty(), "{variable}: {shown}");
        assert!(
            ended
                .events_of("service_ready")
                .iter()
                .all(|event| event["service"] != "celery")
        );
    }
}

/// Returns the port of the Redis that orch started.
fn own_port(orch: &mut Orch<'_>) -> u16 {
    let ready = orch.wait_for_service("service_ready", "redis");
    let (_, port) = ready["detail"].as_str().unwrap().rsplit_once(':').unwrap();
    port.parse().unwrap()
}

#[test]
fn a_stranger_without_the_password_decides_nothing() {
    let configuration = "[redis]\nmode = \"own\"\nport = 0\n[celery]\napp = \"workshop\"\nconcurrency = 1\n\
         [sites.shop]\ndispatch = { task = \"workshop.wait\", args = [\"go_on\"] }\n\
         [sites.fails]\ndispatch = { task = \"workshop.wait\" }\n";
    let project = bookshop::project_with("workshop", configuration);
    let mut orch = project.orch(&["run"]);
    let port = own_port(&mut orch);
    let requests: [&[&str]; 3] = [&["PING"], &["INFO"], &["AUTH", "guessed"]];
    // While the worker starts, and while its tasks run and one of them fails.
    ask(port, &requests);
    orch.wait_until("a task", || project.file("begun").exists());
    ask(port, &requests);
    fs::write(project.file("go_on"), "").unwrap();
    let ended = orch.finish();
    ended.expect_code(1);
    let finished = ended.events_of("site_finished");
    let status = |site: &str| finished.iter().find(|event| event["site"] == site).unwrap()["status"].clone();
    assert_eq!(status("shop"), "complete", "{}", ended.stdout);
    assert_eq!(status("fails"), "failed");
    let problems = ended.events_of("redis_problem_found");
    let refused = json!({ "client_refused": { "count": 4, "commands": ["INFO", "PING"] } });
    let reports = problems.iter().filter(|event| event["problem"] == refused);
    assert_eq!(reports.count(), 1, "{problems:?}");
}

#[test]
fn a_refusal_that_an_app_swallows_is_a_warning_that_names_the_commands() {
    let project = hard_wired("mode = \"own\"\nport = 0");
    let configuration = fs::read_to_string(project.file("orch.toml")).unwrap();
    fs::write(
        project.file("orch.toml"),
        configuration.replace("hard_wired.dispatch", "hard_wired.swallow"),
    )
    .unwrap();
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let problems = ended.events_of("redis_problem_found");
    let refused = &problems.first().expect("the refusal is reported")["problem"]["client_refused"];
    let commands = refused["commands"].to_string();
    assert!(commands.contains("SELECT") || commands.contains("SET"), "{refused}");
    let remedy = "if it is the app, build its URL";
    assert!(ended.stdout.contains(remedy), "{}", ended.stdout);
}

/// Sends requests to the Redis of a running instance as its services do; returns each answer as text.
fn ask(port: u16, requests: &[&[&str]]) -> Vec<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answers = Vec::new();
    for request in requests {
        let mut line = format!("*{}\r\n", request.len());
        for word in *request {
            line += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).unwrap();
        answers.push(String::from_utf8_lossy(&answer[..length]).into_owned());
    }
    answers
}

#[test]
fn services_may_use_an_owned_redis_and_not_administer_it() {
    for auth in [true, false] {
        let project = Project::new(&format!("[redis]\nmode = \"own\"\nport = 0\nauth = {auth}\n"));
        let mut orch = project.orch(&["up"]);
        orch.wait_for_service("service_ready", "redis");
        bookshop::wait_until_up(&mut orch, &project);
        let instance: serde_json::Value =
            serde_json::from_slice(&fs::read(project.state_dir().join("instance.json")).unwrap()).unwrap();
        let port = u16::try_from(instance["redis"]["port"].as_u64().unwrap()).unwrap();
        let password = instance["redis"]["password"].as_str();
        assert_eq!(password.is_some(), auth);
        let refused: [&[&str]; 7] = [
            &["CONFIG", "GET", "dir"],
            &["DEBUG", "SLEEP", "0"],
            &["MODULE", "LIST"],
            &["REPLICAOF", "NO", "ONE"],
            &["ACL", "LIST"],
            &["BGREWRITEAOF"],
            &["SHUTDOWN", "NOSAVE"],
        ];
        let allowed: [&[&str]; 6] = [
            &["SET", "kept", "1"],
            &["KEYS", "*"],
            &["INFO", "server"],
            &["CLIENT", "SETNAME", "app"],
            &["EVAL", "return 1", "0"],
            &["FLUSHDB"],
        ];
        let mut requests: Vec<&[&str]> = Vec::new();
        let login = ["AUTH", password.unwrap_or_default()];
        if auth {
            assert!(ask(port, &[&["PING"]])[0].starts_with("-NOAUTH"));
            requests.push(&login);
        }
        requests.extend(refused.iter().chain(&allowed));
        let answers = ask(port, &requests);
        for (request, answer) in requests.iter().zip(answers) {
            assert_eq!(
                answer.starts_with('-'),
                refused.contains(request),
                "{request:?}: {answer}"
            );
            // Since Redis 7 DEBUG is switched off for all users, and its error differs.
            let lacks_permission = answer.starts_with("-NOPERM") || request[0] == "DEBUG";
            assert_eq!(lacks_permission, refused.contains(request), "{request:?}: {answer}");
        }
        // orch itself is not restricted, and saves the data at the end.
        orch.signal(nix::sys::signal::Signal::SIGTERM);
        orch.finish().expect_code(143);
    }
}

#[test]
fn the_password_is_in_no_file_but_the_private_ones_and_in_no_output() {
    let project = Project::new("[redis]\nmode = \"own\"\nport = 0\n");
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "redis");
    bookshop::wait_until_up(&mut orch, &project);
    let instance: serde_json::Value =
        serde_json::from_slice(&fs::read(project.state_dir().join("instance.json")).unwrap()).unwrap();
    let password = instance["redis"]["password"].as_str().unwrap().to_owned();
    // The user of the services, and that of orch.
    let file = fs::read_to_string(project.state_dir().join("redis/redis.conf")).unwrap();
    let passwords: Vec<String> = file
        .split_ascii_whitespace()
        .filter_map(|word| Some(word.strip_prefix('>')?.to_owned()))
        .collect();
    assert!(passwords.len() == 2 && passwords.contains(&password), "{file}");
    let has_password = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        passwords.iter().any(|password| text.contains(password))
    };
    let commands = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    for command in commands {
        assert!(!has_password(&command), "in a command line");
    }
    let ended = project.orch(&["exec", "--", "sh", "-c", "echo got $REDIS_PASSWORD"]);
    let ended = ended.finish();
    ended.expect_code(0);
    assert!(ended.stdout.contains(&password), "exec hands it on");
    orch.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = orch.finish();
    ended.expect_code(143);
    assert!(!has_password(shown(&ended).as_bytes()), "in the output");
    for run in fs::read_dir(project.state_dir().join("runs")).unwrap().flatten() {
        for file in fs::read_dir(run.path()).unwrap().flatten() {
            let text = fs::read(file.path()).unwrap();
            assert!(!has_password(&text), "in {}", file.path().display());
        }
    }
}

/// Returns the part of the append-only file to which Redis appends.
fn append_only_file(project: &Project) -> std::path::PathBuf {
    let directory = project.state_dir().join("redis/data/appendonlydir");
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut parts: Vec<_> = files
        .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .collect();
    assert_eq!(parts.len(), 1, "{parts:?}");
    parts.remove(0)
}

/// Shows that the file that a crash of the machine leaves in the middle of a write is loaded up to that write.
#[test]
fn a_cut_off_append_only_file_is_loaded() {
    let (project, port) = somebodys_redis(false);
    let orch = started(&project);
    assert!(ask(port, &[&["SET", "first", "1"], &["SET", "second", "2"]])[1].starts_with("+OK"));
    stop(orch);
    let file = append_only_file(&project);
    let mut torn = fs::read(&file).unwrap();
    torn.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$5\r\nthi");
    fs::write(&file, &torn).unwrap();
    let orch = started(&project);
    let answers = ask(port, &[&["GET", "first"], &["GET", "second"], &["EXISTS", "third"]]);
    assert!(answers[2].starts_with(":0"), "{answers:?}");
    assert!(
        answers[..2].iter().all(|answer| answer.starts_with("$1")),
        "{answers:?}"
    );
    stop(orch);
    assert_eq!(damaged(&project), Vec::<std::path::PathBuf>::new());
}

fn stop(orch: Orch<'_>) {
    orch.signal(nix::sys::signal::Signal::SIGTERM);
    orch.finish().expect_code(143);
}

/// Returns the directories with data that were moved aside.
fn damaged(project: &Project) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(project.state_dir().join("redis")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("damaged-"))
        .collect()
}

/// Shows that data which Redis cannot read do not prevent a night: they are moved aside, which is reported, and nothing
/// is deleted.
#[test]
fn damaged_data_are_moved_aside_and_reported() {
    type Damage = fn(&Path);
    let part = |directory: &Path, end: &str| {
        let parts = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut parts = parts.filter(|path| path.to_string_lossy().ends_with(end));
        parts.next().unwrap()
    };
    // A server before Redis 7 has one file, and neither manifest nor base.
    let damages: [(&str, &str, Damage); 6] = [
        ("garbage at the start", ".incr.aof", |path| {
            fs::write(path, "\0garbage").unwrap()
        }),
        ("garbage in the middle", ".incr.aof", |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes.splice(middle..middle, *b"\0\0garbage\r\n");
            fs::write(path, bytes).unwrap();
        }),
        ("a wrong manifest", ".manifest", |path| {
            fs::write(path, "file nonsense\n").unwrap()
        }),
        ("an empty manifest", ".manifest", |path| fs::write(path, "").unwrap()),
        ("a damaged base", ".base.rdb", |path| {
            fs::write(path, b"REDIS0010\xfa").unwrap()
        }),
        ("a base that is missing", ".base.rdb", |path| {
            fs::remove_file(path).unwrap()
        }),
    ];
    for (what, end, damage) in damages {
        let (project, port) = somebodys_redis(false);
        let orch = started(&project);
        assert!(ask(port, &[&["SET", "first", "1"], &["SET", "second", "2"]])[1].starts_with("+OK"));
        stop(orch);
        let data = append_only_file(&project);
        damage(&part(data.parent().unwrap(), end));
        let orch = started(&project);
        let answers = ask(port, &[&["EXISTS", "first"], &["SET", "third", "3"]]);
        assert!(
            answers[0].starts_with(":0") && answers[1].starts_with("+OK"),
            "{what}: {answers:?}"
        );
        orch.signal(nix::sys::signal::Signal::SIGTERM);
        let ended = orch.finish();
        ended.expect_code(143);
        let moved = damaged(&project);
        assert_eq!(moved.len(), 1, "{what}: {moved:?}");
        let problems = ended.events_of("redis_problem_found");
        let is_reported = problems.iter().any(|event| {
            let damaged = &event["problem"]["data_damaged"];
            damaged["moved_to"] == *moved[0].to_string_lossy() && damaged["failure"].is_null()
        });
        assert!(is_reported, "{what}: {problems:?}");
        let kept = fs::read_dir(moved[0].join("appendonlydir")).unwrap();
        assert!(kept.count() > 0, "{what}: nothing is deleted");
        // The next night has nothing to report.
        let orch = started(&project);
        assert!(ask(port, &[&["GET", "third"]])[0].starts_with("$1"), "{what}");
        stop(orch);
        assert_eq!(damaged(&project), moved, "{what}");
    }
}

/// Shows that an empty file is not damaged, and that a file which the server may not read stays in place.
#[test]
fn an_empty_append_only_file_is_loaded() {
    let (project, port) = somebodys_redis(false);
    let orch = started(&project);
    assert!(ask(port, &[&["SET", "first", "1"]])[0].starts_with("+OK"));
    stop(orch);
    fs::write(append_only_file(&project), "").unwrap();
    let orch = started(&project);
    assert!(ask(port, &[&["EXISTS", "first"]])[0].starts_with(":0"));
    stop(orch);
    assert_eq!(damaged(&project), Vec::<std::path::PathBuf>::new());
}

/// Shows that the append-only file of a night is rewritten at the start of the next one, so that no start reads the
/// data of all nights before.
#[test]
fn a_long_append_only_file_is_rewritten_at_the_next_start() {
    let (project, port) = somebodys_redis(false);
    let page = "x".repeat(1000);
    let writes: Vec<[&str; 3]> = std::iter::repeat_n(["SET", "page", &*page], 1500).collect();
    let writes: Vec<&[&str]> = writes.iter().map(|write| &write[..]).collect();
    let mut orch = started(&project);
    for _ in 0..3 {
        assert!(ask(port, &writes).iter().all(|answer| answer.starts_with("+OK")));
        let length = || -> u64 {
            let directory = project.state_dir().join("redis/data/appendonlydir");
            let files = fs::read_dir(directory).unwrap();
            files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
        };
        assert!(length() > 1 << 20, "{}", length());
        stop(orch);
        orch = started(&project);
        support::orch::wait_until("the file is short", || length() < 100_000);
        assert!(ask(port, &[&["GET", "page"]])[0].starts_with("$1000"));
    }
    stop(orch);
}
