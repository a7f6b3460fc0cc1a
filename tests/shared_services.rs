//! A run that uses the services of others learns of their deaths within seconds: of the `orch up` beside it, of its worker,
//! of a reused worker and of another's Redis.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project};

const OWN: &str = "mode = \"own\"\nport = 0\nauth = false";
/// A task that works until somebody makes a file, which nobody does.
const ENDLESS: &str = "[sites.shop]\ntimeout = \"50s\"\ndispatch = { task = \"workshop.wait\", args = [\"finish\"] }\n";
/// Longer than a death takes to be known on a busy machine, and much shorter than the site's timeout.
const SOON: Duration = Duration::from_secs(30);

fn workshop(redis: &str, celery: &str, sites: &str) -> Project {
    let configuration = format!("[redis]\n{redis}\n[celery]\napp = \"workshop\"\nconcurrency = 1\n{celery}\n{sites}");
    bookshop::project_with("workshop", &configuration)
}

/// An `orch up` whose processes are known: beside a run its journal is hard to tell from the run's.
struct Up<'a> {
    orch: Orch<'a>,
    redis: Pid,
    worker: Pid,
    port: u64,
}

impl<'a> Up<'a> {
    fn start(project: &'a Project) -> Self {
        let mut orch = project.orch(&["up"]);
        let mut pid_of = |service: &str| {
            let pid = orch.wait_for_service("service_spawned", service)["pid"]
                .as_i64()
                .unwrap();
            Pid::from_raw(i32::try_from(pid).unwrap())
        };
        let (redis, worker) = (pid_of("redis"), pid_of("celery"));
        bookshop::wait_until_up(&mut orch, project);
        let text = fs::read(project.state_dir().join("instance.json")).unwrap();
        let instance: Value = serde_json::from_slice(&text).unwrap();
        Self {
            orch,
            redis,
            worker,
            port: instance["redis"]["port"].as_u64().unwrap(),
        }
    }

    fn end(self) {
        self.orch.signal(Signal::SIGTERM);
        assert!(self.orch.finish().left.is_empty());
    }
}

/// `orch up` with a worker of its own on another's Redis.
fn another_worker(project: &Project) -> Orch<'_> {
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "celery");
    orch
}

fn kill_process(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
}

fn unacknowledged(port: u64) -> u64 {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0")).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("HLEN").arg("unacked").query(&mut connection).unwrap()
}

/// Waits for the end of a run, which must come soon.
#[track_caller]
fn ends_soon(run: Orch<'_>) -> Ended {
    let begun = Instant::now();
    let ended = run.finish();
    assert!(begun.elapsed() < SOON, "after {:?}:\n{}", begun.elapsed(), ended.stdout);
    ended
}

fn reason(ended: &Ended) -> &str {
    ended.events_of("site_finished")[0]["reason"]
        .as_str()
        .unwrap_or_default()
}

#[track_caller]
fn reports(ended: &Ended, words: &[&str]) {
    let notices = ended.events_of("noticed");
    let mut texts = notices.iter().filter_map(|event| event["message"].as_str());
    let found = texts.any(|text| words.iter().all(|word| text.contains(word)));
    assert!(found, "{words:?} is in none of {notices:#?}");
}

#[test]
fn a_run_whose_orch_up_is_killed_ends_within_seconds_and_names_it() {
    let project = workshop(OWN, "", ENDLESS);
    let up = Up::start(&project);
    let mut run = project.orch(&["run"]);
    run.wait_for("the task", |_| project.file("begun").exists());
    let pid = up.orch.pid;
    up.orch.signal(Signal::SIGKILL);
    let ended = ends_soon(run);
    ended.expect_code(3);
    for words in [&format!("`orch up` (pid {pid}, run "), "has ended", "orch run --resume"] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    assert!(up.orch.finish().left.is_empty());
}

#[test]
fn a_run_whose_orch_up_is_stopped_ends_before_the_grace_of_its_worker_is_over() {
    let project = workshop(OWN, "grace = \"40s\"", ENDLESS);
    let up = Up::start(&project);
    let mut run = project.orch(&["run"]);
    run.wait_for("the task", |_| project.file("begun").exists());
    up.orch.signal(Signal::SIGTERM);
    let ended = ends_soon(run);
    ended.expect_code(3);
    assert!(ended.stdout.contains("is being stopped"), "{}", ended.stdout);
    up.orch.finish().expect_code(143);
}

