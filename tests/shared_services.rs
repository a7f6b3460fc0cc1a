//! A run that uses the services of others detects their deaths within seconds: of the `orch up` in the same directory,
//! of its worker, of a reused worker and of another owner's Redis.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project, wait_until};

const OWN: &str = "mode = \"own\"\nport = 0\nauth = false";
/// Task that runs until a file exists which is never created.
const ENDLESS: &str = "[sites.shop]\ntimeout = \"50s\"\ndispatch = { task = \"workshop.wait\", args = [\"finish\"] }\n";
/// Time that is longer than the detection of a death takes on a busy machine, and much shorter than the timeout of the
/// site.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(30);

fn workshop(redis: &str, celery: &str, sites: &str) -> Project {
    let configuration = format!("[redis]\n{redis}\n[celery]\napp = \"workshop\"\nconcurrency = 1\n{celery}\n{sites}");
    bookshop::project_with("workshop", &configuration)
}

/// `orch up` with the pids of its processes. While a run uses the same directory, its journal can be mistaken for
/// that of `orch up`.
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

/// Starts `orch up` with a worker of its own on another owner's Redis.
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
    assert!(
        begun.elapsed() < DETECTION_TIMEOUT,
        "after {:?}:\n{}",
        begun.elapsed(),
        ended.stdout
    );
    ended
}

fn reason(ended: &Ended) -> &str {
    ended.events_of("site_finished")[0]["reason"]
        .as_str()
        .unwrap_or_default()
}

/// Asserts that the run has reported the end of the shared worker with this pid.
#[track_caller]
fn reports_end(ended: &Ended, pid: Pid) {
    let problems = ended.events_of("worker_problem_found");
    let is_end = |event: &&Value| event["problem"]["ended"]["pid"] == pid.as_raw();
    let found = problems.iter().any(is_end);
    assert!(found, "{pid} is in none of {problems:#?}");
}

/// Asserts that the run has put back messages that a worker had taken.
#[track_caller]
fn reports_restored(ended: &Ended) {
    let restored = ended.events_of("messages_restored");
    assert!(!restored.is_empty(), "{:#?}", ended.events);
}

#[test]
fn a_run_whose_orch_up_is_killed_ends_within_seconds_and_names_it() {
    let project = workshop(OWN, "", ENDLESS);
    let up = Up::start(&project);
    let run = project.orch(&["run"]);
    project.wait_for_file("begun");
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
    let run = project.orch(&["run"]);
    project.wait_for_file("begun");
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
    let run = project.orch(&["run"]);
    project.wait_for_file("begun");
    // The task is acknowledged a moment after its start: from then on only the worker has it.
    support::orch::wait_until("the acknowledgement", || unacknowledged(up.port) == 0);
    let pid = up.worker;
    kill_process(pid);
    let ended = ends_soon(run);
    ended.expect_code(1);
    reports_end(&ended, pid);
    assert!(reason(&ended).contains("its worker died"), "{}", reason(&ended));
    up.end();
}

#[test]
fn what_a_worker_of_orch_up_held_is_put_back_and_the_run_completes() {
    const TASKS: usize = 12;
    let chord = format!("[sites.late]\ndispatch = {{ task = \"workshop.late_chord\", args = [{TASKS}, 0.1] }}\n");
    let project = workshop(OWN, "[celery.settings]\n\"worker_prefetch_multiplier\" = 40\n", &chord);
    let up = Up::start(&project);
    let run = project.orch(&["run"]);
    project.wait_for_file("late");
    kill_process(up.worker);
    let ended = ends_soon(run);
    ended.expect_code(0);
    reports_restored(&ended);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    up.end();
}

