//! Runs of two state directories, as of two hosts, that share a broker: they never work on one site at the same time,
//! even if a run is refused, stopped or killed.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Ended, Orch, Project};
use support::redis::RedisServer;

const LEASE_KEY: &str = "orch:orch:lease:shop";

/// Creates the project of one host: the site `shop` works until the file `finish` exists, `stall` ends at once. Each
/// host has a queue of its own, so that each task shows which worker executes it.
fn host(redis: &RedisServer, queue: &str, lease: &str) -> Project {
    let configuration = format!(
        "[orch]\nlease = \"{lease}\"\n[redis]\nmode = \"external\"\nport = {}\n\
         [celery]\napp = \"workshop\"\nqueues = [\"{queue}\"]\nconcurrency = 1\nreuse = false\n\
         grace = \"1s\"\nquit_grace = \"1s\"\n\
         [sites.shop]\ndispatch = {{ task = \"workshop.wait\", args = [\"finish\"] }}\n\
         [sites.stall]\ndispatch = {{ task = \"workshop.append\", args = [\"done\", \"{{site}}\"] }}\n",
        redis.port
    );
    bookshop::project_with("workshop", &configuration)
}

fn wait_until_begun(orch: &mut Orch<'_>, project: &Project) {
    let begun = project.file("begun");
    orch.wait_until("the task", || begun.exists());
}

fn finish(project: &Project) {
    fs::write(project.file("finish"), "").unwrap();
}

fn run_id(events: &[Value]) -> String {
    events[0]["run_id"].as_str().unwrap().to_owned()
}

fn lease(redis: &RedisServer) -> Option<Value> {
    let value: Option<String> = redis::cmd("GET")
        .arg(LEASE_KEY)
        .query(&mut redis.connection(0))
        .unwrap();
    value.map(|value| serde_json::from_str(&value).unwrap())
}

fn site_finished<'e>(ended: &'e Ended, site: &str) -> &'e Value {
    let events = ended.events_of("site_finished");
    let found = events.into_iter().find(|event| event["site"] == site);
    found.unwrap_or_else(|| panic!("{site} has no end: {:#?}", ended.events))
}

/// Decides whether the event reports that the site `shop` waits for another run.
fn waits_for_run(event: &Value) -> bool {
    event["event"] == "site_lease_awaited" && event["site"] == "shop" && event["holder"]["run"].is_object()
}

#[test]
fn a_held_site_is_refused_with_75_left_out_with_1_or_waited_for() {
    let redis = RedisServer::start();
    let (first, second) = (host(&redis, "first", "30s"), host(&redis, "second", "30s"));
    let mut holder = first.orch(&["run", "--sites", "shop"]);
    wait_until_begun(&mut holder, &first);
    let id = run_id(&holder.events());

    for arguments in [
        &["run", "--sites", "shop"][..],
        &["run", "--sites", "shop", "--wait", "100ms"],
    ] {
        let refused = second.orch(arguments).finish();
        refused.expect_code(75);
        let host = nix::unistd::gethostname().unwrap();
        let shown = format!("{}{}", refused.stdout, refused.stderr);
        for word in [
            "shop",
            &id,
            host.to_str().unwrap(),
            &format!("pid {}", holder.pid),
            "since 20",
            "--wait",
        ] {
            assert!(shown.contains(word), "{word} is not in {shown}");
        }
        // A worker that is started without work would only take the tasks of the other run.
        assert!(refused.events_of("service_starting").is_empty(), "{shown}");
        assert_eq!(refused.events.last().unwrap()["outcome"], "busy");
    }

    let partly = second.orch(&["run"]).finish();
    partly.expect_code(1);
    let left_out = site_finished(&partly, "shop");
    assert_eq!(left_out["status"], "failed");
    let reason = left_out["reason"].as_str().unwrap();
    assert!(
        reason.starts_with(&format!("it is held by run {id} on host ")),
        "{reason}"
    );
    assert_eq!(site_finished(&partly, "stall")["status"], "complete");

    let mut waiting = second.orch(&["run", "--sites", "shop", "--wait", "2m"]);
    waiting.wait_for("the wait", |event| {
        event["event"] == "free_site_awaited"
            && event["held"][0]["sites"] == json!(["shop"])
            && event["held"][0]["holder"]["run"]["run_id"] == id.as_str()
    });
    assert!(lease(&redis).unwrap()["run_id"] == id.as_str());
    finish(&first);
    finish(&second);
    let held = holder.finish();
    held.expect_code(0);
    let waited = waiting.finish();
    waited.expect_code(0);
    let dispatched = waited.events_of("site_dispatched")[0]["at"].as_f64();
    assert!(dispatched > site_finished(&held, "shop")["at"].as_f64());
    assert_eq!(lease(&redis), None);
}

