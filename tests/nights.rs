//! The effect of earlier nights on this one: sites that yield too little, and sites that fail night after night.

mod support;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;

use serde_json::{Value, json};
use support::bookshop;
use support::orch::{Ended, Project};

/// Returns a site in which each chunk is a result; a number of chunks that is no number makes the dispatch task fail.
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

/// Returns the sites with their ends, by name.
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
    let outcome = strict.stdout.lines().find(|line| line.contains("(exit code 1)"));
    assert!(
        outcome.is_some_and(|line| line.starts_with("1 of 4 sites degraded after ")),
        "{}",
        strict.stdout
    );

    let less = night(&usual[0], &["run"]);
    less.expect_code(0);
    assert_eq!(
        reason(&less, "shrinks"),
        "2 results, `min_results` is 80 % of the median of its last 2 complete runs with 5: 4"
    );
    // A degraded result is no measure for the next night.
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
        // A skipped site waits neither for its turn nor for its dependencies.
        let queued = ended.events_of("site_queued");
        let queued = queued.iter().any(|event| event["site"] == "closed");
        assert_eq!(queued, status != "skipped", "{}", ended.stdout);
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
            // A second time, without retries.
            (1, "failed"),
            (0, "skipped"),
            (0, "skipped"),
            (1, "failed"),
        ]
    );
    let why = reason(&nights[3].2, "closed");
    assert!(
        why.starts_with("it failed in its last 3 runs (`skip_after_failures` is 2), the last time: ")
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

/// Writes the journals of runs in which these sites ended so, or did not end (without a status), the oldest first.
fn write_nights(project: &Project, nights: &[Vec<Value>]) {
    for (number, ends) in nights.iter().enumerate() {
        let directory = project.state_dir().join(format!("runs/run{number}"));
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private
            .create(&directory)
            .expect("could not create the run's directory");
        let begun = json!({
            "seq": 1, "at": 1000.0 + number as f64, "elapsed": 0.0, "event": "run_started", "format": 1,
            "run_id": format!("run{number}"), "command": "run", "version": "0", "instance": "orch", "config": "orch.toml",
            "directory": directory, "pid": 1, "guard_pid": 2, "services": [],
            "sites": ends.iter().map(|end| &end["site"]).collect::<Vec<_>>(),
        });
        let ended = ends.iter().filter(|end| !end["status"].is_null());
        let ends = ended.map(|end| {
            let mut event = json!({"seq": 2, "at": 1.0, "elapsed": 1.0, "event": "site_finished", "elapsed_ms": 1000});
            let fields = event.as_object_mut().expect("an object");
            fields.extend(end.as_object().expect("an object").clone());
            event.to_string()
        });
        let lines: Vec<String> = std::iter::once(begun.to_string()).chain(ends).collect();
        fs::write(directory.join("journal.jsonl"), lines.join("\n") + "\n").expect("could not write the journal");
    }
}

#[test]
fn what_was_long_ago_is_not_forgotten_and_what_others_did_is_not_held_against_a_site() {
    let project = project(&[
        site("decayed", "2", "min_results = \"60%\""),
        site("failing", "\"none\"", "skip_after_failures = 3"),
        site("held", "1", "skip_after_failures = 3"),
        site("free", "1", "min_results = 0\nskip_after_failures = 0"),
    ]);
    let configuration = fs::read_to_string(project.file("orch.toml")).expect("it is there");
    let defaults = "[sites.defaults]\nmin_results = 5\nskip_after_failures = 1\n";
    fs::write(project.file("orch.toml"), configuration + defaults).expect("it is written");
    let failed = |site: &str, cause: Value| json!({"site": site, "status": "failed", "counts": {}, "reason": "closed", "cause": cause});
    // `failing` was part of the oldest run alone, and has ended in none of the runs that are read.
    let mut nights = vec![vec![failed("failing", json!({"by": "failure", "in_a_row": 4}))]];
    nights.extend((0..9).map(|_| {
        vec![
            json!({"site": "decayed", "status": "degraded", "counts": {"results": 2},
                   "cause": {"by": "too_few_results", "least": 60, "median": 100}}),
            failed("held", json!({"by": "refused"})),
            failed("free", json!({"by": "failure", "in_a_row": 9})),
        ]
    }));
    write_nights(&project, &nights);

    let listed = project.orch(&["sites", "--json"]).finish();
    listed.expect_code(0);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let next = |name: &str| {
        let sites = listed["sites"].as_array().expect("sites");
        let site = sites.iter().find(|site| site["site"] == name).expect("it is there");
        site["next"]["tries"].as_str().expect("text").to_owned()
    };
    let tries = ["decayed", "failing", "held", "free"].map(next);
    assert_eq!(tries, ["as_configured", "skipped", "as_configured", "as_configured"]);
    let table = project.orch(&["sites"]).finish();
    let line = table.stdout.lines().find(|line| line.starts_with("failing"));
    assert!(
        line.is_some_and(|line| line.contains("next run: skipped: it failed in its last 4 runs")),
        "{}",
        table.stdout
    );

    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    let expected = [
        ("decayed", "degraded"),
        ("failing", "skipped"),
        ("free", "complete"),
        ("held", "degraded"),
    ];
    assert_eq!(ends(&ended), pairs(expected));
    assert_eq!(
        reason(&ended, "decayed"),
        "2 results, `min_results` is 60 % of the median of complete runs of long ago with 100: 60"
    );
    let end = |site: &str| {
        let ends = ended.events_of("site_finished");
        let end = ends.into_iter().find(|event| event["site"] == site);
        end.expect("it has ended")["cause"].clone()
    };
    assert_eq!(
        end("decayed"),
        json!({"by": "too_few_results", "least": 60, "median": 100})
    );
    assert_eq!(
        end("failing"),
        json!({"by": "skipped_after_failures", "failures": 4, "runs": 1})
    );
}

#[test]
fn a_degraded_site_is_kept_by_a_resumed_run_and_a_night_that_is_resumed_is_one() {
    let project = project(&[
        site("few", "1", "min_results = 3"),
        site("closed", "\"none\"", "skip_after_failures = 2"),
        site("left", "1", ""),
    ]);
    let failed = |in_a_row: u32| {
        json!({"site": "closed", "status": "failed", "counts": {}, "reason": "closed",
               "cause": {"by": "failure", "in_a_row": in_a_row}})
    };
    let why = "1 result, `min_results` is 3";
    let few = json!({"site": "few", "status": "degraded", "counts": {"results": 1}, "reason": why,
                     "cause": {"by": "too_few_results", "least": 3}});
    write_nights(
        &project,
        &[vec![failed(2)], vec![few, failed(3), json!({"site": "left"})]],
    );

    let resume = |arguments: &[&str], phase: &str| {
        let ended = project.orch(arguments).finish();
        ended.expect_code(1);
        let directory = ended.events[0]["directory"].as_str().expect("a directory");
        let summary = fs::read(format!("{directory}/summary.json")).expect("summary.json");
        let summary: Value = serde_json::from_slice(&summary).expect("JSON");
        let view = |name: &str| {
            let sites = summary["sites"].as_array().expect("sites");
            sites
                .iter()
                .find(|site| site["name"] == name)
                .expect("it is there")
                .clone()
        };
        let few = view("few");
        assert_eq!(
            [&few["phase"], &few["resumed"], &few["reason"]],
            ["degraded", "kept", why],
            "{few}"
        );
        let closed = view("closed");
        assert_eq!(closed["phase"], phase, "{closed}");
        (ended, closed["cause"].clone())
    };
    // The third failure, in the night that is resumed, is no reason to skip the site in that night.
    let (first, cause) = resume(&["run", "--resume", "run1"], "failed");
    assert_eq!(cause, json!({"by": "failure", "in_a_row": 3}));
    assert_eq!(
        ends(&first),
        pairs([("closed", "failed"), ("left", "complete")]),
        "{}",
        first.stdout
    );
    let (_, cause) = resume(&["run", "--resume"], "failed");
    assert_eq!(cause, json!({"by": "failure", "in_a_row": 3}));
    // The next night is another run.
    let next = project.orch(&["run", "--sites", "few,closed", "--strict"]).finish();
    next.expect_code(1);
    assert_eq!(ends(&next), pairs([("closed", "skipped"), ("few", "degraded")]));
    assert!(
        next.stdout.contains("1 of 2 sites degraded, 1 skipped after "),
        "{}",
        next.stdout
    );

    // Only the shortage of the kept site makes the difference.
    let mended = [
        "run",
        "--resume",
        "run1",
        "--force",
        "--set",
        "sites.closed.dispatch.kwargs.chunks=1",
    ];
    project.orch(&mended).finish().expect_code(0);
    let strict = [&mended[..], &["--strict"]].concat();
    project.orch(&strict).finish().expect_code(1);
}

#[test]
fn no_proxies_are_wanted_for_sites_that_are_skipped() {
    let project = project(&[site("closed", "\"none\"", "skip_after_failures = 1")]);
    let configuration = fs::read_to_string(project.file("orch.toml")).expect("it is there");
    let proxies = "[proxies]\nfile = \"there_is_none.json\"\nmin_usable = 1\n";
    fs::write(project.file("orch.toml"), configuration + proxies).expect("it is written");
    let failed = json!({"site": "closed", "status": "failed", "counts": {}, "reason": "closed",
                        "cause": {"by": "failure", "in_a_row": 2}});
    write_nights(&project, &[vec![failed]]);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    assert_eq!(ends(&ended), pairs([("closed", "skipped")]));
    assert!(ended.events_of("proxies_counted").is_empty(), "{}", ended.stdout);
    assert!(ended.stdout.contains("1 of 1 site skipped after "), "{}", ended.stdout);
    // The site runs once again, and there are too few results.
    project.orch(&["run"]).finish().expect_code(4);
}

#[test]
fn nights_on_which_a_site_was_empty_are_no_measure_for_a_good_one() {
    // Twenty chunks on two slots take a second and more, far more than three times a hundredth of a second.
    let more = "timeout = \"auto\"\ntimeout_min = \"100ms\"\nslow_factor = 2";
    let project = project(&[site("shop", "20", more).replace("0.01", "0.1")]);
    let empty = |counts: Value| vec![json!({"site": "shop", "status": "complete", "counts": counts, "elapsed_ms": 10})];
    let nights = [
        json!({"total_urls": 0}),
        json!({"total_urls": 9, "results": 0}),
        json!({"total_chunks": 0}),
    ];
    write_nights(&project, &nights.map(empty));
    let expected = || {
        let plan = project.orch(&["plan", "--json"]).finish();
        let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
        plan["sites"][0]["expected_seconds"].as_f64()
    };
    assert_eq!(expected(), None);
    let night = project.orch(&["run"]).finish();
    night.expect_code(0);
    assert_eq!(ends(&night), pairs([("shop", "complete")]), "{}", night.stdout);
    assert!(night.events_of("site_verdict").is_empty(), "{}", night.stdout);
    // The first duration that counts.
    let seconds = expected().expect("it is known");
    assert!(seconds > 1.0, "{seconds}");
}

#[test]
fn of_a_site_that_was_tried_again_the_last_attempt_is_the_measure() {
    let flaky = site("shop", "2", "retries = 1\nretry_backoff = \"3s\"");
    let project = project(&[flaky]);
    let app = fs::read_to_string(project.file("chaos_app.py")).expect("the app");
    let fails_at_first = "def dispatch(site, job_id, chunks, seconds, ledger):\n    if not os.path.exists(\"tried\"):\n        \
                          write(\"tried\", \"once\")\n        raise RuntimeError(\"not yet\")\n";
    let app = app.replace("def dispatch(site, job_id, chunks, seconds, ledger):\n", fails_at_first);
    fs::write(project.file("chaos_app.py"), app).expect("it is written");
    let night = project.orch(&["run"]).finish();
    night.expect_code(0);
    assert_eq!(night.events_of("site_dispatched").len(), 2, "{}", night.stdout);
    let ends = night.events_of("site_finished");
    assert!(ends[0]["elapsed_ms"].as_u64() > Some(3000), "{}", ends[0]);
    let plan = project.orch(&["plan", "--json"]).finish();
    let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let seconds = plan["sites"][0]["expected_seconds"].as_f64().expect("it is known");
    assert!(seconds < 3.0, "without the wait for the retry: {seconds}");
}