#[test]
fn a_task_that_a_worker_of_orch_up_takes_into_its_death_is_named_at_once() {
    let project = workshop(OWN, "", ENDLESS);
    let up = Up::start(&project);
    let mut run = project.orch(&["run"]);
    run.wait_for("the task", |_| project.file("begun").exists());
    // Acknowledged a moment after its begin: from then on only the worker has it.
    support::orch::wait_until("the acknowledgement", || unacknowledged(up.port) == 0);
    let pid = up.worker;
    kill_process(pid);
    let ended = ends_soon(run);
    ended.expect_code(1);
    reports(&ended, &["the shared worker", &format!("(pid {pid}) has ended")]);
    assert!(reason(&ended).contains("its worker died"), "{}", reason(&ended));
    up.end();
}

#[test]
fn what_a_worker_of_orch_up_held_is_put_back_and_the_run_completes() {
    const TASKS: usize = 12;
    let chord = format!("[sites.late]\ndispatch = {{ task = \"workshop.late_chord\", args = [{TASKS}, 0.1] }}\n");
    let project = workshop(OWN, "[celery.settings]\n\"worker_prefetch_multiplier\" = 40\n", &chord);
    let up = Up::start(&project);
    let mut run = project.orch(&["run"]);
    run.wait_for("the first task", |_| project.file("late").exists());
    kill_process(up.worker);
    let ended = ends_soon(run);
    ended.expect_code(0);
    reports(&ended, &["that a worker had taken and cannot acknowledge", "put back"]);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    up.end();
}

/// The worker is another's, and nobody restarts it; what it held waits on the queue.
fn deserted(policy: &str) -> Ended {
    let theirs = workshop(OWN, "restart = { when = \"never\" }", "");
    let somebody = Up::start(&theirs);
    let site = "[sites.late]\ntimeout = \"50s\"\ndispatch = { task = \"workshop.late_chord\", args = [50, 0.3] }\n";
    let project = workshop(
        &format!("port = {}", somebody.port),
        "start_timeout = \"14s\"\nrestart = { backoff_max = \"1s\" }",
        &format!("{site}{policy}"),
    );
    let mut run = project.orch(&["run"]);
    run.wait_for("the first task", |_| theirs.file("late").exists());
    kill_process(somebody.worker);
    let ended = ends_soon(run);
    ended.expect_code(1);
    let reused = ended.events_of("service_reused");
    assert!(reused.iter().any(|event| event["service"] == "celery"), "{reused:?}");
    let pid = somebody.worker;
    reports(&ended, &["the shared worker", &format!("(pid {pid}) has ended")]);
    reports(
        &ended,
        &[
            "no worker has consumed the queue `celery` since 20",
            "sites fail 15s after that",
        ],
    );
    let verdicts = ended.events_of("site_verdict");
    assert!(
        verdicts.iter().any(|event| event["health"] == "stalled"),
        "{verdicts:?}"
    );
    somebody.end();
    ended
}

#[test]
fn without_a_worker_and_with_nobody_to_restart_it_the_site_fails_with_that_reason() {
    let ended = deserted("");
    let words = "no worker has consumed the queue `celery` for 15s (`[celery] start_timeout` and `restart.backoff_max` \
                 together), since 20";
    assert!(reason(&ended).starts_with(words), "{}", reason(&ended));
    assert!(reason(&ended).contains(": the last, orch"), "{}", reason(&ended));
}

#[test]
fn a_site_without_a_worker_is_stalled_and_on_stalled_says_what_then() {
    let ended = deserted("on_stalled = \"fail\"\n");
    let words = "it was ended, being stalled: no worker consumes its queue";
    assert!(reason(&ended).starts_with(words), "{}", reason(&ended));
}

#[test]
fn what_a_dead_worker_held_is_put_back_in_another_s_redis_too() {
    const TASKS: usize = 12;
    // Nobody's worker is restarted: another one, of the same queue, is there.
    let theirs = workshop(
        OWN,
        "restart = { when = \"never\" }\n[celery.settings]\n\"worker_prefetch_multiplier\" = 40\n",
        "",
    );
    let somebody = Up::start(&theirs);
    let port = somebody.port;
    let chord = format!(
        "[sites.late]\ntimeout = \"50s\"\ndispatch = {{ task = \"workshop.late_chord\", args = [{TASKS}, 0.5] }}\n"
    );
    let project = workshop(&format!("port = {port}"), "", &chord);
    let mut run = project.orch(&["run"]);
    run.wait_for("the first task", |_| theirs.file("late").exists());
    let other = workshop(&format!("port = {port}"), "reuse = false", "");
    let another = another_worker(&other);
    kill_process(somebody.worker);
    let ended = ends_soon(run);
    ended.expect_code(0);
    reports(&ended, &["that a worker had taken and cannot acknowledge", "put back"]);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    another.signal(Signal::SIGTERM);
    assert!(another.finish().left.is_empty());
    somebody.end();
}

