//! Requests about sites: pause, resume, drain, a site that begins first, a site that is tried again, and the end of a
//! run from another terminal.

use std::fs;

use serde_json::Value;

use crate::support::bookshop;
use crate::support::orch::{Ended, Orch, Project};
use crate::{ask, expect, expect_answers, orch, project as project_of_services};

/// Creates a project in which one site runs at a time, first the one with dependents. Each of the sites has this many chunks of this many seconds.
fn project(sites: &[(&str, u32, f64, &str)]) -> Project {
    let site = |(name, chunks, seconds, more): &(&str, u32, f64, &str)| {
        format!(
            "[sites.{name}]\n{more}\ndispatch = {{ task = \"chaos.dispatch\", kwargs = {{ site = \"{{site}}\", \
             job_id = \"{{job_id}}\", chunks = {chunks}, seconds = {seconds:?}, ledger = \"ledger.{name}\" }} }}\n"
        )
    };
    let head = "[orch]\nmax_parallel_sites = 1\n[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"chaos_app\"\nconcurrency = 4\n";
    let sites: String = sites.iter().map(site).collect();
    bookshop::project_with("chaos_app", &format!("{head}{sites}"))
}

fn wait_for_site(orch: &mut Orch<'_>, kind: &str, site: &str) -> Value {
    orch.wait_for(&format!("{kind} {site}"), |event| {
        event["event"] == kind && event["site"] == site
    })
}

fn ends_of<'a>(ended: &'a Ended, site: &str) -> Vec<&'a str> {
    let ends = ended.events_of("site_finished");
    let of_site = ends.into_iter().filter(|event| event["site"] == site);
    of_site.map(|event| event["status"].as_str().unwrap()).collect()
}

fn lines(project: &Project, site: &str) -> usize {
    let text = fs::read_to_string(project.file(&format!("ledger.{site}"))).unwrap_or_default();
    text.lines().count()
}

