//! Sentinels: orch and its worker find the master, and find the next one when it changes in the middle of a run.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

mod support;
use support::bookshop;
use support::orch::{Ended, Project, wait_until};
use support::sentinel::{MASTER, Sentinels};

const CHUNKS: usize = 120;
const PASSWORD: &str = "m4ster-passw0rd";
const OF_SENTINELS: &str = "s3ntinel-passw0rd";

/// Creates a project with the site `short` of four chunks.
fn project(redis: &str, settings: &Value) -> Project {
    let project = bookshop::project_with(
        "own_settings",
        &format!(
            "[redis]\nmode = \"external\"\n{redis}\n[celery]\napp = \"own_settings\"\nconcurrency = 4\n\
             [sites.short]\ntimeout = \"60s\"\ndispatch = {{ task = \"own.dispatch\", args = [\"{{site}}\", 4, 0.0] }}\n"
        ),
    );
    fs::write(project.file("settings.json"), settings.to_string()).unwrap();
    project
}

/// Creates a project with the site `long` of 120 chunks, whose app sets no options; each chunk writes its number when
/// it ends.
fn long_project(redis: &str) -> Project {
    bookshop::project_with(
        "chaos_app",
        &format!(
            "[redis]\nmode = \"external\"\n{redis}\n[celery]\napp = \"chaos_app\"\nconcurrency = 4\nacks_late = true\n\
             [sites.long]\ntimeout = \"120s\"\nretries = 5\nretry_backoff = \"10ms\"\n\
             dispatch = {{ task = \"chaos.dispatch\", args = [\"{{site}}\", \"{{job_id}}\", {CHUNKS}, 0.15, \"ledger.long\"] }}\n"
        ),
    )
}

fn shown(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

/// Counts the different chunks that have ended.
fn done(project: &Project) -> usize {
    bookshop::ledger(project.path(), "long").len()
}

#[track_caller]
fn expect_complete(ended: &Ended, chunks: usize) {
    ended.expect_code(0);
    let end = ended.events_of("site_finished")[0].clone();
    assert_eq!(end["status"], "complete", "{end}");
    assert_eq!(end["counts"]["completed_chunks"], chunks, "{end}");
    assert_eq!(end["counts"]["results"], chunks, "{end}");
}

/// Returns options by which the app itself names the master and its Sentinels' password.
fn own_options() -> Value {
    let options = json!({ "master_name": MASTER, "sentinel_kwargs": { "password": OF_SENTINELS } });
    json!({ "broker_transport_options": options, "result_backend_transport_options": options })
}

/// Runs 120 chunks while the master changes. Messages that the old master has accepted and the new one has not received
/// are lost, seconds of them when the change is planned: a site whose job is affected is repeated.
fn run_over_a_change(change: impl FnOnce(&mut Sentinels)) {
    let mut sentinels = Sentinels::start(None, None);
    let before = sentinels.master().unwrap();
    let project = long_project(&format!("url = \"{}\"\nmaster_name = \"{MASTER}\"", sentinels.url(1)));
    let mut orch = project.orch(&["run", "--sites", "long"]);
    orch.wait_for("the job", |event| event["event"] == "site_job_started");
    wait_until("chunks", || done(&project) > CHUNKS / 6);
    change(&mut sentinels);
    let ended = orch.finish();
    expect_complete(&ended, CHUNKS);
    assert_eq!(done(&project), CHUNKS);
    // Shows how often a site is repeated, and why.
    for event in ended.events_of("site_retrying") {
        println!("repeated: {}", event["reason"]);
    }
    assert_ne!(sentinels.master(), Some(before), "the master has changed");
}

#[test]
fn a_run_goes_on_over_a_planned_change_of_the_master() {
    run_over_a_change(|sentinels| sentinels.fail_over());
}

#[test]
fn a_run_goes_on_over_the_death_of_the_master() {
    run_over_a_change(Sentinels::kill_master);
}

#[test]
fn the_master_is_the_apps_and_every_password_its_own() {
    let sentinels = Sentinels::start(Some(PASSWORD), Some(OF_SENTINELS));
    let lines = format!("url = \"{}\"\nsentinel_password = \"{OF_SENTINELS}\"", sentinels.url(2));
    let project = project(&lines, &own_options());
    expect_complete(&project.orch(&["run", "--sites", "short"]).finish(), 4);
    // An instance that is up passes the options on, also in the command line of its own worker.
    let mut up = project.orch(&["up"]);
    bookshop::wait_until_up(&mut up, &project);
    let ping = project.orch_bare(&["celery", "ping"]).finish();
    ping.expect_code(0);
    let within = project
        .orch_bare(&["exec", "--", env!("CARGO_BIN_EXE_orch"), "celery", "ping", "-v"])
        .finish();
    within.expect_code(0);
    assert!(
        shown(&within).contains(&format!("master {MASTER} by Sentinel at")),
        "{}",
        shown(&within)
    );
    expect_complete(&project.orch(&["run", "--sites", "short"]).finish(), 4);
    up.signal(Signal::SIGTERM);
    let ended = up.finish();
    ended.expect_code(143);
    assert!(!shown(&ended).contains("passw0rd"), "{}", shown(&ended));
}

#[test]
fn a_beat_of_its_own_is_given_the_name_of_the_master() {
    let sentinels = Sentinels::start(None, None);
    let project = bookshop::project_with(
        "workshop",
        &format!(
            "[redis]\nmode = \"external\"\nurl = \"{}\"\nmaster_name = \"{MASTER}\"\n\
             [celery]\napp = \"workshop\"\nconcurrency = 1\nbeat = \"separate\"\n[celery.env]\nWORKSHOP_TICKS = \"1\"\n",
            sentinels.url(1)
        ),
    );
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "beat");
    up.wait_until("a tick", || project.file("ticks").exists());
    up.signal(Signal::SIGTERM);
    up.finish().expect_code(143);
}

#[test]
fn commands_are_given_the_name_of_the_master() {
    let sentinels = Sentinels::start(None, Some(OF_SENTINELS));
    let publish = |arguments: &[&str], password: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_orch"))
            .args(["celery", "publish", "shop.add"])
            .args(arguments)
            .env("CELERY_BROKER_URL", sentinels.url(3))
            .env("ORCH_REDIS__SENTINEL_PASSWORD", password)
            .output()
            .unwrap()
    };
    let published = publish(&["--master-name", MASTER], OF_SENTINELS);
    assert_eq!(published.status.code(), Some(0), "{published:?}");
    for (arguments, password, code, words) in [
        (&[][..], OF_SENTINELS, 2, "--master-name"),
        (
            &["--master-name", "other"],
            OF_SENTINELS,
            3,
            "knows no master named `other`",
        ),
        (&["--master-name", MASTER], "wrong", 3, "credentials"),
    ] {
        let refused = publish(arguments, password);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn masters_that_are_missing_or_differ_are_named() {
    let sentinels = Sentinels::start(None, None);
    let url = sentinels.url(0);
    let other = json!({ "broker_transport_options": { "master_name": "other" } });
    let without = json!({ "broker_transport_options": { "visibility_timeout": 60 } });
    for (line, settings, words) in [
        ("", json!({}), "`[redis] master_name` names no master"),
        ("master_name = \"main\"", other, "name the master `other`"),
        ("master_name = \"main\"", without, "have no `master_name`"),
    ] {
        let project = project(&format!("url = \"{url}\"\n{line}"), &settings);
        let ended = project.orch(&["run", "--sites", "short"]).finish();
        ended.expect_code(2);
        assert!(shown(&ended).contains(words), "{}", shown(&ended));
    }
}