/// Does with the next message what a worker does that takes it, and dies before it has sent the event of that.
fn take_without_an_event(port: u64) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0")).unwrap();
    let mut connection = client.get_connection().unwrap();
    let text: String = redis::cmd("RPOP").arg("celery").query(&mut connection).unwrap();
    let message: Value = serde_json::from_str(&text).unwrap();
    let tag = message["properties"]["delivery_tag"].as_str().unwrap().to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    redis::pipe()
        .cmd("ZADD")
        .arg("unacked_index")
        .arg(now)
        .arg(&tag)
        .cmd("HSET")
        .arg("unacked")
        .arg(&tag)
        .arg(json!([message, "", "celery"]).to_string())
        .exec(&mut connection)
        .unwrap();
}

#[test]
fn what_a_dead_worker_had_taken_without_having_reported_it_is_put_back_in_another_s_redis_too() {
    const TASKS: usize = 12;
    let theirs = workshop(OWN, "[celery.settings]\n\"worker_prefetch_multiplier\" = 1\n", "");
    let somebody = Up::start(&theirs);
    let port = somebody.port;
    let chord = format!(
        "[sites.late]\ntimeout = \"50s\"\ndispatch = {{ task = \"workshop.late_chord\", args = [{TASKS}, 0.5] }}\n"
    );
    let project = workshop(&format!("port = {port}"), "", &chord);
    let mut run = project.orch(&["run"]);
    run.wait_for("the first task", |_| theirs.file("late").exists());
    take_without_an_event(port);
    kill_process(somebody.worker);
    let ended = ends_soon(run);
    ended.expect_code(0);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    somebody.end();
}

#[test]
fn an_outage_of_the_redis_of_orch_up_is_reported_when_it_begins() {
    let configuration = "[redis.liveness]\ninterval = \"200ms\"\n[redis.restart]\nwhen = \"never\"\n";
    let project = workshop(OWN, "", &format!("{ENDLESS}{configuration}"));
    let up = Up::start(&project);
    let mut run = project.orch(&["run"]);
    run.wait_for("the task", |_| project.file("begun").exists());
    kill_process(up.redis);
    let reported = run.wait_for_service("service_unhealthy", "redis");
    assert!(
        reported["reason"].as_str().unwrap().contains("nothing listens"),
        "{reported}"
    );
    run.signal(Signal::SIGTERM);
    assert!(run.finish().left.is_empty());
    up.end();
}

#[test]
fn a_service_that_orch_up_gives_up_ends_the_run_and_is_named() {
    for service in ["celery", "redis"] {
        let limit = format!("[{service}.restart]\nlimit = 0\n");
        let project = workshop(OWN, "", &format!("{ENDLESS}{limit}"));
        let up = Up::start(&project);
        let mut run = project.orch(&["run"]);
        run.wait_for("the task", |_| project.file("begun").exists());
        kill_process(if service == "redis" { up.redis } else { up.worker });
        let ended = ends_soon(run);
        ended.expect_code(3);
        let words = format!("has given up `{service}`");
        assert!(ended.stdout.contains(&words), "{}", ended.stdout);
        up.end();
    }
}

#[test]
fn a_redis_of_others_that_dies_is_a_failure_of_infrastructure() {
    let project = workshop(OWN, "", "");
    let up = Up::start(&project);
    let ours = workshop(
        &format!("port = {}", up.port),
        "reuse = false",
        &format!("[orch]\nlease = \"15s\"\n{ENDLESS}"),
    );
    let mut run = ours.orch(&["run"]);
    run.wait_for_service("service_ready", "celery");
    kill_process(Pid::from_raw(up.orch.pid));
    let ended = ends_soon(run);
    ended.expect_code(3);
    assert!(ended.stdout.contains("does not answer for"), "{}", ended.stdout);
    drop(up.orch.finish());
}

#[test]
fn what_an_own_worker_held_is_put_back_in_another_s_redis_too() {
    const TASKS: usize = 12;
    let theirs = workshop(OWN, "", "");
    let somebody = Up::start(&theirs);
    let chord = format!(
        "[sites.late]\ntimeout = \"50s\"\ndispatch = {{ task = \"workshop.late_chord\", args = [{TASKS}, 0.1] }}\n"
    );
    let project = workshop(
        &format!("port = {}", somebody.port),
        "reuse = false\nqueues = [\"ours\"]\n[celery.settings]\n\"worker_prefetch_multiplier\" = 40\n\
         \"task_default_queue\" = \"ours\"",
        &chord,
    );
    let mut run = project.orch(&["run"]);
    let worker = run.wait_for_service("service_spawned", "celery")["pid"]
        .as_i64()
        .unwrap();
    run.wait_for("the first task", |_| project.file("late").exists());
    kill_process(Pid::from_raw(i32::try_from(worker).unwrap()));
    let ended = ends_soon(run);
    ended.expect_code(0);
    reports(&ended, &["that a worker had taken and cannot acknowledge", "put back"]);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    somebody.end();
}
