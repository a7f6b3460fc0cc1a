//! A key of Celery gets another type of value while a job runs: the key is named, and the run soon has a true end.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Project};
use support::redis::RedisServer;

const CHUNKS: u64 = 60;
/// Longest time from the wrong type to the end of the run: the job takes some five seconds, on a busy machine more.
const END_TIMEOUT: Duration = Duration::from_secs(40);

/// Key that becomes another type, with the commands for that; `*` in the key stands for any characters.
struct Case {
    database: u32,
    key: &'static str,
    command: &'static [&'static str],
}

const fn case(database: u32, key: &'static str, command: &'static [&'static str]) -> Case {
    Case { database, key, command }
}

fn project(redis: &str) -> Project {
    bookshop::project_with(
        "connections_app",
        &format!(
            r#"
[redis]
{redis}
[celery]
app = "connections_app"
concurrency = 4
[sites.shop]
timeout = "5m"
dispatch = {{ task = "connections.dispatch", kwargs = {{ site = "{{site}}", job_id = "{{job_id}}", chunks = {CHUNKS}, seconds = 0.1 }} }}
"#
        ),
    )
}

/// Returns the URL of orch's own Redis, with the password that orch has chosen.
fn own_url(project: &Project, database: u32) -> String {
    let text = std::fs::read_to_string(project.state_dir().join("redis/redis.conf")).expect("redis.conf");
    let find = |begin: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(begin))
            .expect("a line of it")
    };
    let (_, password) = find("user orch ").split_once('>').expect("a password");
    let password = password.split(' ').next().expect("a word");
    format!("redis://orch:{password}@127.0.0.1:{}/{database}", find("port "))
}

/// Runs a job and spoils the key in its middle; returns the end of the run and the time until then.
fn spoil(case: &Case, external: Option<&RedisServer>) -> (Ended, Duration) {
    let redis = external.map_or_else(
        || "mode = \"own\"\nport = 0".to_owned(),
        |server| format!("mode = \"external\"\nport = {}", server.port),
    );
    let project = project(&redis);
    let mut orch = project.orch(&["run"]);
    orch.wait_for("the job", |event| event["event"] == "site_job_started");
    orch.wait_until("some chunks", || bookshop::ledger(project.path(), "shop").len() > 5);
    let url = external.map_or_else(|| own_url(&project, case.database), |server| server.url(case.database));
    let mut connection = redis::Client::open(url)
        .expect("a URL")
        .get_connection()
        .expect("Redis is up");
    let keys: Vec<String> = match case.key.contains('*') {
        true => redis::cmd("KEYS").arg(case.key).query(&mut connection).expect("keys"),
        false => vec![case.key.to_owned()],
    };
    assert!(!keys.is_empty(), "no key {}", case.key);
    for key in &keys {
        let mut spoil = redis::pipe();
        spoil.atomic().cmd("DEL").arg(key).ignore();
        spoil.cmd(case.command[0]).arg(key).arg(&case.command[1..]).ignore();
        spoil.exec(&mut connection).expect("Redis is up");
    }
    let began = Instant::now();
    let ended = orch.finish();
    let took = began.elapsed();
    let shown = |kind: &str| {
        ended
            .events_of(kind)
            .iter()
            .map(|event| format!("\n  {event}"))
            .collect::<String>()
    };
    println!(
        "{} {:?}, external {}: {:.1} s, code {:?}, {} restarts, done {}{}{}{}",
        case.key,
        case.command,
        external.is_some(),
        took.as_secs_f64(),
        ended.code,
        ended.events_of("service_restarting").len(),
        bookshop::ledger(project.path(), "shop").len(),
        shown("redis_problem_found"),
        shown("site_finished"),
        shown("service_failed"),
    );
    (ended, took)
}

/// Asserts that this key is named.
#[track_caller]
fn is_named(found: bool, ended: &Ended, key: &str) {
    assert!(found, "nothing names {key}:\n{:#?}\n{}", ended.events, ended.stderr);
}

