//! Sites that are not healthy while they run: the reports on them, the actions against them, and their effect on other
//! sites, which is none.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::bookshop;
use support::orch::{Ended, Orch, Project};
use support::schedule::pause_until;

const BASE: &str = "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"ailing_app\"\nconcurrency = 4\n";

/// Creates a project in which `sick` has these chunks and keys; `fine` has three good chunks and one that waits for the
/// file `fine.free`.
fn project(sick: &[&str], keys: &str) -> Project {
    let fine = ["fine", "fine", "fine", "stuck"];
    let configuration = [
        BASE,
        &site("sick", sick, keys),
        &site("fine", &fine, "stall_after = \"0s\""),
    ]
    .concat();
    bookshop::project_with("ailing_app", &configuration)
}

fn site(name: &str, chunks: &[&str], keys: &str) -> String {
    format!(
        "[sites.{name}]\n{keys}\ndispatch = {{ task = \"ailing.dispatch\", kwargs = {{ site = \"{{site}}\", \
         job_id = \"{{job_id}}\", chunks = {chunks:?} }} }}\n"
    )
}

fn free(project: &Project, site: &str) {
    fs::write(project.file(&format!("{site}.free")), "").expect("could not free the site");
}

fn times_begun(project: &Project, site: &str) -> usize {
    let begun = fs::read_to_string(project.file(&format!("{site}.begun"))).unwrap_or_default();
    begun.lines().count()
}

fn verdict(orch: &mut Orch<'_>, site: &str, health: &str) -> Value {
    orch.wait_for("a verdict", |event| {
        event["event"] == "site_verdict" && event["site"] == site && event["health"] == health
    })
}

fn end_of<'a>(ended: &'a Ended, site: &str) -> &'a Value {
    let ends = ended.events_of("site_finished");
    ends.into_iter().find(|event| event["site"] == site).expect("its end")
}

/// Asserts that nothing of the site is queued, reserved or running, and something of the other site is.
fn expect_nothing_left_of(project: &Project, site: &str, other: &str) {
    let tasks = project.orch_bare(&["celery", "tasks", "--json"]).finish();
    assert!(!tasks.stdout.contains(&format!("\"{site}-")), "{}", tasks.stdout);
    assert!(tasks.stdout.contains(&format!("\"{other}-")), "{}", tasks.stdout);
}

fn expect_fine(ended: &Ended, project: &Project) {
    assert_eq!(end_of(ended, "fine")["status"], "complete");
    assert_eq!(end_of(ended, "fine")["counts"]["completed_chunks"], 4);
    assert_eq!(times_begun(project, "fine"), 1);
    let verdicts = ended.events_of("site_verdict");
    assert!(verdicts.iter().all(|event| event["site"] == "sick"), "{verdicts:?}");
}

#[test]
fn a_stall_is_told_and_so_is_its_end() {
    let project = project(&["fine", "fine", "stuck", "last"], "stall_after = \"3s\"");
    let mut orch = project.orch(&["run"]);
    let stalled = verdict(&mut orch, "sick", "stalled");
    assert_eq!(stalled["action"], "warn");
    let reason = stalled["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("nothing has happened for ")
            && reason.contains("s (stall_after 3s), 2 of 4 chunks left, 2 tasks"),
        "{reason}"
    );
    assert_eq!(stalled["vitals"]["window"], 2, "{stalled}");
    assert!(stalled["vitals"]["chunk_p95_ms"].is_u64(), "{stalled}");
    free(&project, "sick");
    verdict(&mut orch, "sick", "healthy");
    fs::write(project.file("sick.last"), "").expect("let it end");
    free(&project, "fine");
    let ended = orch.finish();
    ended.expect_code(0);
    assert_eq!(end_of(&ended, "sick")["status"], "complete");
    let verdicts: Vec<&Value> = ended.events_of("site_verdict");
    let reported: Vec<&str> = verdicts.iter().filter_map(|event| event["health"].as_str()).collect();
    assert_eq!(
        reported,
        ["stalled", "healthy"],
        "reported when it changes, and only then"
    );
    assert!(
        ended.stdout.contains("sick: stalled: nothing has happened for "),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("was stalled"), "{}", ended.stdout);
    expect_fine(&ended, &project);
}