#[test]
fn a_pause_holds_sites_back_until_the_resume_and_one_may_begin_by_request() {
    let project = project(&[
        ("first", 1, 600.0, ""),
        ("second", 4, 0.1, ""),
        ("third", 4, 0.1, ""),
        ("last", 4, 0.1, "after = [\"first\"]"),
    ]);
    expect(
        &orch(&project, &["pause"]),
        1,
        "nothing to do: no `orch run` is active in ",
    );
    let mut run = project.orch(&["run"]);
    wait_for_site(&mut run, "site_job_started", "first");
    expect(
        &orch(&project, &["pause"]),
        0,
        "no further site begins; 1 running site goes on",
    );
    expect(
        &orch(&project, &["pause"]),
        1,
        "nothing to do: the run is already paused",
    );
    ask(&project, &["start", "site", "first"], 1, "first is already running");
    ask(
        &project,
        &["start", "site", "last"],
        1,
        "refused: last runs after first",
    );
    expect(&orch(&project, &["start", "site", "nobody"]), 2, "has no site `nobody`");
    ask(
        &project,
        &["start", "site", "third"],
        0,
        "third is next: it begins as soon as",
    );
    expect(&orch(&project, &["stop", "site", "first"]), 0, "first was stopped");
    wait_for_site(&mut run, "site_finished", "third");
    ask(
        &project,
        &["start", "site", "third"],
        1,
        "third has ended; `orch retry site third` begins it again",
    );
    let dispatched = |site: &str| {
        let is_dispatch = |event: &Value| event["event"] == "site_dispatched" && event["site"] == site;
        run.events().iter().any(is_dispatch)
    };
    assert!(!dispatched("second"), "the run is paused");
    expect(&orch(&project, &["resume"]), 0, "sites begin again");
    let ended = run.finish();
    ended.expect_code(1);
    expect_answers(&ended);
    for (site, status) in [
        ("first", "cancelled"),
        ("second", "complete"),
        ("third", "complete"),
        ("last", "skipped"),
    ] {
        assert_eq!(ends_of(&ended, site), [status], "{site}");
    }
    assert!(
        ended.stdout.contains("no further site begins until `orch resume`"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_drained_run_ends_with_its_running_site_and_is_continued() {
    let project = project(&[
        ("first", 20, 2.0, ""),
        ("second", 4, 0.1, ""),
        ("third", 4, 0.1, "after = [\"first\"]"),
    ]);
    let mut run = project.orch(&["run"]);
    wait_for_site(&mut run, "site_job_started", "first");
    let drain = project.orch_bare(&["drain", "--wait"]);
    run.wait_for("the drain", |event| {
        event["event"] == "site_admission_changed" && event["admission"] == "draining"
    });
    expect(
        &orch(&project, &["drain"]),
        1,
        "nothing to do: the run is already being drained",
    );
    ask(
        &project,
        &["start", "site", "second"],
        1,
        "refused: the run is being drained",
    );
    let ended = run.finish();
    ended.expect_code(1);
    expect_answers(&ended);
    expect(&drain.finish(), 1, "has ended with exit code 1");
    assert_eq!(ends_of(&ended, "first"), ["complete"]);
    for site in ["second", "third"] {
        assert_eq!(ends_of(&ended, site), ["skipped"], "{site}");
        assert_eq!(lines(&project, site), 0);
    }
    let resumed = project.orch(&["run", "--resume"]).finish();
    resumed.expect_code(0);
    assert_eq!(ends_of(&resumed, "second"), ["complete"]);
    assert_eq!(ends_of(&resumed, "third"), ["complete"]);
    assert_eq!(lines(&project, "first"), 20, "its chunks did not run again");
}

#[test]
fn a_site_that_has_ended_is_tried_again() {
    let project = project(&[
        ("quick", 4, 0.1, ""),
        ("doomed", 2, 60.0, ""),
        ("next", 4, 0.1, "after = [\"doomed\"]"),
        ("long", 1, 60.0, ""),
    ]);
    let mut run = project.orch(&["run", "--set", "orch.max_parallel_sites=4"]);
    wait_for_site(&mut run, "site_finished", "quick");
    wait_for_site(&mut run, "site_job_started", "doomed");
    wait_for_site(&mut run, "site_job_started", "long");
    ask(&project, &["retry", "site", "doomed"], 1, "doomed has not ended");
    // A complete site runs a second time.
    expect(
        &orch(&project, &["retry", "site", "quick"]),
        0,
        "quick begins now\nquick has begun",
    );
    run.wait_until("its second end", || lines(&project, "quick") == 8);
    expect(&orch(&project, &["stop", "site", "doomed"]), 0, "doomed was stopped");
    ask(
        &project,
        &["retry", "site", "next"],
        1,
        "next runs after doomed, which has not succeeded: retry doomed first",
    );
    let begun = run.events().len();
    expect(&orch(&project, &["retry", "site", "doomed"]), 0, "doomed has begun");
    run.wait_until("a second job", || {
        let events = run.events();
        let mut later = events.iter().skip(begun);
        later.any(|event| event["event"] == "site_job_started" && event["site"] == "doomed")
    });
    // A stop works again, too.
    expect(&orch(&project, &["stop", "site", "doomed"]), 0, "doomed was stopped");
    expect(&orch(&project, &["stop", "site", "long"]), 0, "long was stopped");
    let ended = run.finish();
    ended.expect_code(1);
    expect_answers(&ended);
    assert_eq!(ends_of(&ended, "quick"), ["complete", "complete"]);
    assert_eq!(ends_of(&ended, "doomed"), ["cancelled", "cancelled"]);
    assert_eq!(ends_of(&ended, "next"), ["skipped"]);
}

#[test]
fn requests_about_sites_before_the_sites_run_are_answered() {
    let project = project(&[("first", 4, 0.1, ""), ("second", 4, 0.1, "")]);
    // The run waits for this file before its sites begin.
    let slow =
        "\n[services.slow]\ncommand = [\"sleep\", \"600\"]\nreadiness = { file = \"go\" }\nstart_timeout = \"10m\"\n";
    let path = project.file("orch.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + slow).unwrap();
    let mut run = project.orch(&["run"]);
    run.wait_for_service("service_spawned", "slow");
    ask(
        &project,
        &["start", "site", "first"],
        1,
        "refused: the sites of the run do not run yet",
    );
    expect(
        &orch(&project, &["pause"]),
        0,
        "no further site begins; no site is running",
    );
    fs::write(project.file("go"), "").unwrap();
    run.wait_for("the sites", |event| {
        event["event"] == "site_queued" && event["site"] == "second"
    });
    expect(&orch(&project, &["start", "site", "second"]), 0, "second has begun");
    wait_for_site(&mut run, "site_finished", "second");
    expect(&orch(&project, &["drain"]), 0, "the run ends afterwards");
    let ended = run.finish();
    ended.expect_code(1);
    expect_answers(&ended);
    assert_eq!(ends_of(&ended, "second"), ["complete"]);
    assert_eq!(ends_of(&ended, "first"), ["skipped"]);
}

#[test]
fn a_run_is_ended_from_another_terminal() {
    let web = project_of_services("[services.web]\ncommand = [\"sleep\", \"600\"]\n");
    expect(&orch(&web, &["down"]), 1, "nothing to do: no run is active in ");
    let mut up = web.orch(&["up"]);
    up.wait_for_service("service_ready", "web");
    expect(&orch(&web, &["pause"]), 1, "no `orch run` is active in ");
    expect(&orch(&web, &["down"]), 0, "the run is being stopped\nrun ");
    let ended = up.finish();
    ended.expect_code(0);
    expect_answers(&ended);
    assert_eq!(ended.events_of("stop_started")[0]["reason"], "requested");
    // The locks are free when the command returns.
    let mut up = web.orch(&["up"]);
    up.wait_for_service("service_ready", "web");
    expect(&orch(&web, &["down"]), 0, "has ended with exit code 0");
    up.finish().expect_code(0);

    let project = project(&[("first", 40, 20.0, "")]);
    let mut run = project.orch(&["run"]);
    wait_for_site(&mut run, "site_job_started", "first");
    expect(
        &project.orch_bare(&["down"]).finish(),
        0,
        "has ended with exit code 143",
    );
    let ended = run.finish();
    ended.expect_code(143);
    assert!(ended.stdout.contains("orch run --resume"), "{}", ended.stdout);
}

#[test]
fn the_proxies_of_a_run_are_refreshed_while_its_sites_wait() {
    let configuration = "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"pool_app\"\nconcurrency = 1\n\
         [proxies]\nmin_usable = 0\nrefresh = [{ task = \"pool.refresh\", kwargs = { file = \"live_proxies.json\" } }]\n\
         [sites.shop]\ndispatch = { task = \"pool.scrape\", kwargs = { site = \"{site}\" } }\n\
         [services.slow]\ncommand = [\"sleep\", \"600\"]\nreadiness = { file = \"go\" }\nstart_timeout = \"10m\"\n";
    let project = bookshop::project_with("pool_app", configuration);
    fs::write(project.file("live_proxies.json"), "[]").unwrap();
    let mut run = project.orch(&["run"]);
    run.wait_for_service("service_spawned", "slow");
    ask(
        &project,
        &["refresh", "proxies"],
        1,
        "refused: the sites of the run do not run yet",
    );
    expect(&orch(&project, &["pause"]), 0, "no site is running");
    fs::write(project.file("go"), "").unwrap();
    wait_for_site(&mut run, "site_queued", "shop");
    for _ in 0..2 {
        let refreshed = project.orch_bare(&["refresh", "proxies"]).finish();
        expect(
            &refreshed,
            0,
            "the proxies are being refreshed; the sites go on\nthe proxies were refreshed after ",
        );
    }
    expect(&orch(&project, &["resume"]), 0, "sites begin again");
    let ended = run.finish();
    expect_answers(&ended);
    assert_eq!(ends_of(&ended, "shop"), ["complete"]);
    // The first refresh may be that of the empty pool at the start.
    assert!(
        ended.events_of("proxy_refresh_finished").len() >= 2,
        "{:#?}",
        ended.events
    );
}

#[test]
fn a_worker_and_redis_that_are_restarted_by_request_lose_no_chunk() {
    let project = project(&[("first", 24, 1.0, "retries = 2\nretry_backoff = \"100ms\"")]);
    let mut run = project.orch(&["run"]);
    wait_for_site(&mut run, "site_job_started", "first");
    run.wait_until("work", || lines(&project, "first") > 0);
    for service in ["celery", "redis"] {
        let restarted = project.orch_bare(&["restart", service]).finish();
        expect(
            &restarted,
            0,
            &format!("{service} is being restarted\n{service} is ready after "),
        );
    }
    let ended = run.finish();
    ended.expect_code(0);
    expect_answers(&ended);
    assert_eq!(ends_of(&ended, "first"), ["complete"]);
    assert!(lines(&project, "first") >= 24, "{}", lines(&project, "first"));
}

#[test]
fn the_own_worker_of_a_site_is_restarted_but_not_stopped() {
    let configuration = "[redis]\nport = 0\nmode = \"own\"\n\
         [celery]\napp = \"limits_app\"\nconcurrency = 1\nacks_late = true\n\
         [sites.slow]\nworkers = { concurrency = 1 }\n\
         dispatch = { task = \"limits.dispatch\", kwargs = { site = \"{site}\", job_id = \"{job_id}\", chunks = 12, seconds = 0.5 } }\n\
         [sites.late]\nworkers = { concurrency = 1 }\nafter = [\"slow\"]\n\
         dispatch = { task = \"limits.dispatch\", kwargs = { site = \"{site}\", job_id = \"{job_id}\", chunks = 1, seconds = 0.0 } }\n";
    let project = bookshop::project_with("limits_app", configuration);
    let mut run = project.orch(&["run"]);
    wait_for_site(&mut run, "site_job_started", "slow");
    ask(
        &project,
        &["stop", "celery@slow"],
        1,
        "refused: celery@slow runs only while its site needs it",
    );
    ask(
        &project,
        &["restart", "celery@late"],
        1,
        "refused: celery@late runs only while its site needs it",
    );
    let restarted = project.orch_bare(&["restart", "celery@slow"]).finish();
    expect(
        &restarted,
        0,
        "celery@slow is being restarted\ncelery@slow is ready after ",
    );
    let ended = run.finish();
    ended.expect_code(0);
    expect_answers(&ended);
    assert_eq!(ends_of(&ended, "slow"), ["complete"]);
    assert_eq!(ends_of(&ended, "late"), ["complete"]);
}
