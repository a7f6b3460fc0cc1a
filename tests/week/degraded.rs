//! Consequences of an attempt that ends with no results, or with too few.

use std::fs;

use serde_json::Value;

use crate::night::{dispatches, end_of, last_line, project, row, site};

#[test]
fn nothing_is_no_success_and_a_degraded_attempt_is_tried_again_where_one_is_left() {
    let project = project(
        "[sites.defaults]\nretry_backoff = \"10ms\"\n",
        &[
            site("good", "", ""),
            site("no_urls", "", ""),
            site("no_results", "", "records = 0"),
            site("allowed", "min_results = 0", ""),
            site("unknown", "", "total = \"week.silent_total\""),
            site("cured", "retries = 1", ""),
            site("hopeless", "retries = 1", ""),
            site("less", "min_results = 10\nretries = 1", ""),
            site("closes", "min_results = 10\nretries = 1", ""),
            site("warns", "retries = 1\non_degraded = \"warn\"", ""),
            site("fails", "retries = 1\non_degraded = \"fail\"", ""),
        ],
    );
    for (name, web) in [
        ("good", "3"),
        ("no_urls", "0"),
        ("no_results", "3"),
        ("allowed", "0"),
        ("unknown", "3"),
        ("cured", "0 3"),
        ("hopeless", "0 closed"),
        ("less", "3 1"),
        ("closes", "3 closed"),
        ("warns", "0 3"),
        ("fails", "0 3"),
    ] {
        fs::write(project.file(&format!("{name}.web")), web).expect("could not write the content of the site");
    }
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    let allow = "it should have some";
    for (name, status, results, attempts, reason) in [
        ("good", "complete", Some(6), 1, None),
        ("no_urls", "degraded", Some(0), 1, Some(format!("0 URLs, {allow}"))),
        (
            "no_results",
            "degraded",
            Some(0),
            1,
            Some(format!("0 results, {allow}")),
        ),
        ("allowed", "complete", Some(0), 1, None),
        ("unknown", "complete", None, 1, None),
        ("cured", "complete", Some(6), 2, None),
        (
            "hopeless",
            "failed",
            None,
            2,
            Some("the dispatch task failed: RuntimeError: hopeless is closed".to_owned()),
        ),
        (
            "less",
            "degraded",
            Some(6),
            2,
            Some(
                "6 results, `min_results` is 10; the last attempt had less: 2 results, `min_results` is 10".to_owned(),
            ),
        ),
        (
            "closes",
            "degraded",
            Some(6),
            2,
            Some(
                "6 results, `min_results` is 10; the last attempt failed: the dispatch task failed: RuntimeError: \
                 closes is closed"
                    .to_owned(),
            ),
        ),
        ("warns", "degraded", Some(0), 1, Some(format!("0 URLs, {allow}"))),
        (
            "fails",
            "failed",
            Some(0),
            1,
            Some(format!("0 URLs, {allow}; `on_degraded` is \"fail\"")),
        ),
    ] {
        let end = end_of(&ended, name);
        let found = (end["status"].as_str(), end["counts"]["results"].as_u64());
        assert_eq!(found, (Some(status), results), "{end}");
        assert_eq!(end["reason"].as_str(), reason.as_deref(), "{name}");
        assert_eq!(dispatches(&ended, name), attempts, "{name}");
        // Zero and unknown differ, and the table agrees with the verdict.
        let row = row(&ended.stdout, name);
        let shown = results.map_or("-".to_owned(), |results| results.to_string());
        assert_eq!(
            (row[1].as_str(), &row[3]),
            (status.to_uppercase().as_str(), &shown),
            "{row:?}"
        );
    }
    let retries = ended.events_of("site_retrying");
    let why = |name: &str| {
        let retry = retries
            .iter()
            .find(|event| event["site"] == name)
            .expect("it is tried again");
        retry["reason"].as_str().expect("a reason").to_owned()
    };
    let hint = format!(
        "if a site may have no results, set `min_results = 0` in [sites.no_urls], [sites.no_results], [sites.warns] of {}\n",
        project.file("orch.toml").display()
    );
    let hints = ended.stdout.matches("min_results = 0").count();
    assert!(
        hints == 1 && ended.stdout.contains(&hint),
        "{hint} is not once in\n{}",
        ended.stdout
    );
    assert_eq!(why("cured"), format!("0 URLs, {allow}"));
    assert_eq!(why("less"), "6 results, `min_results` is 10");
    assert!(
        last_line(&ended).starts_with("2 of 11 sites failed, 3 without results, 2 degraded after "),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_resumed_run_does_again_what_yielded_nothing() {
    let project = project(
        "",
        &[
            site("good", "", ""),
            site("few", "min_results = 10", ""),
            site("none", "", ""),
        ],
    );
    let serve = |name: &str, web: &str| fs::write(project.file(&format!("{name}.web")), web).expect("it is written");
    for (name, web) in [("good", "3"), ("few", "3"), ("none", "0")] {
        serve(name, web);
    }
    project.orch(&["run"]).finish().expect_code(1);
    serve("none", "4");
    let resumed = project.orch(&["run", "--resume"]).finish();
    resumed.expect_code(0);
    let dispatched = ["good", "few", "none"].map(|name| dispatches(&resumed, name));
    assert_eq!(dispatched, [0, 0, 1], "{}", resumed.stdout);
    assert_eq!(end_of(&resumed, "none")["status"], "complete");
    assert!(
        last_line(&resumed).starts_with("all sites complete, 1 degraded, after "),
        "{}",
        resumed.stdout
    );
    // Nothing is left to do, and the run is as good as the ends of the sites.
    project.orch(&["run", "--resume"]).finish().expect_code(0);
    let strict = project.orch(&["run", "--resume", "--strict"]).finish();
    strict.expect_code(1);
    assert!(
        strict.stderr.contains("some of them degraded: nothing is left to do"),
        "{}",
        strict.stderr
    );
}

#[test]
fn sites_without_results_are_tried_again_with_fresh_proxies_and_share_one_refresh() {
    let proxies = "[proxies]\nrefresh = [{ task = \"week.refresh\", kwargs = { file = \"live_proxies.json\", seconds = 0.7 } }]\n";
    let retries = "retries = 1\nretry_backoff = \"10ms\"";
    let project = project(
        proxies,
        &[
            site("books", retries, ""),
            site("prints", retries, ""),
            // This site needs no confirmation: it has results.
            site("few", &format!("{retries}\nmin_results = 10"), ""),
        ],
    );
    for name in ["books", "prints"] {
        fs::write(project.file(&format!("{name}.web")), "3").expect("could not write the content of the site");
    }
    fs::write(project.file("few.web"), "0 3").expect("could not write the content of the site");
    let dead: Vec<Value> = (0..40)
        .map(|number| serde_json::json!({"host": "dead", "port": number + 1}))
        .collect();
    fs::write(project.file("live_proxies.json"), Value::from(dead).to_string()).expect("could not write the pool");

    let ended = project.orch(&["run"]).finish();
    ended.expect_code(0);
    let place = |kind: &str, site: Option<&str>, number: usize| {
        let of_kind = |event: &&Value| event["event"] == kind && site.is_none_or(|site| event["site"] == site);
        let event = ended.events.iter().filter(of_kind).nth(number);
        event.unwrap_or_else(|| panic!("{kind} {site:?}: {}", ended.stdout))["seq"].as_u64()
    };
    let refreshed = place("proxy_refresh_finished", None, 0);
    assert_eq!(ended.events_of("proxy_refresh_started").len(), 1, "{}", ended.stdout);
    for name in ["books", "prints"] {
        assert_eq!(dispatches(&ended, name), 2);
        assert!(place("site_dispatched", Some(name), 1) > refreshed, "{}", ended.stdout);
        let end = end_of(&ended, name);
        assert_eq!(
            (&end["status"], &end["counts"]["results"]),
            (&"complete".into(), &6.into()),
            "{end}"
        );
        let first = "0 results, it should have some; the proxies are refreshed first";
        let retries = ended.events_of("site_retrying");
        let retry = retries
            .iter()
            .find(|event| event["site"] == name)
            .expect("it is tried again");
        assert_eq!(retry["reason"], first);
    }
}
