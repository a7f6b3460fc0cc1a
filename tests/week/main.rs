//! A week of a project: on each day the status of its sites, the exit code, and the usual numbers for later nights are
//! true.

#[path = "../support/mod.rs"]
mod support;

mod degraded;
mod night;

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use night::{dispatches, end_of, last_line, project, row, site};
use support::orch::{Ended, Project};

/// Pages of a good night, and the seconds that the pool needs for them at least: two pages at a time.
const PAGES: u64 = 4;
const SECONDS: f64 = 0.8;
const RESULTS: u64 = 8;

fn write_pool(project: &Project, host: &str) {
    let pool: Vec<Value> = (1..=40).map(|port| json!({"host": host, "port": port})).collect();
    fs::write(project.file("live_proxies.json"), Value::from(pool).to_string()).expect("could not write the pool");
}

fn serve(project: &Project, web: &str) {
    fs::write(project.file("books.web"), web).expect("could not write the content of the site");
}

/// Asserts the usual number of results for the next night, and the former ends of the site, the latest last.
#[track_caller]
fn remembers(project: &Project, runs: &str, results: u64, change: f64) {
    let answer = |arguments: &[&str]| -> Value {
        let ended = project.orch(arguments).finish();
        ended.expect_code(0);
        serde_json::from_str(&ended.stdout).expect("JSON")
    };
    let sites = answer(&["sites", "--json"]);
    let books = &sites["sites"][0];
    assert_eq!(books["runs"][0]["counts"]["results"], results, "{books:#}");
    let found = books["results_change"].as_f64();
    assert!(found.is_some_and(|found| (found - change).abs() < 0.01), "{books:#}");
    let plan = answer(&["plan", "--json"]);
    let expected = plan["sites"][0]["expected_seconds"].as_f64();
    assert!(
        expected.is_some_and(|expected| (SECONDS..30.0).contains(&expected)),
        "an empty night is no measure of time: {plan:#}"
    );
    let table = project.orch(&["sites"]).finish().stdout;
    let line = table.lines().find(|line| line.starts_with("books ")).expect("a line");
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert!(
        cells.contains(&runs) && cells.contains(&results.to_string().as_str()),
        "{runs}: {line}"
    );
}

#[track_caller]
fn expect_complete(ended: &Ended) {
    ended.expect_code(0);
    let end = end_of(ended, "books");
    assert_eq!(
        (&end["status"], &end["counts"]["results"]),
        (&"complete".into(), &RESULTS.into())
    );
    assert!(
        last_line(ended).starts_with("all sites complete after "),
        "{}",
        ended.stdout
    );
}

/// Asserts the end of a night that scraped nothing.
#[track_caller]
fn expect_nothing(ended: &Ended, why: &str) {
    ended.expect_code(1);
    let end = end_of(ended, "books");
    assert_eq!(
        (&end["status"], &end["counts"]["results"]),
        (&"degraded".into(), &0.into()),
        "{end}"
    );
    let usual = format!("{why}, usually {RESULTS} (the median of its last 2 complete runs)");
    assert_eq!(end["reason"], usual);
    assert_eq!(
        end["cause"],
        json!({"by": "too_few_results", "least": 1, "median": RESULTS})
    );
    let row = row(&ended.stdout, "books");
    assert_eq!((row[1].as_str(), row[3].as_str()), ("DEGRADED", "0"), "{row:?}");
    assert!(
        last_line(ended).starts_with("1 of 1 site without results after "),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("all sites complete"), "{}", ended.stdout);
}

fn refreshes(project: &Project) -> usize {
    let log: &Path = &project.file("refreshes");
    fs::read_to_string(log).unwrap_or_default().lines().count()
}

#[test]
fn a_week_of_a_project_with_defaults() {
    let proxies = "[proxies]\nrefresh = [{ task = \"week.refresh\", kwargs = { file = \"live_proxies.json\" } }]\n";
    let project = project(proxies, &[site("books", "", "seconds = 0.4")]);
    write_pool(&project, "living");
    serve(&project, &PAGES.to_string());
    let night = || project.orch(&["run"]).finish();

    // Monday and Tuesday are good.
    expect_complete(&night());
    expect_complete(&night());
    remembers(&project, "..", RESULTS, 0.0);

    // Wednesday: all start pages answer 404.
    serve(&project, "0");
    expect_nothing(&night(), "0 URLs");
    remembers(&project, "..0", 0, -1.0);
    serve(&project, &PAGES.to_string());

    // Thursday: the proxies on file are dead; orch counts enough of them. A retry would refresh them, and none is
    // configured.
    write_pool(&project, "dead");
    let empty = night();
    expect_nothing(&empty, "0 results");
    assert_eq!((dispatches(&empty, "books"), refreshes(&project)), (1, 0));
    assert_eq!(row(&empty.stdout, "books")[2], format!("{PAGES}/{PAGES}"));
    remembers(&project, "..00", 0, -1.0);
    // The next run does not trust a pool with which a site had no results, and refreshes it first.
    let cured = project.orch(&["run", "--resume"]).finish();
    expect_complete(&cured);
    assert_eq!((dispatches(&cured, "books"), refreshes(&project)), (1, 1));
    remembers(&project, "..00.", RESULTS, 0.0);

    // Friday: Ctrl+C when the first page is done; a resumed run does the rest.
    fs::write(project.file("books.busy"), "").expect("could not make the site busy");
    let mut orch = project.orch(&["run", "--set", "celery.grace=5s"]);
    orch.wait_for("the first page", |event| {
        event["event"] == "site_progressed" && event["counts"]["completed_chunks"].as_u64() >= Some(1)
    });
    orch.signal(Signal::SIGINT);
    orch.wait_for("the stop", |event| event["event"] == "stop_started");
    fs::remove_file(project.file("books.busy")).expect("the site answers again");
    let interrupted = orch.finish();
    interrupted.expect_code(130);
    assert!(
        last_line(&interrupted).starts_with("interrupted after "),
        "{}",
        interrupted.stdout
    );
    let resumed = project.orch(&["run", "--resume"]).finish();
    expect_complete(&resumed);
    assert_eq!(dispatches(&resumed, "books"), 0, "it is picked up: {}", resumed.stdout);

    // Saturday is good.
    let last = night();
    expect_complete(&last);
    assert_eq!(last.events_of("site_retrying").len(), 0);
    assert_eq!(refreshes(&project), 1);
    let sites = project.orch(&["sites"]).finish().stdout;
    let line = sites
        .lines()
        .find(|line| line.starts_with("books "))
        .expect("a line")
        .to_owned();
    assert!(line.contains(&format!("  {RESULTS} (+0%)  ")), "{line}");
}
