//! What earlier nights mean for this one: sites that yield too little, and sites that fail night after night.

mod support {
    #[path = "bookshop.rs"]
    pub mod bookshop;
    #[path = "orch.rs"]
    pub mod orch;
}

use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Project};

/// Each chunk is a result; a number of chunks that is none makes the dispatch task fail.
fn site(name: &str, chunks: &str, more: &str) -> String {
    format!(
        "[sites.{name}]\n{more}\ndispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", \
         job_id = \"{{job_id}}\", chunks = {chunks}, seconds = 0.01, ledger = \"ledger\" }} }}\n"
    )
}

fn project(sites: &[String]) -> Project {
    let services = "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 2\n";
    bookshop::project_with("chaos_app", &(services.to_owned() + &sites.concat()))
}

/// Sites and how each ended, by their names.
fn ends(ended: &Ended) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let ends = ended.events_of("site_finished").into_iter();
    let mut ends: Vec<_> = ends
        .map(|event| (text(&event["site"]), text(&event["status"])))
        .collect();
    ends.sort_unstable();
    ends
}

fn pairs<const N: usize>(ends: [(&str, &str); N]) -> Vec<(String, String)> {
    ends.map(|(site, status)| (site.to_owned(), status.to_owned())).to_vec()
}

fn reason<'e>(ended: &'e Ended, site: &str) -> &'e str {
    let ends = ended.events_of("site_finished");
    let end = ends.iter().find(|event| event["site"] == site).expect("it has ended");
    end["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_site_that_yields_too_little_is_degraded_and_strict_makes_that_an_error() {
    let usual = ["2", "5", "4"].map(|chunks| {
        [
            site("steady", "2", "min_results = \"80%\""),
            site("shrinks", chunks, "min_results = \"80%\""),
            site("poor", "1", "min_results = 3"),
            site("next", "1", "after = [\"poor\"]"),
        ]
    });
    let project = project(&usual[1]);
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    let night = |sites: &[String], arguments: &[&str]| {
        let configuration = std::fs::read_to_string(project.file("orch.toml")).expect("it is there");
        let services = configuration.split("[sites.").next().expect("there is a first part");
        std::fs::write(project.file("orch.toml"), services.to_owned() + &sites.concat()).expect("it is written");
        project.orch(arguments).finish()
    };

    let first = night(&usual[1], &["run"]);
    first.expect_code(0);
    let one_degraded = pairs([
        ("next", "complete"),
        ("poor", "degraded"),
        ("shrinks", "complete"),
        ("steady", "complete"),
    ]);
    assert_eq!(ends(&first), one_degraded);
    assert_eq!(reason(&first, "poor"), "1 result, `min_results` is 3");
    let strict = night(&usual[2], &["run", "--strict"]);
    strict.expect_code(1);
    assert_eq!(ends(&strict), one_degraded, "4 of 5 are 80 %");

    let less = night(&usual[0], &["run"]);
    less.expect_code(0);
    assert_eq!(
        reason(&less, "shrinks"),
        "2 results, `min_results` is 80 % of the median of its last 2 complete runs with 5: 4"
    );
    // What was degraded is no measure for the next night.
    let again = night(&usual[0], &["run"]);
    assert_eq!(reason(&again, "shrinks"), reason(&less, "shrinks"));
    assert!(
        again.stdout.contains("DEGRADED") && again.stdout.contains("all sites complete, 2 degraded, after"),
        "{}",
        again.stdout
    );
    let listed = project.orch(&["sites"]).finish();
    let line = listed.stdout.lines().find(|line| line.starts_with("shrinks"));
    let line = line.unwrap_or_else(|| panic!("{}", listed.stdout));
    assert!(
        line.contains("DEGRADED") && line.contains("2 (-60%)") && line.contains("..dd"),
        "{line}"
    );
    up.signal(nix::sys::signal::Signal::SIGINT);
    up.finish().expect_code(130);
}

#[test]
fn a_site_that_fails_night_after_night_is_skipped_and_tried_again_from_time_to_time() {
    let often = "skip_after_failures = 2\nretries = 1\nretry_backoff = \"10ms\"";
    let project = project(&[
        site("closed", "\"none\"", often),
        site("behind", "1", "after = [\"closed\"]"),
        site("other", "1", "after_finished = [\"closed\"]"),
    ]);
    let mut up = project.orch(&["up"]);
    up.wait_for_service("service_ready", "celery");
    let night = |arguments: &[&str]| {
        let ended = project.orch(arguments).finish();
        ended.expect_code(1);
        let attempts = ended.events_of("site_dispatched").into_iter();
        let attempts = attempts.filter(|event| event["site"] == "closed").count();
        let status = ends(&ended)[1].1.clone();
        assert_eq!(
            ends(&ended),
            pairs([("behind", "skipped"), ("closed", &status), ("other", "complete")])
        );
        (attempts, status, ended)
    };
    let nights: Vec<_> = (0..6).map(|_| night(&["run"])).collect();
    let seen: Vec<_> = nights
        .iter()
        .map(|(attempts, status, _)| (*attempts, status.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (2, "failed"),
            (2, "failed"),
            // Once more, without retries.
            (1, "failed"),
            (0, "skipped"),
            (0, "skipped"),
            (1, "failed"),
        ]
    );
    let why = reason(&nights[3].2, "closed");
    assert!(
        why.starts_with("it failed in its last 2 runs and once more")
            && why.ends_with("tried again in 2 runs, or with --force"),
        "{why}"
    );
    assert_eq!(
        reason(&nights[3].2, "behind"),
        "it is to run after closed, which was skipped"
    );
    let plan = project.orch(&["plan"]).finish();
    assert!(
        plan.stdout.contains("skipped: it failed") && plan.stdout.contains("skipped: closed is"),
        "{}",
        plan.stdout
    );
    let (attempts, status, _) = night(&["run", "--force"]);
    assert_eq!((attempts, status.as_str()), (2, "failed"));
    up.signal(nix::sys::signal::Signal::SIGINT);
    up.finish().expect_code(130);
}