#[test]
fn a_stalled_attempt_that_is_cancelled_is_gone_and_a_retry_heals_it() {
    let keys = "stall_after = \"3s\"\non_stalled = \"cancel\"\nretries = 1\nretry_backoff = \"0s\"";
    let project = project(&["fine", "once", "once"], keys);
    let mut orch = project.orch(&["run"]);
    let retrying = orch.wait_for("the retry", |event| event["event"] == "site_retrying");
    let reason = retrying["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("ended because the site is stalled: nothing has happened for "),
        "{reason}"
    );
    orch.wait_for("its end", |event| {
        event["event"] == "site_finished" && event["site"] == "sick"
    });
    expect_nothing_left_of(&project, "sick", "fine");
    free(&project, "fine");
    let ended = orch.finish();
    ended.expect_code(0);
    assert_eq!(end_of(&ended, "sick")["status"], "complete");
    assert_eq!(times_begun(&project, "sick"), 2);
    let verdicts = ended.events_of("site_verdict");
    assert_eq!(verdicts[0]["action"], "cancel", "{verdicts:?}");
    expect_fine(&ended, &project);
}

#[test]
fn a_site_above_its_error_rate_is_told_and_goes_on() {
    let chunks = ["bad", "bad", "bad", "bad", "fine", "stuck"];
    let project = project(&chunks, "max_error_rate = 0.4\nstall_after = \"0s\"");
    let mut orch = project.orch(&["run"]);
    let failing = verdict(&mut orch, "sick", "failing");
    assert_eq!(failing["action"], "warn");
    let reason = failing["reason"].as_str().expect("a reason");
    assert!(
        reason.contains(" of the last ")
            && reason.contains(" chunks failed (")
            && reason.contains("more than max_error_rate 40 %"),
        "{reason}"
    );
    assert_eq!(fs::exists(project.file("sick.free")).ok(), Some(false));
    free(&project, "sick");
    free(&project, "fine");
    let ended = orch.finish();
    ended.expect_code(1);
    let end = end_of(&ended, "sick")["reason"].as_str().expect("why").to_owned();
    assert!(end.starts_with("the chord failed"), "its own end, not orch's: {end}");
    expect_fine(&ended, &project);
}

#[test]
fn a_site_above_its_error_rate_that_is_to_fail_is_gone_and_not_retried() {
    // Ten failures are enough for the verdict; the chunks behind them must be removed.
    let mut chunks = vec!["bad"; 10];
    chunks.extend(vec!["stuck"; 20]);
    let keys = "max_error_rate = 0.3\non_failing = \"fail\"\nretries = 3\nretry_backoff = \"0s\"";
    let project = project(&chunks, keys);
    let mut orch = project.orch(&["run"]);
    let end = orch.wait_for("its end", |event| {
        event["event"] == "site_finished" && event["site"] == "sick"
    });
    assert_eq!(end["status"], "failed");
    let reason = end["reason"].as_str().expect("why");
    assert!(
        reason.starts_with(
            "ended because the site is failing: 10 of the last 10 chunks failed (100 %, more than max_error_rate 30 %)"
        ),
        "{reason}"
    );
    expect_nothing_left_of(&project, "sick", "fine");
    free(&project, "fine");
    let ended = orch.finish();
    ended.expect_code(1);
    assert_eq!(times_begun(&project, "sick"), 1, "it is not tried again");
    let directory = ended.events[0]["directory"].as_str().expect("a directory");
    let summary = fs::read_to_string(format!("{directory}/summary.json")).expect("summary.json");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["sites"][0]["health"], "failing");
    expect_fine(&ended, &project);
}