#[test]
fn a_run_that_was_stopped_beyond_its_lease_has_lost_the_site_and_touches_nothing_of_the_next() {
    let redis = RedisServer::start();
    let (first, second) = (host(&redis, "first", "3s"), host(&redis, "second", "3s"));
    let mut stopped = first.orch(&["run", "--sites", "shop"]);
    wait_until_begun(&mut stopped, &first);
    stopped.signal(Signal::SIGSTOP);

    let mut next = second.orch(&["run", "--sites", "shop", "--wait", "2m"]);
    next.wait_for("the stopped run's work to be ended", |event| {
        event["event"] == "site_lease_abandoned" && event["site"] == "shop"
    });
    wait_until_begun(&mut next, &second);
    let before = lease(&redis).unwrap();
    let id = run_id(&next.events());
    assert_eq!(before["run_id"], id.as_str());

    stopped.signal(Signal::SIGCONT);
    let stopped = stopped.finish();
    stopped.expect_code(1);
    let lost = site_finished(&stopped, "shop");
    let reason = lost["reason"].as_str().unwrap();
    assert_eq!(lost["status"], "failed");
    assert!(
        reason.starts_with(&format!("its lease was lost to run {id} on host ")),
        "{reason}"
    );
    assert!(stopped.events_of("site_retrying").is_empty());

    // Neither the end nor the stop of that run has harmed the other run.
    assert_eq!(lease(&redis), Some(before));
    finish(&second);
    let next = next.finish();
    next.expect_code(0);
    assert_eq!(fs::read_to_string(second.file("begun")).unwrap().lines().count(), 1);
    assert_eq!(lease(&redis), None);
}

#[test]
fn a_run_that_was_stopped_and_has_lost_nothing_goes_on() {
    let redis = RedisServer::start();
    let project = host(&redis, "first", "3s");
    let mut stopped = project.orch(&["run", "--sites", "shop"]);
    wait_until_begun(&mut stopped, &project);
    let before = lease(&redis).unwrap();
    stopped.signal(Signal::SIGSTOP);
    wait_until_it_ends(&redis);
    stopped.signal(Signal::SIGCONT);
    support::orch::wait_until("the lease", || lease(&redis).as_ref() == Some(&before));
    finish(&project);
    stopped.finish().expect_code(0);
}

#[test]
fn a_killed_run_holds_up_its_own_state_directory_not_at_all_and_others_until_its_lease_ends() {
    let redis = RedisServer::start();
    // Longer than any wait of this test.
    let (first, second) = (host(&redis, "first", "1h"), host(&redis, "second", "1h"));
    let mut killed = first.orch(&["run", "--sites", "shop"]);
    wait_until_begun(&mut killed, &first);
    let id = run_id(&killed.events());
    let before = lease(&redis).unwrap();
    assert_eq!(before["run_id"], id.as_str());
    killed.signal(Signal::SIGKILL);

    let refused = second.orch(&["run", "--sites", "shop"]).finish();
    refused.expect_code(75);
    assert!(refused.stdout.contains(&id), "{}", refused.stdout);

    let mut next = first.orch(&["run", "--sites", "shop"]);
    next.wait_for("the dispatch", |event| event["event"] == "site_dispatched");
    let after = lease(&redis).unwrap();
    assert_eq!(after["run_id"], run_id(&next.events()).as_str());
    assert!(after["token"].as_u64() > before["token"].as_u64(), "{before} {after}");
    finish(&first);
    next.finish().expect_code(0);
    assert!(killed.finish().left.is_empty());
    assert_eq!(lease(&redis), None);
}

/// Waits until the lease has expired in Redis, since its holder is stopped.
fn wait_until_it_ends(redis: &RedisServer) {
    support::orch::wait_until("the end of the lease", || lease(redis).is_none());
}

#[test]
fn a_site_that_another_run_has_completed_meanwhile_is_not_done_again() {
    for retries in ["1", "0"] {
        let redis = RedisServer::start();
        let (first, second) = (host(&redis, "first", "3s"), host(&redis, "second", "3s"));
        let retries = format!("sites.shop.retries={retries}");
        let more = ["--set", &retries, "--set", "sites.shop.retry_backoff=10ms"];
        let mut stopped = first.orch(&[&["run", "--sites", "shop"], &more[..]].concat());
        wait_until_begun(&mut stopped, &first);
        stopped.signal(Signal::SIGSTOP);
        wait_until_it_ends(&redis);
        finish(&second);
        let other = second.orch(&["run", "--sites", "shop"]).finish();
        other.expect_code(0);
        stopped.signal(Signal::SIGCONT);
        // If the site were repeated, the task would wait a minute for this file.
        let ended = stopped.finish();
        ended.expect_code(0);
        let end = site_finished(&ended, "shop");
        let host = nix::unistd::gethostname().unwrap();
        let why = format!(
            "run {} on host {} completed it",
            run_id(&other.events),
            host.to_str().unwrap()
        );
        assert_eq!(
            (end["status"].as_str(), end["reason"].as_str()),
            (Some("complete"), Some(&*why))
        );
        assert_eq!(end["cause"]["by"], "by_another_run");
        assert_eq!(end["counts"]["results"], 1, "those of the other run: {end}");
        assert_eq!(ended.events_of("site_dispatched").len(), 1, "{}", ended.stdout);
        assert_eq!(lease(&redis), None);
        // Neither the two seconds of the site nor the time of the stop count as its duration.
        let plan = first.orch(&["plan", "--sites", "shop", "--json"]).finish();
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
        assert_eq!(plan["sites"][0]["expected_seconds"], Value::Null, "{plan}");
    }
}