/// Asserts that in a Redis of orch the value is moved aside, and the site has a true end.
#[track_caller]
fn own(case: &Case, complete: bool) {
    let (ended, took) = spoil(case, None);
    assert!(took < END_TIMEOUT, "{took:?}");
    let moved_to = format!("orch:quarantine:wrong-type:{}", case.key);
    let mut problems = ended.events_of("redis_problem_found").into_iter();
    let is_of_key = |event: &Value| {
        let mistyped = &event["problem"]["key_mistyped"];
        mistyped["key"] == case.key && mistyped["moved_to"] == *moved_to
    };
    is_named(problems.any(is_of_key), &ended, case.key);
    let restarts = ended.events_of("service_restarting").len();
    assert!(restarts <= 1, "{restarts} restarts");
    let (code, status) = if complete { (0, "complete") } else { (1, "failed") };
    ended.expect_code(code);
    let finished = ended.events_of("site_finished")[0];
    assert_eq!(finished["status"], status, "{finished}");
    if !complete {
        // Every chunk is counted as done or as lost.
        let count = |name: &str| finished["counts"][name].as_u64().unwrap_or(0);
        assert_eq!(count("completed_chunks") + count("errors"), CHUNKS, "{finished}");
        assert!(
            finished["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("lost")),
            "{finished}"
        );
    }
}

/// Asserts that in an external Redis the key is named, and the run ends with that error.
#[track_caller]
fn external(case: &Case) {
    let server = RedisServer::start();
    let (ended, took) = spoil(case, Some(&server));
    assert!(took < END_TIMEOUT, "{took:?}");
    ended.expect_code(3);
    let words = format!("the key `{}` is a ", case.key);
    let mut failures = ended.events_of("service_failed").into_iter();
    let is_of_key = |event: &Value| event["reason"].as_str().is_some_and(|reason| reason.contains(&words));
    is_named(failures.any(is_of_key), &ended, case.key);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("RENAME"), "it says what to do: {said}");
    let restarts = ended.events_of("service_restarting").len();
    assert!(restarts <= 1, "{restarts} restarts");
}

#[test]
fn own_queue() {
    own(&case(0, "celery", &["SET", "x"]), false);
}

#[test]
fn own_unacknowledged_messages() {
    own(&case(0, "unacked", &["RPUSH", "x"]), false);
}

/// Tests the index of unacknowledged messages; the messages themselves exist.
#[test]
fn own_index_of_unacknowledged_messages() {
    own(&case(0, "unacked_index", &["SET", "x"]), true);
}

#[test]
fn queue_of_others() {
    external(&case(0, "celery", &["HSET", "x", "y"]));
}

#[test]
fn unacknowledged_messages_of_others() {
    external(&case(0, "unacked", &["SET", "x"]));
}

/// Tests the results of tasks, which workers overwrite whatever their type is.
#[test]
fn results_of_the_job() {
    let (ended, took) = spoil(&case(1, "celery-task-meta-*", &["RPUSH", "x"]), None);
    assert!(took < END_TIMEOUT, "{took:?}");
    ended.expect_code(0);
}

/// Tests the keys of the chord, without which no chunk can be counted: the chord has no end.
#[test]
fn parts_of_the_chord() {
    let families: [(&str, &[&str]); 2] = [
        ("celery-taskset-meta-*.j", &["SET", "x"]),
        ("celery-taskset-meta-*.s", &["RPUSH", "x"]),
    ];
    for (key, command) in families {
        let (ended, took) = spoil(&case(1, key, command), None);
        assert!(took < END_TIMEOUT, "{key}: {took:?}");
        ended.expect_code(1);
        let finished = ended.events_of("site_finished")[0];
        // Without the size of the chord orch may not know whether the callback was sent.
        let status = finished["status"].as_str().unwrap_or_default();
        assert!(["failed", "unknown"].contains(&status), "{key}: {finished}");
    }
}
