//! `orch run` of sites that depend on each other: skipped sites and their reasons, resumed sites, sites that are left
//! out.

mod support;

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Project};

/// Creates a project with `catalogue` after `login`, `prices` after `catalogue`; `catalogue` fails while its number of
/// chunks is no number.
fn project(chunks: &str) -> Project {
    bookshop::project_with("chaos_app", &configuration(chunks, QUICK))
}

/// Seconds of a chunk.
const QUICK: f64 = 0.01;

/// Returns the configuration; `chunks` and `seconds`, the time of each, are those of `catalogue`.
fn configuration(chunks: &str, seconds: f64) -> String {
    let site = |name: &str, (chunks, seconds): (&str, f64), more: &str| {
        format!(
            "[sites.{name}]\n{more}\ndispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", \
             job_id = \"{{job_id}}\", chunks = {chunks}, seconds = {seconds}, ledger = \"ledger.{name}\" }} }}\n"
        )
    };
    [
        "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 2\n[groups]\nall = [\"*\"]\n"
            .to_owned(),
        site("prices", ("2", QUICK), "after = [\"catalogue\"]\ntags = [\"fast\"]"),
        site("catalogue", (chunks, seconds), "after = [\"login\"]"),
        site("login", ("2", QUICK), ""),
    ]
    .concat()
}

fn summary(ended: &Ended) -> Value {
    let directory = ended.events[0]["directory"].as_str().expect("a directory");
    let text = fs::read(format!("{directory}/summary.json")).expect("summary.json");
    serde_json::from_slice(&text).expect("JSON")
}

/// Returns name and phase of each site in the summary.
fn phases(ended: &Ended) -> Vec<(String, String)> {
    let summary = summary(ended);
    let sites = summary["sites"].as_array().expect("sites").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    sites.map(|site| (text(&site["name"]), text(&site["phase"]))).collect()
}

fn expect_phases(ended: &Ended, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, phase)| ((*name).to_owned(), (*phase).to_owned()))
        .collect();
    assert_eq!(phases(ended), expected, "{}\n{}", ended.stdout, ended.stderr);
}

#[test]
fn a_failed_site_skips_its_dependents_which_is_told_and_resumed() {
    let project = project("\"none\"");
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    expect_phases(
        &ended,
        &[("prices", "skipped"), ("catalogue", "failed"), ("login", "complete")],
    );
    let skipped = ended.events_of("site_finished");
    let skipped = skipped.iter().find(|event| event["site"] == "prices").expect("its end");
    assert_eq!(
        (&skipped["status"], &skipped["dependency"]),
        (&"skipped".into(), &"catalogue".into())
    );
    for reported in [
        "prices: SKIPPED: it is to run after catalogue, which failed",
        "1 of 3 sites failed, 1 skipped after ",
    ] {
        assert!(ended.stdout.contains(reported), "{reported}\n{}", ended.stdout);
    }
    let row = ended
        .stdout
        .lines()
        .find(|line| line.starts_with("prices "))
        .expect("its row");
    assert!(
        row.contains("SKIPPED") && row.ends_with("it is to run after catalogue, which failed"),
        "{row}"
    );

    // The site works again: the remaining sites run in their order, and complete sites count as met dependencies.
    fs::write(project.file("orch.toml"), configuration("2", QUICK)).expect("could not write the configuration");
    let ended = project.orch(&["run", "--resume"]).finish();
    ended.expect_code(0);
    expect_phases(
        &ended,
        &[("prices", "complete"), ("catalogue", "complete"), ("login", "complete")],
    );
    let dispatched: Vec<&Value> = ended
        .events_of("site_dispatched")
        .iter()
        .map(|event| &event["site"])
        .collect();
    assert_eq!(dispatched, ["catalogue", "prices"]);

    let ended = project.orch(&["sites"]).finish();
    ended.expect_code(0);
    let rows: Vec<Vec<&str>> = ended
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = |name: &str| rows.iter().find(|row| row[0] == name).expect("its row").clone();
    for (name, runs) in [("prices", "S."), ("catalogue", "F."), ("login", ".")] {
        let row = row(name);
        assert_eq!(
            (&row[1..3], row.last()),
            (&["-", "COMPLETE"][..], Some(&runs)),
            "{}",
            ended.stdout
        );
    }
}

#[test]
fn what_a_living_run_is_at_is_listed() {
    // Chunks that take longer than any machine needs for the checks.
    let project = bookshop::project_with("chaos_app", &configuration("20", 60.0));
    let mut orch = project.orch(&["run"]);
    orch.wait_for("the job", |event| {
        event["event"] == "site_job_started" && event["site"] == "catalogue"
    });
    let ended = project.orch(&["sites", "--json"]).finish();
    ended.expect_code(0);
    let listed: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let sites = listed["sites"].as_array().expect("sites").iter();
    let phases: Vec<_> = sites
        .map(|site| {
            (
                site["now"]["phase"].as_str().expect("text"),
                site["runs"].as_array().expect("a list").len(),
            )
        })
        .collect();
    assert_eq!(phases, [("waiting", 0), ("running", 0), ("complete", 1)]);
    assert_eq!(listed["sites"][0]["now"]["waits_for"], serde_json::json!(["catalogue"]));
    orch.signal(Signal::SIGINT);
    orch.signal(Signal::SIGINT);
    let ended = orch.finish();
    ended.expect_code(130);
    expect_phases(
        &ended,
        &[
            ("prices", "cancelled"),
            ("catalogue", "cancelled"),
            ("login", "complete"),
        ],
    );
    let ended = project.orch(&["sites", "--sites", "prices"]).finish();
    ended.expect_code(0);
    assert!(
        ended.stdout.contains("CANCELLED") && ended.stdout.contains("the run was stopped"),
        "{}",
        ended.stdout
    );
}

#[test]
fn what_is_selected_runs_alone_or_with_what_it_depends_on() {
    let project = project("2");
    let ended = project.orch(&["run", "--sites", "tag:fast"]).finish();
    ended.expect_code(0);
    expect_phases(&ended, &[("prices", "complete")]);
    let ended = project.orch(&["run", "--sites", "prices", "--with-deps"]).finish();
    ended.expect_code(0);
    let all = [("prices", "complete"), ("catalogue", "complete"), ("login", "complete")];
    expect_phases(&ended, &all);
    let dispatched: Vec<&Value> = ended
        .events_of("site_dispatched")
        .iter()
        .map(|event| &event["site"])
        .collect();
    assert_eq!(dispatched, ["login", "catalogue", "prices"]);
    let ended = project.orch(&["run", "--sites", "@al"]).finish();
    ended.expect_code(2);
    assert!(
        ended.stderr.contains("there is no group `al`; did you mean `@all`?"),
        "{}",
        ended.stderr
    );

    // The next run expects the numbers of the run before.
    let ended = project.orch(&["plan", "--json"]).finish();
    ended.expect_code(0);
    let plan: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(
        plan["critical_path"],
        serde_json::json!(["login", "catalogue", "prices"])
    );
    let sites = plan["sites"].as_array().expect("sites");
    for site in sites {
        let expected = site["expected_seconds"].as_f64();
        assert!(
            expected.is_some_and(|seconds| (0.001..30.0).contains(&seconds)),
            "{site}"
        );
    }
    let ended = project.orch(&["plan", "--sites", "prices"]).finish();
    ended.expect_code(0);
    assert!(
        ended.stdout.starts_with("1 site, 8 at a time: about "),
        "{}",
        ended.stdout
    );
}