/// Form of the events of a run: with fencing tokens, as this version writes them, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Current,
    OfAnOlderVersion,
}

fn forget_fencing_tokens(started: &Value) {
    let directory = std::path::PathBuf::from(started["directory"].as_str().unwrap());
    let path = directory.join("journal.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let lines = lines.lines().map(|line| match line.split_once(r#","fencing_token":"#) {
        Some((before, after)) => {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            format!("{before}{}\n", &after[digits..])
        }
        None => format!("{line}\n"),
    });
    fs::write(&path, lines.collect::<String>()).unwrap();
}

#[test]
fn a_resumed_site_that_another_run_has_completed_is_not_done_again() {
    for (signal, journal, is_done_again) in [
        (Signal::SIGKILL, Journal::Current, false),
        (Signal::SIGINT, Journal::Current, false),
        (Signal::SIGKILL, Journal::OfAnOlderVersion, true),
    ] {
        let redis = RedisServer::start();
        let (first, second) = (host(&redis, "first", "3s"), host(&redis, "second", "3s"));
        let mut ended = first.orch(&["run", "--sites", "shop"]);
        wait_until_begun(&mut ended, &first);
        ended.signal(signal);
        let ended = ended.finish();
        if journal == Journal::OfAnOlderVersion {
            forget_fencing_tokens(&ended.events[0]);
        }
        finish(&second);
        let other = second.orch(&["run", "--sites", "shop", "--wait", "2m"]).finish();
        other.expect_code(0);

        finish(&first);
        let resumed = first.orch(&["run", "--resume"]).finish();
        resumed.expect_code(0);
        let end = site_finished(&resumed, "shop");
        assert_eq!(end["status"], "complete", "{signal} {journal:?}: {end}");
        assert_eq!(
            end["cause"]["by"] == "by_another_run",
            !is_done_again,
            "{signal} {journal:?}: {}",
            resumed.stdout
        );
        let begun = ["site_dispatched", "site_picked_up"].map(|kind| resumed.events_of(kind).len());
        assert_eq!(begun == [0, 0], !is_done_again, "{}", resumed.stdout);
        if !is_done_again {
            let reason = end["reason"].as_str().unwrap();
            assert!(
                reason.starts_with(&format!("run {} on host ", run_id(&other.events))),
                "{reason}"
            );
            assert_eq!(fs::read_to_string(first.file("begun")).unwrap().lines().count(), 1);
            let again = first.orch(&["run", "--resume"]).finish();
            again.expect_code(0);
            assert!(again.stderr.contains("nothing is left to do"), "{}", again.stderr);
        }
        assert_eq!(lease(&redis), None);
    }
}

#[test]
fn a_site_that_another_run_is_at_is_waited_for_by_the_one_that_lost_it() {
    let redis = RedisServer::start();
    let (first, second) = (host(&redis, "first", "3s"), host(&redis, "second", "3s"));
    let mut stopped = first.orch(&[
        "run",
        "--sites",
        "shop",
        "--wait",
        "2m",
        "--set",
        "sites.shop.retries=1",
    ]);
    wait_until_begun(&mut stopped, &first);
    stopped.signal(Signal::SIGSTOP);
    wait_until_it_ends(&redis);
    let mut other = second.orch(&["run", "--sites", "shop"]);
    wait_until_begun(&mut other, &second);
    stopped.signal(Signal::SIGCONT);
    stopped.wait_for("the wait", waits_for_run);
    finish(&second);
    other.finish().expect_code(0);
    let ended = stopped.finish();
    ended.expect_code(0);
    let end = site_finished(&ended, "shop");
    assert_eq!(end["cause"]["by"], "by_another_run", "{end}");
    let waits = ended.events.iter().filter(|event| waits_for_run(event));
    assert_eq!(waits.count(), 1, "{}", ended.stdout);
}
