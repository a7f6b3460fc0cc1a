//! `orch status`, `orch events` and `orch list`: observation of runs from other processes.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::fs::{self, File};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::bookshop;
use support::orch::{Ended, Orch, Project, is_stopped, wait_until};
use support::skip::skip;

/// Service that listens on a port of its own choice.
const WEB: &str = r#"
[services.web]
kind = "daemon"
command = ["python3", "-c", '''
import os, socket, time
server = socket.create_server(("127.0.0.1", 0))
with open("port.new", "w") as file:
    file.write(str(server.getsockname()[1]))
os.rename("port.new", "port")
time.sleep(600)
''']
readiness = { file = "port" }
"#;

/// Returns a service that ignores the request to stop.
fn stubborn(grace: &str) -> String {
    format!(
        r#"
[services.stubborn]
kind = "daemon"
command = ["python3", "-c", '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("ignoring.new", "w").close()
os.rename("ignoring.new", "ignoring")
time.sleep(600)
''']
readiness = {{ file = "ignoring" }}
grace = "{grace}"
"#
    )
}

fn project(services: &str) -> Project {
    Project::new(&format!(
        "[orch]\ninstance = \"shop\"\n[redis]\nmode = \"off\"\n{services}"
    ))
}

fn ask(project: &Project, arguments: &[&str]) -> Ended {
    project.orch_bare(arguments).finish()
}

/// Asserts the exit code and that the output contains these texts; returns the output.
#[track_caller]
fn expect(ended: &Ended, code: i32, texts: &[&str]) -> String {
    ended.expect_code(code);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    for text in texts {
        assert!(all.contains(text), "`{text}` is not in\n{all}");
    }
    all
}

fn object(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

fn stop(orch: Orch<'_>) -> Ended {
    orch.signal(Signal::SIGTERM);
    orch.finish()
}

/// Writes the journal of a run, and its directory.
fn write_run(project: &Project, run_id: &str, events: &[Value]) -> std::path::PathBuf {
    let directory = project.state_dir().join("runs").join(run_id);
    fs::create_dir_all(&directory).unwrap();
    let mut lines = String::new();
    for (number, event) in (1..).zip(events) {
        let mut line = json!({"seq": number, "at": 1_790_000_000.0 + f64::from(number), "elapsed": f64::from(number)});
        line.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        lines.push_str(&format!("{line}\n"));
    }
    fs::write(directory.join("journal.jsonl"), lines).unwrap();
    directory
}

fn started(run_id: &str, sites: &[String]) -> Value {
    json!({
        "event": "run_started", "format": 1, "run_id": run_id, "command": "run", "version": "0", "instance": "shop",
        "config": "orch.toml", "directory": "/nowhere", "pid": 1, "guard_pid": 1, "services": [], "sites": sites,
    })
}

#[test]
fn an_instance_that_is_up_is_shown_with_its_processes_and_its_end() {
    let project = project(WEB);
    expect(&ask(&project, &["status"]), 3, &["nothing runs in "]);
    assert!(!project.state_dir().exists(), "a look creates nothing");
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "web");
    let port = fs::read_to_string(project.file("port")).unwrap();
    let text = expect(
        &ask(&project, &["status"]),
        0,
        &[
            "shop (orch up, run ",
            "all well; pid ",
            "SERVICE",
            "web",
            "ready",
            &port,
        ],
    );
    assert!(text.contains(&up.pid.to_string()) && !text.contains('\x1b'), "{text}");
    let status = object(&ask(&project, &["status", "--json"]));
    assert_eq!(
        (&status["well"], &status["runs"][0]["life"]),
        (&json!(true), &json!("active"))
    );
    let used = &status["runs"][0]["service_use"]["web"];
    assert_eq!(used["ports"], json!([port.parse::<u16>().unwrap()]), "{used}");
    assert!(
        used["rss_bytes"].as_u64() > Some(1 << 20) && used["processes"] == 1,
        "{used}"
    );
    expect(
        &ask(&project, &["status", "web"]),
        0,
        &["service web: ready since ", "port ", "web.log"],
    );
    expect(
        &ask(&project, &["status", "wep"]),
        2,
        &["no service or site is named `wep`", "did you mean `web`?"],
    );
    expect(
        &ask(&project, &["status", "--run", "nobody"]),
        2,
        &["there is no run nobody in "],
    );
    stop(up).expect_code(143);
    let text = expect(
        &ask(&project, &["status"]),
        3,
        &["nothing runs in ", "ended at ", "terminated after "],
    );
    assert!(!text.contains("SERVICE"), "{text}");
    let run_id = object(&ask(&project, &["status", "--json"]))["runs"][0]["header"]["run_id"].clone();
    let start = &run_id.as_str().unwrap()[..6];
    expect(&ask(&project, &["status", "--run", start]), 3, &["SERVICE", "stopped"]);
}

#[test]
fn a_failing_service_is_named_and_a_suspended_orch_too() {
    let project = project(
        "[services.bad]\nkind = \"daemon\"\ncommand = [\"sh\", \"-c\", \"sleep 0.2; exit 7\"]\n\
         restart = { limit = 100000, backoff = \"10s\", backoff_max = \"10s\" }\n",
    );
    let mut up = project.orch(&["up"]);
    // The first restart is at once.
    up.wait_for("a delayed restart", |event| {
        event["event"] == "service_restarting" && event["attempt"] == 2
    });
    expect(
        &ask(&project, &["status"]),
        1,
        &[
            "not all well",
            "! service bad has ended and is started again",
            "restarting",
        ],
    );
    expect(
        &ask(&project, &["status", "bad"]),
        1,
        &["service bad: restarting", "2 restarts"],
    );
    kill(Pid::from_raw(up.pid), Signal::SIGSTOP).unwrap();
    wait_until("orch is suspended", || is_stopped(up.pid));
    expect(&ask(&project, &["status"]), 1, &["orch is suspended"]);
    kill(Pid::from_raw(up.pid), Signal::SIGCONT).unwrap();
    stop(up).expect_code(143);
}

#[test]
fn a_dead_orch_is_shown_while_its_guard_stops_the_services_and_afterwards() {
    let project = project(&stubborn("4s"));
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "stubborn");
    let watch = project.orch_bare(&["status", "--watch"]);
    let events = project.orch_bare(&["events", "-f", "--type", "run_started,service_ready,run_finished"]);
    let pid = up.pid;
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until("the guard has noticed", || {
        let shown = ask(&project, &["status"]);
        assert_ne!(shown.code, Some(0), "{}", shown.stdout);
        shown.stdout.contains("orch has died at ")
    });
    let shown = ask(&project, &["status"]);
    expect(
        &shown,
        1,
        &["orch has died at ", "; its guard (pid ", " ends its processes, within "],
    );
    assert_eq!(
        object(&ask(&project, &["status", "--json"]))["runs"][0]["life"],
        "ended_by_guard"
    );
    let listed = object(&ask(&project, &["list", "--json"]));
    let own = own_instances(&listed, &project);
    assert_eq!((own.len(), &own[0]["life"]), (1, &json!("ended_by_guard")), "{listed}");
    let killed = up.finish();
    assert!(killed.left.is_empty(), "{:?}", killed.left);
    // The watches end with the run, not by a signal.
    let watched = watch.finish();
    expect(&watched, 3, &["all well", "orch died at "]);
    let events = events.finish();
    events.expect_code(0);
    assert_eq!(events.stdout.lines().count(), 2, "{}", events.stdout);
    expect(
        &ask(&project, &["status"]),
        3,
        &["nothing runs in ", "orch died at ", "none of its processes is left"],
    );
}

fn own_instances<'v>(listed: &'v Value, project: &Project) -> Vec<&'v Value> {
    let state_dir = project.state_dir().canonicalize().unwrap();
    let instances = listed["instances"].as_array().unwrap().iter();
    instances
        .filter(|instance| {
            let named = instance["state_dir"].as_str().map(fs::canonicalize);
            named.is_some_and(|named| named.is_ok_and(|named| named == state_dir))
        })
        .collect()
}

#[test]
fn all_instances_of_the_user_are_listed() {
    let projects = [project(WEB), project(WEB)];
    let mut ups: Vec<Orch<'_>> = projects.iter().map(|project| project.orch(&["up"])).collect();
    for up in &mut ups {
        up.wait_for_service("service_ready", "web");
    }
    let listed = ask(&projects[0], &["list", "--json"]);
    let listed = object(&listed);
    for (project, up) in projects.iter().zip(&ups) {
        let own = own_instances(&listed, project);
        assert_eq!(own.len(), 1, "{listed}");
        let expected = json!({"instance": "shop", "command": "up", "pid": up.pid, "well": true, "state": "all well"});
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&own[0][name], value, "{listed}");
        }
    }
    // Other tests have instances, too.
    let text = ask(&projects[1], &["list"]);
    expect(&text, 0, &["INSTANCE", "orch up", "all well"]);
    for up in ups {
        stop(up).expect_code(143);
    }
    let listed = object(&ask(&projects[0], &["list", "--json"]));
    assert!(own_instances(&listed, &projects[0]).is_empty(), "{listed}");
}

#[test]
fn a_watch_shows_changes_and_ends_with_ctrl_c() {
    let project = project(WEB);
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "web");
    let watch = project.shell("exec \"$ORCH\" status --watch --json > watched");
    let lines = || {
        fs::read_to_string(project.file("watched"))
            .unwrap_or_default()
            .lines()
            .count()
    };
    wait_until("the first look", || lines() == 1);
    let pid = i32::try_from(
        up.events()
            .iter()
            .find(|event| event["event"] == "service_spawned")
            .unwrap()["pid"]
            .as_i64()
            .unwrap(),
    );
    kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
    let begun = Instant::now();
    wait_until("the death of the service is shown", || {
        fs::read_to_string(project.file("watched"))
            .unwrap()
            .contains("\"restarts\":1")
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    watch.signal(Signal::SIGINT);
    watch.finish().expect_code(0);
    for line in fs::read_to_string(project.file("watched")).unwrap().lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let watch = project.orch_bare(&["status", "--watch"]);
    let events = project.orch_bare(&["events", "-f"]);
    stop(up).expect_code(143);
    expect(&watch.finish(), 3, &["ended at "]);
    let events = events.finish();
    events.expect_code(0);
    assert!(
        events.stdout.lines().last().unwrap().contains("run_finished"),
        "{}",
        events.stdout
    );
}

#[test]
fn the_journal_is_printed_as_it_was_written_and_unknown_types_are_refused() {
    let project = project(WEB);
    expect(&ask(&project, &["events"]), 3, &["there is no run in "]);
    expect(
        &ask(&project, &["events", "--type", "service_redy"]),
        2,
        &["no event has the type `service_redy`", "similar types: service_ready"],
    );
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "web");
    let journal = up.run_directory().unwrap().join("journal.jsonl");
    assert_eq!(ask(&project, &["events"]).stdout, fs::read_to_string(journal).unwrap());
    let ready = ask(&project, &["events", "--type", "service_ready,run_started"]);
    assert_eq!(ready.stdout.lines().count(), 2, "{}", ready.stdout);
    // The reader goes after one line; the command ends without a word.
    let piped = project.shell("(\"$ORCH\" events -f 2> said; echo $? > code) | head -n 1 > line");
    piped.finish().expect_code(0);
    let read = |name: &str| fs::read_to_string(project.file(name)).unwrap();
    assert_eq!((read("said").as_str(), read("code").as_str()), ("", "0\n"));
    assert!(read("line").contains("run_started"));
    stop(up).expect_code(143);
}

#[test]
fn a_night_beside_an_instance_that_is_up_is_shown_with_both_runs() {
    let configuration = "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 2\n\
         [sites.books]\ndispatch = { task = \"chaos.dispatch\", kwargs = { site = \"{site}\", job_id = \"{job_id}\", \
         chunks = 60, seconds = 20.0, ledger = \"ledger.books\" } }\n";
    let project = bookshop::project_with("chaos_app", configuration);
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    let mut run = project.orch(&["run"]);
    run.wait_for("a job", |event| event["event"] == "site_job_started");
    let shown = ask(&project, &["status"]);
    let text = expect(
        &shown,
        0,
        &[
            "(orch up, run ",
            "(orch run, run ",
            "redis",
            "celery",
            "books",
            "RUNNING",
        ],
    );
    assert_eq!(text.matches("all well").count(), 2, "{text}");
    let status = object(&ask(&project, &["status", "--json"]));
    assert_eq!(status["runs"].as_array().unwrap().len(), 2, "{status}");
    let worker = status["runs"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|run| run["service_use"].get("celery"));
    assert!(worker.unwrap()["processes"].as_u64() >= Some(3), "{status}");
    expect(
        &ask(&project, &["status", "books"]),
        0,
        &["site books: RUNNING after ", "job ", "orch logs site:books"],
    );
    let events = ask(&project, &["events", "--type", "run_started"]);
    assert!(events.stdout.contains("\"command\":\"run\""), "{}", events.stdout);
    run.signal(Signal::SIGINT);
    run.finish().expect_code(130);
    let text = expect(&ask(&project, &["status"]), 0, &["(orch up, run "]);
    assert!(!text.contains("(orch run, "), "{text}");
    stop(up).expect_code(143);
}

#[test]
fn of_thousands_of_sites_the_worst_are_shown_and_wide_names_are_cut() {
    let project = project("");
    let wide = format!("{}-{}", "書店".repeat(40), "x".repeat(40));
    let mut sites: Vec<String> = (0..5000).map(|number| format!("shop-{number:04}")).collect();
    sites.push(wide.clone());
    let mut events = vec![started("many", &sites)];
    let ended = |site: &str, status: &str, reason: Option<&str>| json!({"event": "site_finished", "site": site, "status": status, "counts": {}, "elapsed_ms": 5, "reason": reason});
    events.extend(sites.iter().take(4990).map(|site| ended(site, "complete", None)));
    for site in ["shop-4999", &wide] {
        events.push(ended(site, "failed", Some("it raised ValueError\nfurther\x1b[2J")));
    }
    let journal = write_run(&project, "many", &events).join("journal.jsonl");
    // The lock on the journal makes the run an active one.
    let journal = File::open(journal).unwrap();
    journal.lock().unwrap();
    let begun = Instant::now();
    let shown = ask(&project, &["status"]);
    let elapsed = begun.elapsed();
    let text = expect(
        &shown,
        1,
        &[
            "2 sites failed: shop-4999, ",
            "4992 of 5001 sites ended",
            "it raised ValueError",
            "+4982 more sites",
        ],
    );
    assert!(text.lines().count() < 35 && !text.contains('\x1b'), "{text}");
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    let width = text
        .lines()
        .filter(|line| line.contains("FAILED"))
        .map(|line| line.chars().count())
        .max();
    assert!(width < Some(120), "{text}");
    assert_eq!(
        object(&ask(&project, &["status", "--json"]))["runs"][0]["sites"]
            .as_array()
            .unwrap()
            .len(),
        5001
    );
    expect(
        &ask(&project, &["status", "shop-4999"]),
        1,
        &["site shop-4999: FAILED", "it raised ValueError"],
    );
    expect(&ask(&project, &["status", "shop-0001"]), 0, &["COMPLETE"]);
    drop(journal);
    expect(
        &ask(&project, &["status"]),
        3,
        &["nothing runs in ", "orch died after "],
    );
}

#[test]
fn the_directory_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can make another user's directory");
        return;
    }
    let project = project("");
    write_run(&project, "theirs", &[started("theirs", &[])]);
    nix::unistd::chown(&project.state_dir().join("runs"), Some(65_534.into()), None).unwrap();
    for command in ["status", "events", "logs"] {
        expect(&ask(&project, &[command]), 3, &["belongs to user 65534"]);
    }
}