/// Kills a worker of another owner, without a restart, during a run that uses the worker; its messages wait in the
/// queue.
fn deserted(policy: &str) -> Ended {
    let theirs = workshop(OWN, "restart = { when = \"never\" }", "");
    let somebody = Up::start(&theirs);
    let site = "[sites.late]\ntimeout = \"50s\"\ndispatch = { task = \"workshop.late_chord\", args = [50, 0.3] }\n";
    let project = workshop(
        &format!("port = {}", somebody.port),
        "start_timeout = \"14s\"\nrestart = { backoff_max = \"1s\" }",
        &format!("{site}{policy}"),
    );
    let run = project.orch(&["run"]);
    theirs.wait_for_file("late");
    kill_process(somebody.worker);
    let ended = ends_soon(run);
    ended.expect_code(1);
    let reused = ended.events_of("service_reused");
    assert!(reused.iter().any(|event| event["service"] == "celery"), "{reused:?}");
    let pid = somebody.worker;
    reports_end(&ended, pid);
    let problems = ended.events_of("worker_problem_found");
    let mut absences = problems.iter().map(|event| &event["problem"]["absent"]);
    let is_reported = |absence: &Value| {
        absence["queues"] == json!(["celery"]) && absence["timeout_ms"] == 15_000 && absence["is_final"] == false
    };
    assert!(absences.any(is_reported), "{problems:#?}");
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
    let words = "ended because the site is stalled: no worker consumes its queue";
    assert!(reason(&ended).starts_with(words), "{}", reason(&ended));
}

#[test]
fn what_a_dead_worker_held_is_put_back_in_another_s_redis_too() {
    const TASKS: usize = 12;
    // The reused worker is not restarted; another worker consumes the same queue.
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
    let run = project.orch(&["run"]);
    theirs.wait_for_file("late");
    let other = workshop(&format!("port = {port}"), "reuse = false", "");
    let another = another_worker(&other);
    kill_process(somebody.worker);
    let ended = ends_soon(run);
    ended.expect_code(0);
    reports_restored(&ended);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    another.signal(Signal::SIGTERM);
    assert!(another.finish().left.is_empty());
    somebody.end();
}

/// Returns the logs of the workers of this project.
fn worker_logs(project: &Project) -> String {
    let runs = fs::read_dir(project.state_dir().join("runs")).unwrap().flatten();
    let logs = runs.map(|run| fs::read_to_string(run.path().join("celery.log")).unwrap_or_default());
    logs.collect()
}

/// Shows that a lost end is found: Redis and orch are down at the moment at which a task ends, so that the worker lists
/// the task as running for ever, the message stays unacknowledged, and the resumed run has seen no event of the end.
#[test]
fn a_resumed_run_sees_that_a_process_has_left_a_task_whose_message_is_still_there() {
    let sites = "[sites.shop]\ntimeout = \"80s\"\ndispatch = { task = \"workshop.last\" }\n";
    for attempt in 1.. {
        let project = workshop(OWN, "grace = \"300ms\"\nquit_grace = \"300ms\"\n", sites);
        let up = Up::start(&project);
        fs::write(project.file("redis"), up.redis.to_string()).unwrap();
        let run = project.orch(&["run"]);
        project.wait_for_file("last");
        run.signal(Signal::SIGKILL);
        assert!(run.finish().left.is_empty());
        wait_until("the next Redis", || redis_answers(up.port));
        // Redis may have been back in time for the worker's second attempt.
        if !worker_logs(&project).contains("Exception raised outside body") {
            up.end();
            assert!(attempt < 10, "Redis was back in time each time");
            continue;
        }
        let ended = ends_soon(project.orch(&["run", "--resume"]));
        ended.expect_code(0);
        up.end();
        return;
    }
}

fn redis_answers(port: u64) -> bool {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0")).unwrap();
    let pong = client
        .get_connection()
        .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
    pong.is_ok()
}

/// Takes the next message as a worker does that dies before the event of the receipt.
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
    let run = project.orch(&["run"]);
    theirs.wait_for_file("late");
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
    project.wait_for_file("begun");
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
        let run = project.orch(&["run"]);
        project.wait_for_file("begun");
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
    project.wait_for_file("late");
    kill_process(Pid::from_raw(i32::try_from(worker).unwrap()));
    let ended = ends_soon(run);
    ended.expect_code(0);
    reports_restored(&ended);
    let sum = (0..TASKS).sum::<usize>() as u64;
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], sum);
    somebody.end();
}