#[test]
fn sites_that_ask_for_fresh_proxies_share_one_refresh() {
    let sick = ["bad", "bad", "bad", "bad", "stuck"];
    let keys = "max_error_rate = 0.3\non_failing = \"refresh_proxies\"";
    let configuration = [
        BASE,
        "[proxies]\nmin_usable = 0\nrefresh = [{ task = \"ailing.refresh\", kwargs = { file = \"live_proxies.json\" } }]\n",
        &site("one", &sick, keys),
        &site("two", &sick, keys),
    ]
    .concat();
    let project = bookshop::project_with("ailing_app", &configuration);
    let mut orch = project.orch(&["run"]);
    for site in ["one", "two"] {
        let failing = verdict(&mut orch, site, "failing");
        assert_eq!(failing["action"], "refresh_proxies");
    }
    orch.wait_for("the refresh", |event| event["event"] == "proxy_refresh_finished");
    free(&project, "one");
    free(&project, "two");
    let ended = orch.finish();
    ended.expect_code(1);
    assert_eq!(ended.events_of("proxy_refresh_started").len(), 1);
    let refreshes = fs::read_to_string(project.file("refreshes")).expect("it was refreshed");
    assert_eq!(refreshes.lines().count(), 1, "{refreshes}");
    for site in ["one", "two"] {
        let end = end_of(&ended, site)["reason"].as_str().expect("why").to_owned();
        assert!(end.starts_with("the chord failed"), "it went on to its own end: {end}");
        assert_eq!(times_begun(&project, site), 1);
    }
}

/// Creates a project with `sick` alone, which is quick in its first run and waits for `sick.free` in the second.
fn quick_once(keys: &str) -> Project {
    let configuration = [BASE, &site("sick", &["fine", "fine", "later"], keys)].concat();
    let project = bookshop::project_with("ailing_app", &configuration);
    let first = project.orch(&["run"]).finish();
    first.expect_code(0);
    assert_eq!(first.events_of("site_verdict").len(), 0);
    project
}

#[test]
fn a_site_that_takes_longer_than_it_did_is_slow() {
    let project = quick_once("slow_factor = 1");
    let mut orch = project.orch(&["run"]);
    let slow = verdict(&mut orch, "sick", "slow");
    let reason = slow["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("it runs for ")
            && reason.contains(" (slow_factor 1), ")
            // In the first second progress is not read, and perhaps no chunk has ended.
            && (reason.contains(" of 3 chunks left; a chunk takes ") || reason.contains(", 3 chunks to do")),
        "{reason}"
    );
    free(&project, "sick");
    let ended = orch.finish();
    ended.expect_code(0);
    assert_eq!(ended.events_of("site_verdict").len(), 1, "it stays slow");
    assert!(ended.stdout.contains("was slow"), "{}", ended.stdout);
}

#[test]
fn an_automatic_timeout_is_three_times_what_the_site_took() {
    let project = quick_once("timeout = \"auto\"\ntimeout_min = \"3s\"\nslow_factor = 0");
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    let end = end_of(&ended, "sick");
    let reason = end["reason"].as_str().expect("why");
    assert!(
        reason.starts_with("out of time after ")
            && reason.contains("s (timeout \"auto\", it usually takes ")
            && reason.contains(": the chord has not ended"),
        "{reason}"
    );
    let elapsed = end["elapsed_ms"].as_u64().expect("a time");
    assert!((3000..40_000).contains(&elapsed), "{end}");
}

#[test]
fn an_automatic_timeout_without_earlier_runs_goes_by_chunks_and_slots() {
    // 3 chunks in 4 slots: one round.
    let keys = "timeout = \"auto\"\ntimeout_min = \"1s\"\ntime_per_chunk = \"2s\"\nbuffer = 2.0";
    let configuration = [BASE, &site("sick", &["fine", "fine", "stuck"], keys)].concat();
    let project = bookshop::project_with("ailing_app", &configuration);
    let ended = project.orch(&["run"]).finish();
    ended.expect_code(1);
    let started = ended.events_of("site_job_started");
    assert_eq!(started[0]["timeout_ms"], 4000, "{started:?}");
    let reason = end_of(&ended, "sick")["reason"].as_str().expect("why");
    assert!(
        reason.contains("(timeout \"auto\"): the chord has not ended"),
        "{reason}"
    );
}

