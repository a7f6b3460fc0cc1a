//! The Celery worker and beat as services: found, refused, reused, configured, stopped.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project};

const OWN: &str = "mode = \"own\"\nport = 0";

/// Creates a project of the workshop app; `celery` are further lines of its section, `call` is the dispatch of its one
/// site.
fn workshop(redis: &str, celery: &str, call: &str) -> Project {
    bookshop::project_with(
        "workshop",
        &format!(
            "[redis]\n{redis}\n[celery]\napp = \"workshop\"\nconcurrency = 1\n{celery}\n\
             [sites.shop]\ndispatch = {call}\n"
        ),
    )
}

fn call(task: &str, args: &str) -> String {
    format!("{{ task = \"workshop.{task}\", args = [{args}] }}")
}

/// Returns the call that appends a line to the file `done`.
fn append() -> String {
    call("append", "\"done\", \"{site}\"")
}

fn lines(project: &Project, file: &str) -> Vec<String> {
    let text = fs::read_to_string(project.file(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn shown(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

/// Starts an instance that serves as that of another owner; returns the port of its Redis too.
fn up(project: &Project) -> (Orch<'_>, u16) {
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", "celery");
    let ready = orch.wait_for_service("service_ready", "redis");
    let (_, port) = ready["detail"].as_str().unwrap().rsplit_once(':').unwrap();
    (orch, port.parse().unwrap())
}

/// Asserts that nothing of the instance was touched so far, and ends it.
fn unharmed(mut orch: Orch<'_>) {
    let touched = |event: &Value| event["event"] == "service_exited" || event["event"] == "service_unhealthy";
    assert!(!orch.events().iter().any(touched), "{:#?}", orch.events());
    orch.signal(Signal::SIGTERM);
    orch.wait_for("its stop", |event| event["event"] == "stop_started");
    orch.finish().expect_code(143);
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap()
}

#[test]
fn an_app_that_cannot_be_imported_is_shown_with_the_end_of_its_log() {
    let project = workshop(OWN, "", &append());
    fs::write(project.file("workshop.py"), "import a_module_that_is_not_there\n").unwrap();
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(3);
    let shown = shown(&ended);
    assert!(shown.contains("exit code"), "{shown}");
    assert!(
        shown.contains("ModuleNotFoundError") && shown.contains("a_module_that_is_not_there"),
        "{shown}"
    );
    assert!(shown.contains("celery.log"), "{shown}");
    assert!(shown.contains("-A workshop worker"), "{shown}");
}

#[test]
fn an_app_with_a_broker_of_its_own_is_refused_long_before_the_deadline() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("redis://{nobody}/0");
    let project = workshop(OWN, "start_timeout = \"10m\"", &append());
    let ended = project
        .orch_with(&["run"], &[("WORKSHOP_BROKER", &url)], Duration::from_secs(15))
        .finish();
    ended.expect_code(2);
    let (shown, ours) = (shown(&ended), redis_address(&ended));
    assert!(shown.contains(&nobody.to_string()), "{shown}");
    assert!(shown.contains(&ours), "{ours} is not in {shown}");
}

#[test]
fn an_app_with_a_broker_that_is_no_redis_is_refused() {
    let project = workshop(OWN, "start_timeout = \"10m\"", &append());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("amqp://guest@{nobody}//");
    let ended = project
        .orch_with(&["run"], &[("WORKSHOP_BROKER", &url)], Duration::from_secs(15))
        .finish();
    ended.expect_code(2);
    assert!(shown(&ended).contains(&format!("@{nobody}")), "{}", shown(&ended));
}

fn redis_address(ended: &Ended) -> String {
    let ready = ended.events_of("service_ready");
    let redis = ready.iter().find(|event| event["service"] == "redis").unwrap();
    redis["detail"].as_str().unwrap().rsplit_once(' ').unwrap().1.to_owned()
}

#[test]
fn an_app_with_another_database_of_the_same_server_is_refused() {
    let theirs = workshop(&format!("{OWN}\nauth = false"), "enabled = false", &append());
    let mut somebody = theirs.orch(&["up"]);
    let ready = somebody.wait_for_service("service_ready", "redis");
    let address = ready["detail"].as_str().unwrap().rsplit_once(' ').unwrap().1.to_owned();
    let (_, port) = address.rsplit_once(':').unwrap();
    let project = workshop(&format!("port = {port}"), "start_timeout = \"10m\"", &append());
    let url = format!("redis://{address}/5");
    let ended = project
        .orch_with(&["run"], &[("WORKSHOP_BROKER", &url)], Duration::from_secs(15))
        .finish();
    ended.expect_code(2);
    let shown = shown(&ended);
    assert!(shown.contains(&url), "{shown}");
    assert!(shown.contains(&format!("redis://{address}/0")), "{shown}");
    unharmed(somebody);
}

#[test]
fn a_task_that_the_worker_does_not_know_is_named_with_its_nearest() {
    let project = workshop(OWN, "required_tasks = [\"workshop.prefech\"]", &call("apend", ""));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(2);
    let shown = shown(&ended);
    for name in [
        "`workshop.apend`",
        "`workshop.append`",
        "`workshop.prefech`",
        "`workshop.prefetch`",
    ] {
        assert!(shown.contains(name), "{name} is not in {shown}");
    }
}

#[test]
fn a_healthy_worker_of_the_same_app_is_reused_and_left_alone() {
    let theirs = workshop(&format!("{OWN}\nauth = false"), "", &append());
    let (mut somebody, port) = up(&theirs);
    let celery = somebody.wait_for_service("service_ready", "celery");
    let project = workshop(&format!("port = {port}"), "", &append());
    for runs in 1..=2 {
        let ended = project.orch(&["run"]).finish();
        ended.expect_code(0);
        let reused: Vec<&str> = ended
            .events_of("service_reused")
            .iter()
            .filter_map(|event| event["service"].as_str())
            .collect();
        assert_eq!(reused, ["redis", "celery"], "{}", ended.stdout);
        assert!(ended.events_of("service_spawned").is_empty(), "{}", ended.stdout);
        // The worker of the other project did the work, in its directory.
        assert_eq!(lines(&theirs, "done").len(), runs);
    }
    let pid = somebody.wait_for_service("service_spawned", "celery")["pid"]
        .as_i64()
        .unwrap();
    assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "{celery}");
    unharmed(somebody);
}

#[test]
fn a_worker_of_another_app_is_not_mistaken_for_ours() {
    // Both instances are named `orch`, on one host and one Redis: their nodes must not share a name.
    let theirs = bookshop::project_with(
        "hard_wired",
        &format!(
            "[redis]\n{OWN}\nauth = false\n[celery]\napp = \"hard_wired\"\nqueues = [\"theirs\"]\nconcurrency = 1\n"
        ),
    );
    let (mut somebody, port) = up(&theirs);
    let project = workshop(&format!("port = {port}"), "", &append());
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    assert_eq!(lines(&project, "done"), ["shop"]);
    let reused = ended.events_of("service_reused");
    assert!(reused.iter().all(|event| event["service"] == "redis"), "{reused:?}");
    let node = |events: &[Value]| -> String {
        let ready = events
            .iter()
            .find(|event| event["event"] == "service_ready" && event["service"] == "celery");
        ready.unwrap()["detail"]
            .as_str()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let nodes: BTreeSet<String> = [node(&ended.events), node(&somebody.events())].into();
    assert_eq!(nodes.len(), 2, "one name for two workers: {nodes:?}");
    assert!(nodes.iter().all(|node| node.starts_with("orch")), "{nodes:?}");
    somebody.wait_for_service("service_ready", "celery");
    unharmed(somebody);
}

#[test]
fn a_worker_that_would_take_our_tasks_without_knowing_them_is_warned_of() {
    let theirs = bookshop::project_with(
        "hard_wired",
        &format!("[redis]\n{OWN}\nauth = false\n[celery]\napp = \"hard_wired\"\nconcurrency = 1\n"),
    );
    let (somebody, port) = up(&theirs);
    let project = workshop(&format!("port = {port}"), "", &append());
    let mut orch = project.orch(&["run"]);
    orch.wait_for("the warning", |event| {
        event["event"] == "worker_problem_found" && event["problem"]["of_another_app"]["queue"] == "celery"
    });
    orch.signal(Signal::SIGTERM);
    assert!(orch.finish().left.is_empty());
    unharmed(somebody);
}

fn beat_ticks(celery: &str, service: &str) {
    let project = workshop(
        OWN,
        &format!("beat_schedule = \"made by/orch/schedule\"\n{celery}\n[celery.env]\nWORKSHOP_TICKS = \"1\""),
        &append(),
    );
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", service);
    let ticks = project.file("ticks");
    orch.wait_until("a tick", || ticks.exists());
    assert!(project.file("made by/orch").read_dir().unwrap().next().is_some());
    orch.signal(Signal::SIGINT);
    orch.finish().expect_code(130);
    // Again, with the schedule that exists now.
    fs::remove_file(&ticks).unwrap();
    let mut orch = project.orch(&["up"]);
    orch.wait_for_service("service_ready", service);
    orch.wait_until("a tick", || ticks.exists());
    orch.signal(Signal::SIGINT);
    orch.finish().expect_code(130);
}

#[test]
fn embedded_beat_runs_what_is_scheduled() {
    beat_ticks("beat = \"embedded\"", "celery");
}

/// Shows that the processes which the main process of a killed worker leaves end before the next worker begins:
/// otherwise everything would be scheduled twice.
#[test]
fn an_embedded_beat_ends_with_its_worker_before_the_next_one_begins() {
    let project = workshop(
        OWN,
        "beat = \"embedded\"\n[celery.env]\nWORKSHOP_TICKS = \"1\"",
        &append(),
    );
    let mut orch = project.orch(&["up"]);
    let mut killed = 0;
    for beats in 1..=3 {
        orch.wait_until("a beat", || lines(&project, "beats").len() == beats);
        let before = lines(&project, "ticks").len();
        orch.wait_until("ticks", || lines(&project, "ticks").len() > before + 1);
        let worker = orch.wait_for("a worker that is ready", |event| {
            event["event"] == "service_ready" && event["service"] == "celery" && seq(event) > killed
        });
        let records = lines(&project, "beats");
        let living = records.iter().filter(|line| {
            let pid = line.split(' ').next().unwrap();
            Path::new("/proc").join(pid).exists()
        });
        assert_eq!(living.count(), 1, "{records:?}");
        if beats < 3 {
            let spawned = orch.events();
            let spawned = spawned
                .iter()
                .rfind(|event| event["event"] == "service_spawned" && event["service"] == "celery");
            let pid = i32::try_from(spawned.unwrap()["pid"].as_i64().unwrap()).unwrap();
            killed = seq(&worker);
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    }
    orch.signal(Signal::SIGTERM);
    orch.finish().expect_code(143);
    let records = lines(&project, "beats");
    assert!(records.iter().all(|line| line.ends_with(" alone")), "{records:?}");
}

#[test]
fn separate_beat_runs_what_is_scheduled() {
    beat_ticks("beat = \"separate\"", "beat");
}

#[test]
fn separate_beat_is_ready_at_any_log_level() {
    beat_ticks("beat = \"separate\"\nlog_level = \"ERROR\"", "beat");
}

#[test]
fn a_beat_that_cannot_read_its_app_is_an_error() {
    let project = workshop(OWN, "beat = \"separate\"", &append());
    let app = fs::read_to_string(project.file("workshop.py")).unwrap();
    let broken = format!("import sys\nif 'beat' in sys.argv:\n    raise SystemExit('no beat today')\n{app}");
    fs::write(project.file("workshop.py"), broken).unwrap();
    let ended = project.orch(&["up"]).finish();
    ended.expect_code(3);
    assert!(shown(&ended).contains("no beat today"), "{}", shown(&ended));
}

/// Sends Ctrl+C while a task of this length runs; returns whether the task ended, and the end of orch.
fn interrupted_task(seconds: u32, celery: &str) -> (bool, Ended) {
    let project = workshop(OWN, celery, &call("work", &seconds.to_string()));
    let orch = project.orch(&["run"]);
    let begun = project.file("begun");
    orch.wait_until("the task", || begun.exists());
    orch.signal(Signal::SIGINT);
    let ended = orch.finish();
    ended.expect_code(130);
    let took = ended.events_of("stop_finished")[0]["elapsed_ms"].as_u64().unwrap();
    let bound = ended.events_of("stop_started")[0]["bound_ms"].as_u64().unwrap();
    assert!(took <= bound, "took {took} ms, bound {bound} ms");
    (project.file("ended").exists(), ended)
}

#[test]
fn a_running_task_is_finished_within_the_grace() {
    let (finished, ended) = interrupted_task(2, "grace = \"20s\"");
    assert!(finished, "{}", ended.stdout);
}

#[test]
fn a_task_that_outlasts_the_grace_is_cut() {
    let started = Instant::now();
    let (finished, ended) = interrupted_task(60, "grace = \"500ms\"\nquit_grace = \"500ms\"");
    assert!(!finished, "{}", ended.stdout);
    assert!(started.elapsed() < Duration::from_secs(55), "{:?}", started.elapsed());
}

#[test]
fn a_task_sees_what_orch_sets_over_the_configuration_over_the_caller_over_the_file() {
    let names = ["FROM_FILE", "FROM_CALLER", "FROM_CONFIGURATION", "REDIS_HOST"];
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let project = workshop(
        OWN,
        "[celery.env]\nFROM_CONFIGURATION = \"configuration\"",
        &call("environment", &format!("[{}]", quoted.join(","))),
    );
    let everywhere = |source: &str, from: usize| -> Vec<(&str, String)> {
        names[from..].iter().map(|name| (*name, source.to_owned())).collect()
    };
    let file: Vec<String> = everywhere("file", 0)
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    fs::write(project.file(".env"), file.concat()).unwrap();
    let configuration = fs::read_to_string(project.file("orch.toml")).unwrap();
    fs::write(
        project.file("orch.toml"),
        format!("[orch]\nenv_file = \".env\"\n{configuration}"),
    )
    .unwrap();
    let caller = everywhere("caller", 1);
    let caller: Vec<(&str, &str)> = caller.iter().map(|(name, value)| (*name, value.as_str())).collect();
    project
        .orch_with(&["run"], &caller, Duration::from_secs(15))
        .finish()
        .expect_code(0);
    let seen = [
        "FROM_FILE=file",
        "FROM_CALLER=caller",
        "FROM_CONFIGURATION=configuration",
        "REDIS_HOST=127.0.0.1",
    ];
    assert_eq!(lines(&project, "environment"), seen);
}

#[test]
fn a_variable_that_only_an_unread_env_file_has_is_named_with_the_cure() {
    let project = workshop(OWN, "", &call("variable", "\"WORKSHOP_KEY\""));
    let cure = "has `WORKSHOP_KEY`, but is not read: set `[orch] env_file = \".env\"` to read it";
    let run = |variables: &str| {
        fs::write(project.file(".env"), variables).unwrap();
        project.orch(&["run"]).finish()
    };
    // A task lacks the variable.
    let ended = run("WORKSHOP_KEY=secret\n");
    ended.expect_code(1);
    assert!(shown(&ended).contains(cure), "{}", shown(&ended));
    // The app lacks the variable when it is imported.
    fs::write(project.file("needs"), "WORKSHOP_KEY").unwrap();
    let ended = run("export WORKSHOP_KEY=secret\n");
    ended.expect_code(3);
    assert!(
        shown(&ended).contains(&format!("hint:  {} {cure}", project.file(".env").display())),
        "{}",
        shown(&ended)
    );
    assert!(!shown(&ended).contains("secret"), "{}", shown(&ended));
    let ended = run("ANOTHER_KEY=secret\n");
    ended.expect_code(3);
    assert!(!shown(&ended).contains("env_file"), "{}", shown(&ended));
}

#[test]
fn credentials_of_another_redis_are_not_handed_on() {
    let project = workshop(
        &format!("{OWN}\nauth = false"),
        "",
        &call("environment", "[\"REDIS_PASSWORD\", \"REDIS_USERNAME\"]"),
    );
    let stale = [("REDIS_PASSWORD", "production's"), ("REDIS_USERNAME", "production")];
    let ended = project.orch_with(&["run"], &stale, Duration::from_secs(15)).finish();
    ended.expect_code(0);
    assert_eq!(
        lines(&project, "environment"),
        ["REDIS_PASSWORD=None", "REDIS_USERNAME=None"]
    );
}

#[test]
fn leftovers_of_a_stopped_run_are_removed_before_a_worker_could_run_them() {
    let project = workshop(OWN, "grace = \"200ms\"\nquit_grace = \"2s\"", &call("flood", "5, 60"));
    let first = project.orch(&["run"]);
    let begun = project.file("begun");
    first.wait_until("the flood", || begun.exists());
    first.signal(Signal::SIGINT);
    first.finish().expect_code(130);

    let configuration = fs::read_to_string(project.file("orch.toml")).unwrap();
    let calm = configuration.replace(&call("flood", "5, 60"), &call("kept", ""));
    fs::write(project.file("orch.toml"), calm).unwrap();
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let left = ended.events_of("leftovers_found");
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!(left["removed"], true, "{left}");
    // The five, and the flood if its message was given back.
    let queued = left["queued"].as_u64().unwrap() + left["unacked"].as_u64().unwrap();
    assert!((5..=6).contains(&queued), "{left}");
    let spawned = ended.events_of("service_spawned");
    let worker = spawned.iter().find(|event| event["service"] == "celery").unwrap();
    assert!(seq(left) < seq(worker));
    assert!(lines(&project, "flooded").is_empty(), "an old task has run");
    // Another key of the app is still in both databases.
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], 2);
}

#[test]
fn settings_reach_the_worker() {
    let project = workshop(
        OWN,
        "[celery.settings]\n\"worker_prefetch_multiplier\" = 7",
        &call("prefetch", ""),
    );
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    assert_eq!(ended.events_of("site_finished")[0]["counts"]["results"], 7);
}

#[test]
fn a_solo_worker_that_works_is_not_taken_for_dead() {
    let liveness = "[celery.liveness]\ninterval = \"200ms\"\ntimeout = \"200ms\"\nfailures = 1";
    let project = workshop(OWN, &format!("pool = \"solo\"\n{liveness}"), &call("work", "5"));
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    assert!(ended.events_of("service_restarting").is_empty(), "{}", ended.stdout);
    assert!(ended.events_of("service_unhealthy").is_empty(), "{}", ended.stdout);
    assert_eq!(lines(&project, "ended").len(), 1);
}