#[test]
fn waiting_behind_others_is_no_stall() {
    // `crowd` fills all slots and the queue; `gate` ends by timeout, and only then the tasks of `sick` are put behind
    // them.
    let configuration = [
        BASE,
        &site("crowd", &["stuck"; 8], "stall_after = \"1s\""),
        &site("gate", &["stuck"], "timeout = \"3s\""),
        &site(
            "sick",
            &["fine"],
            "after_finished = [\"gate\"]\nstall_after = \"1s\"\ntimeout = \"8s\"",
        ),
    ]
    .concat();
    let project = bookshop::project_with("ailing_app", &configuration);
    let mut orch = project.orch(&["run"]);
    let stalled = verdict(&mut orch, "crowd", "stalled");
    assert!(
        stalled["reason"]
            .as_str()
            .is_some_and(|reason| reason.ends_with("tasks run")),
        "{stalled}"
    );
    orch.wait_for("its end", |event| {
        event["event"] == "site_finished" && event["site"] == "sick"
    });
    free(&project, "crowd");
    let ended = orch.finish();
    ended.expect_code(1);
    assert_eq!(end_of(&ended, "crowd")["status"], "complete");
    let reason = end_of(&ended, "sick")["reason"].as_str().expect("why");
    assert_eq!(reason, "out of time: the dispatch task has not ended");
    let verdicts = ended.events_of("site_verdict");
    assert!(verdicts.iter().all(|event| event["site"] == "crowd"), "{verdicts:?}");
}

#[test]
fn quiet_while_the_worker_does_not_answer_is_no_stall() {
    let liveness = "liveness = { interval = \"1s\", timeout = \"1s\", failures = 6 }\n";
    let configuration = [
        BASE,
        liveness,
        &site("sick", &["fine", "stuck"], "stall_after = \"2s\""),
    ]
    .concat();
    let project = bookshop::project_with("ailing_app", &configuration);
    let mut orch = project.orch(&["run"]);
    let spawned = orch.wait_for_service("service_spawned", "celery");
    orch.wait_for("a job", |event| event["event"] == "site_job_started");
    let worker = i32::try_from(spawned["pid"].as_i64().expect("a pid")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), Signal::SIGSTOP).expect("could not stop the worker");
    let stopped_at = orch
        .events()
        .last()
        .and_then(|event| event["elapsed"].as_f64())
        .expect("a time");
    let dead = orch.wait_for_service("service_restarting", "celery");
    let dead_at = dead["elapsed"].as_f64().expect("a time");
    assert!(dead_at - stopped_at > 4.0, "long enough for a stall: {dead}");
    free(&project, "sick");
    orch.signal(Signal::SIGINT);
    let ended = orch.finish();
    let verdicts = ended.events_of("site_verdict");
    let stalled = verdicts.iter().filter(|event| event["health"] == "stalled");
    let during_the_stop: Vec<_> = stalled
        .filter(|event| {
            event["elapsed"]
                .as_f64()
                .is_some_and(|at| (stopped_at..dead_at).contains(&at))
        })
        .collect();
    assert!(during_the_stop.is_empty(), "{during_the_stop:?}");
}

#[test]
fn quiet_while_orch_itself_stands_still_is_no_stall() {
    let asleep = Duration::from_secs(14);
    let configuration = [BASE, &site("sick", &["fine", "stuck"], "stall_after = \"3s\"")].concat();
    let project = bookshop::project_with("ailing_app", &configuration);
    let mut orch = project.orch(&["run"]);
    orch.wait_for("all that will happen", |event| {
        event["event"] == "site_progressed" && event["counts"]["completed_chunks"] == 1
    });
    orch.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    pause_until(stopped + asleep);
    orch.signal(Signal::SIGCONT);
    let stalled = verdict(&mut orch, "sick", "stalled");
    let quiet = Duration::from_millis(stalled["vitals"]["quiet_ms"].as_u64().expect("a time"));
    assert!(quiet < asleep / 2, "it was asleep for {asleep:?}: {stalled}");
    free(&project, "sick");
    orch.finish().expect_code(0);
}
